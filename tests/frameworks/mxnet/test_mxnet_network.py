"""The Gluon networks: their arrays are the table's, and they learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.networks import buffers, build, parameters

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FIXED_GAMMA = "head.embedding_bn.weight"


def test_names_and_shapes_are_the_tables(run_program: Callable[..., dict[str, np.ndarray]]) -> None:
    """Every network with every head; the only other array is the fixed gamma."""
    found = json.loads(str(run_program("names")["names"]))
    for model, arrays in found.items():
        network, head = model.split("/")
        layers = build(network, head, 128, 0.4)
        expected = {spec.name: [list(spec.shape), "write"] for spec in parameters(layers)}
        expected.update({name: [list(shape), "null"] for name, shape in buffers(layers).items()})
        assert {**expected, FIXED_GAMMA: [[128], "null"]} == arrays, model
    assert 15 == len(found)


@pytest.mark.parametrize(("network", "head"), [("mobilefacenet", "GDC"), ("iresnet18", "E")])
def test_the_loss_goes_down_on_one_batch(
    network: str, head: str, case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    """The loss read one step behind is the one read at once, and the fixed gamma stays 1."""
    found = run_program("training", case_file(network, head, dropout=0.4 if head == "E" else 0.0), "6")

    losses = found["at_once"]
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(found["behind"], losses, rtol=1e-3)
    np.testing.assert_array_equal(np.ones(128), found[f"array/{FIXED_GAMMA}"])
    assert 0 < np.abs(found["array/head.embedding_bn.running_mean"]).max()
