"""Which MXNet wheels have an OpenBLAS that chooses the wrong kernels."""

from __future__ import annotations

import pytest

from frameworks.mxnet import openblas_chooses_badly


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.8.0.post0", True), ("1.9.0", False), ("1.9.1", False), ("2.0.0b1", False), (None, False)],
)
def test_only_wheels_older_than_1_9_need_a_choice_of_kernels(version: str | None, expected: bool) -> None:  # noqa: FBT001
    assert expected == openblas_chooses_badly(version)
