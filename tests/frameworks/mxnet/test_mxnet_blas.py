"""The choice of kernels for the OpenBLAS of old MXNet wheels."""

from __future__ import annotations

import pytest

from frameworks.common import blas as common_blas
from frameworks.mxnet.blas import choose_core


@pytest.fixture(autouse=True)
def haswell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_blas, "best_core", lambda _info: "Haswell")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.8.0.post0", {"OPENBLAS_CORETYPE": "Haswell"}),
        ("1.9.0", {}),
        ("1.9.1", {}),
        ("2.0.0b1", {}),
        ("2.0rc1", {}),
        (None, {}),
    ],
)
def test_kernels_are_chosen_where_openblas_chooses_badly(
    version: str | None, expected: dict[str, str]
) -> None:
    environment: dict[str, str] = {}
    choose_core(environment, version)
    assert expected == environment


def test_what_the_user_has_chosen_stays() -> None:
    environment = {"OPENBLAS_CORETYPE": "Zen"}
    choose_core(environment, "1.8.0.post0")
    assert {"OPENBLAS_CORETYPE": "Zen"} == environment
