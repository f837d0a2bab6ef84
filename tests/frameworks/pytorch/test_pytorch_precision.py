"""fp16 and bf16 train on CPU too; a step that overflows is skipped; TF32 is set so that it can be read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_a_step_that_overflows_changes_nothing_later_ones_follow_the_formula_and_tf32_can_be_read(
    run_program: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Where torch leaves a momentum buffer as it was in memory if its first step is skipped."""
    found = run_program("overflow")

    for decay in ("coupled", "decoupled"):
        weight, velocity = 1.0, 0.0
        assert (found[f"{decay}/1"] == 1).all()
        assert found[f"{decay}/1/scale"] == 2.0**15
        coupled, decoupled = (0.5, 0.0) if decay == "coupled" else (0.0, 0.5)
        for step in (2, 3):
            velocity = 0.9 * velocity - 0.1 * (2.0 + coupled * weight)
            weight = weight + velocity - 0.1 * decoupled * weight
            np.testing.assert_allclose(found[f"{decay}/{step}"], weight, rtol=1e-6)

    # Reading the older names of TF32 raises where the newer ones were set.
    assert [False, False, False] == found["tf32/False"].tolist()
    assert [True, True, True] == found["tf32/True"].tolist()


@pytest.mark.parametrize(("precision", "steps", "batch_size"), [("bf16", 6, 4), ("fp16", 12, 2)])
def test_half_precision_learns_on_cpu(
    precision: str,
    steps: int,
    batch_size: int,
    case_file: Callable[..., Path],
    run_python: Callable[..., str],
    request: pytest.FixtureRequest,
) -> None:
    """fp16 skips some steps first, until its scale is found: their losses are equal to the last bit."""
    path = case_file(batch_size=batch_size)
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": precision}))

    told = run_python(request.path.parent / "programs/repeated.py", path, str(steps))

    losses = [float(line) for line in told.splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    assert (losses[0] == losses[1]) == (precision == "fp16")
