"""The update rule, on the gradients of a real training, against the formula in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dlperf.plan.case import Optimizer, Schedule
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import build, parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCHEDULE = Schedule(learning_rate=0.1, steps=(1, 2), scales=(0.5, 0.01))
RATES = (0.1, 0.05, 0.001)


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(weight_decay=0.1),
        Optimizer(weight_decay=0.1, decay="decoupled"),
        Optimizer(weight_decay=0.1, no_decay=("bias", "batch_norm", "prelu")),
        Optimizer(weight_decay=0.1, decay="decoupled", no_decay=("batch_norm",)),
        Optimizer(weight_decay=0.1, momentum=0.0),
    ],
    ids=["coupled", "decoupled", "coupled-no_decay", "decoupled-no_decay", "no_momentum"],
)
def test_sgd_follows_the_formula(
    optimizer: Optimizer,
    case_file: Callable[..., Path],
    run_program: Callable[..., dict[str, np.ndarray]],
) -> None:
    found = run_program("steps", case_file(optimizer=optimizer, schedule=SCHEDULE, batch_size=2))

    kinds = {spec.name: spec.kind for spec in parameters(build("mobilefacenet", "GDC", 128, 0.0))}
    for name in (*kinds, CLASSIFIER):
        decay = 0.0 if kinds.get(name) in optimizer.no_decay else optimizer.weight_decay
        coupled, decoupled = (decay, 0.0) if optimizer.decay == "coupled" else (0.0, decay)
        weight = found[f"0/before/{name}"].astype(np.float64)
        velocity = np.zeros_like(weight)
        for step, rate in enumerate(RATES):
            gradient = found[f"{step}/gradient/{name}"] + coupled * weight
            velocity = optimizer.momentum * velocity - rate * gradient
            weight = weight + velocity - rate * decoupled * weight
            scale = max(1.0, np.abs(velocity).max())
            np.testing.assert_allclose(
                found[f"{step}/after/{name}"], weight, rtol=1e-5, atol=1e-6 * scale, err_msg=f"{name} {step}"
            )
