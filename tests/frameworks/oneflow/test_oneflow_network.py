"""The OneFlow networks: their arrays are the table's, and they learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frameworks.common.networks import buffers, build, parameters

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_names_and_shapes_are_the_tables(run_program: Callable[..., dict[str, np.ndarray]]) -> None:
    """Every network with every head; nothing else is trained."""
    found = json.loads(str(run_program("names")["names"]))
    for model, module in found.items():
        network, head = model.split("/")
        layers = build(network, head, 128, 0.4)
        specs = parameters(layers)
        expected = {spec.name: (list(spec.shape), True) for spec in specs}
        expected.update({name: (list(shape), False) for name, shape in buffers(layers).items()})
        assert expected == {name: (shape, trained) for name, shape, trained in module["arrays"]}, model
        assert len(specs) == module["trained"], model
    assert 15 == len(found)


@pytest.mark.parametrize(("network", "head"), [("mobilefacenet", "GDC"), ("iresnet18", "E")])
def test_the_loss_goes_down_on_one_batch(
    network: str, head: str, case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    """Every array changes, and a step is complete when `wait` returns: little is left to wait for."""
    case = case_file(network, head, dropout=0.4 if head == "E" else 0.0)
    found = run_program("training", case, "6", "at_once")

    losses = found["losses"]
    assert losses[-1] < 0.5 * losses[0]
    assert found["rest"].min() < 0.1
    for key in found:
        if key.startswith("before/"):
            assert (found[key] != found[key.replace("before", "after")]).any(), key


def test_a_loss_read_one_step_behind_is_the_one_read_at_once(
    case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    at_once = run_program("training", case_file(), "3", "at_once")["losses"]
    behind = run_program("training", case_file(), "3", "behind")["losses"]
    np.testing.assert_allclose(behind, at_once, rtol=1e-6)
