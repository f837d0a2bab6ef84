"""The PyTorch networks: their arrays and their cost are the table's, and they learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.cost import forward_macs
from frameworks.common.networks import buffers, build, parameters

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_names_shapes_and_cost_are_the_tables(run_program: Callable[..., dict[str, np.ndarray]]) -> None:
    """Every network with every head; the engine counts its own multiply-accumulates."""
    found = json.loads(str(run_program("names")["found"]))

    for model, made in found.items():
        network, head = model.split("/")
        layers = build(network, head, 128, 0.4)
        expected = {spec.name: [list(spec.shape), True] for spec in parameters(layers)}
        expected.update({name: [list(shape), False] for name, shape in buffers(layers).items()})
        assert expected == made["arrays"], model
        assert forward_macs(layers) == made["macs"], model
    assert 15 == len(found)


@pytest.mark.parametrize(("network", "head"), [("mobilefacenet", "GDC"), ("iresnet18", "E")])
def test_the_loss_goes_down_on_one_batch(
    network: str, head: str, case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    found = run_program("training", case_file(network, head, dropout=0.4 if head == "E" else 0.0), "6")

    assert found["losses"][-1] < 0.5 * found["losses"][0]
    assert np.abs(found["array/head.embedding_bn.running_mean"]).max() > 0


def test_the_layout_in_memory_changes_no_loss(
    case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    last, first = (
        run_program("training", case_file(options={"channels_last": one}), "1")["losses"]
        for one in (True, False)
    )

    assert last == pytest.approx(first, rel=1e-5)
