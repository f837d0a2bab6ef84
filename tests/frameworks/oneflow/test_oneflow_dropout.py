"""Dropout in a graph of two ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.engine
@pytest.mark.slow
def test_every_rank_and_every_step_has_its_own_mask(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], tmp_path: Path
) -> None:
    program = __file__.replace("test_oneflow_dropout.py", "programs/dropout.py")
    run_ranks(parallel_case("dropout"), program, tmp_path / "found")
    calls = np.concatenate([np.load(tmp_path / f"found.{rank}.npz")["calls"] for rank in range(2)])

    masks = [(left > 0).ravel() for left in calls]
    for left, mask in zip(calls, masks, strict=True):
        assert set(left.ravel()) == {np.float32(0), np.float32(1) / np.float32(0.6)}
        assert 0.6 == pytest.approx(mask.mean(), abs=0.01)
    agreement = [np.mean(masks[one] == masks[other]) for one in range(4) for other in range(one)]
    np.testing.assert_allclose(agreement, 0.6**2 + 0.4**2, atol=0.01)
