"""The update rule in a graph, against the formula in numpy, through changes of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlperf.plan.case import Optimizer, Schedule
from frameworks.common import case as program_case
from frameworks.common.schedule import learning_rate

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# A scale above 1 too: OneFlow's own constant schedule refuses those.
SCHEDULE = Schedule(learning_rate=0.25, steps=(2, 3, 6), scales=(0.1, 2.0, 0.01))
STEPS = 8


def expected_rates() -> list[float]:
    schedule = program_case.Schedule(SCHEDULE.learning_rate, SCHEDULE.steps, SCHEDULE.scales)
    return [learning_rate(schedule, iteration) for iteration in range(STEPS)]


@pytest.mark.parametrize(
    ("decay", "momentum", "loss"),
    [
        ("coupled", 0.9, "plain"),
        ("coupled", 0.0, "plain"),
        ("decoupled", 0.9, "plain"),
        ("decoupled", 0.0, "plain"),
        ("coupled", 0.9, "scaled"),
    ],
)
def test_sgd_follows_the_formula(
    decay: str,
    momentum: float,
    loss: str,
    case_file: Callable[..., Path],
    run_program: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    """The rate is inside the momentum; the weight decays and the bias does not.

    The dynamic loss scale of fp16 is divided out first.
    """
    random = np.random.default_rng(4)
    inputs = {
        "weight": random.standard_normal((3, 4)).astype(np.float32),
        "bias": random.standard_normal(4).astype(np.float32),
        "x": random.standard_normal((STEPS, 2, 3)).astype(np.float32),
    }
    inputs_file = tmp_path / "inputs.npz"
    np.savez(inputs_file, **inputs)
    optimizer = Optimizer.model_validate({"momentum": momentum, "weight_decay": 0.2, "decay": decay})

    found = run_program("sgd", case_file(optimizer=optimizer, schedule=SCHEDULE), inputs_file, loss)

    weight, bias = inputs["weight"].astype(np.float64), inputs["bias"].astype(np.float64)
    velocity, bias_velocity = np.zeros_like(weight), np.zeros_like(bias)
    coupled, decoupled = (0.2, 0.0) if decay == "coupled" else (0.0, 0.2)
    for step, (rate, x) in enumerate(zip(expected_rates(), inputs["x"], strict=True)):
        output_gradient = 2 * (x @ weight + bias) / 8
        velocity = momentum * velocity - rate * (x.T @ output_gradient + coupled * weight)
        weight = weight + velocity - rate * decoupled * weight
        bias_velocity = momentum * bias_velocity - rate * output_gradient.sum(axis=0)
        bias = bias + bias_velocity
        np.testing.assert_allclose(found["weights"][step], weight, rtol=1e-5, atol=2e-6, err_msg=str(step))
        np.testing.assert_allclose(found["biases"][step], bias, rtol=1e-5, atol=2e-6, err_msg=str(step))
    np.testing.assert_allclose(found["rates"], expected_rates(), rtol=1e-4)
