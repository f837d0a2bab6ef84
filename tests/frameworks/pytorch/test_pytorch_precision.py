"""fp16 and bf16 train on CPU too; a step that overflows is skipped; TF32 is set so that it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_a_step_that_overflows_changes_nothing_later_ones_follow_the_formula_and_tf32_can_be_read(
    run_program: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Torch leaves a momentum buffer uninitialised if its first step is skipped."""
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


def test_half_precision_learns_on_cpu(run_program: Callable[..., dict[str, np.ndarray]]) -> None:
    found = run_program("half")

    for precision, maps in (("fp16", "torch.float16"), ("bf16", "torch.bfloat16")):
        losses = found[f"{precision}/losses"]
        assert losses[-1] < 0.5 * losses[0]
        assert [maps] == found[f"{precision}/maps"]
    assert 1 < found["fp16/scale"] <= 2.0**16
    assert 1 == found["bf16/scale"]


def test_a_network_in_fp16_has_the_loss_of_fp32_and_skips_its_first_step(
    case_file: Callable[..., Path], run_python: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    """With so few images its gradients overflow at torch's initial scale."""
    path, program = case_file(batch_size=2), request.path.parent / "programs/repeated.py"
    wide = float(run_python(program, path, "1"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": "fp16"}))

    losses = [float(line) for line in run_python(program, path, "2").splitlines()]

    assert losses[0] == losses[1] == pytest.approx(wide, rel=1e-2)
