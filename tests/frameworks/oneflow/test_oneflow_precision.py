"""16-bit networks, as far as a CPU without 16-bit kernels shows what OneFlow does with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FLOAT = 2  # OneFlow's number of float32


def test_gradients_of_float32_parameters_are_added_up_in_float32(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], request: pytest.FixtureRequest
) -> None:
    """They are cast back first, as sums of the ranks' parts, and only then added up for the optimizer."""
    path = parallel_case("half", parallelism="partial_fc", sample_ratio=0.1, precision="fp16")

    first, second = run_ranks(path, request.path.parent / "programs/half.py", path)

    assert first == second
    assert {
        "norm_dtype": "oneflow.float32",  # as OneFlow refuses 16-bit maps on CPU
        "loss_scale": "static 1024",
        "operator": "cast",
        "dtype": FLOAT,
        "before": "partial_sum_parallel",
        "after": "partial_sum_parallel",
        "optimizer": "broadcast_parallel",
    } == json.loads(first)
