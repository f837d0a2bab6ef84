"""Every engine's margin heads against the float64 definition, by its `programs/head.py`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines import JAX, MXNET, ONEFLOW, PYTORCH

from dlperf.plan.case import Loss
from frameworks.common import case as program_case
from frameworks.common.margin import margin_softmax

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LOSSES = {
    "arcface": Loss(kind="arcface", m2=0.5),
    "cosface": Loss(kind="cosface", m3=0.4),
    "combined": Loss(kind="combined", m1=1.1, m2=0.3, m3=0.2, scale=32.0),
    "softmax": Loss(kind="softmax"),
}


@pytest.mark.parametrize(
    ("engine", "forms"),
    [
        (JAX, ("whole", "sharded")),
        (MXNET, ("whole",)),
        (ONEFLOW, ("whole",)),
        (PYTORCH, ("whole", "sharded")),
    ],
    ids=["jax", "mxnet", "oneflow", "pytorch"],
)
def test_losses_and_gradients_match_the_definition(
    forms: tuple[str, ...], run_program: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """For random rows, and for rows parallel and opposite to their class's weight, which are clamped."""
    random = np.random.default_rng(2)
    embeddings = random.standard_normal((6, 16)).astype(np.float32)
    weight = (random.standard_normal((10, 16)) * 0.01).astype(np.float32)
    labels = np.array([0, 9, 3, 3, 7, 8])
    # Along an axis, so that the cosines are 1 and -1 exactly.
    embeddings[4:], weight[7:9] = 0, 0
    embeddings[4, 5] = embeddings[5, 2] = 2
    weight[7, 5], weight[8, 2] = 0.5, -0.5
    inputs = tmp_path / "inputs.npz"
    as_json = json.dumps({name: loss.model_dump() for name, loss in LOSSES.items()})
    np.savez(inputs, embeddings=embeddings, weight=weight, labels=labels, losses=as_json)

    found = run_program("head", inputs)

    for name, form in itertools.product(LOSSES, forms):
        loss = program_case.Loss(**LOSSES[name].model_dump())
        expected = margin_softmax(embeddings, weight, labels, loss)
        np.testing.assert_allclose(found[f"{name}/{form}/loss"], expected.loss, rtol=1e-5)
        for part in ("embedding_gradient", "weight_gradient"):
            gradient = getattr(expected, part)
            # float32 logits up to 64 carry 4e-6, which the softmax makes a relative error of the gradient
            tolerance = 2e-5 * np.abs(gradient).max()
            np.testing.assert_allclose(
                found[f"{name}/{form}/{part}"], gradient, rtol=1e-4, atol=tolerance, err_msg=f"{name} {part}"
            )
