"""The update rule, on the gradients of a real training, against the formula in numpy.

OneFlow's graph does not show gradients: see oneflow/test_oneflow_optimizer.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines import JAX, MXNET, PYTORCH

from dlperf.plan.case import Optimizer, Schedule
from frameworks.common.initial import CLASSIFIER
from frameworks.common.networks import build, parameters

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SCHEDULE = Schedule(learning_rate=0.1, steps=(1, 2), scales=(0.5, 0.01))
RATES = (0.1, 0.05, 0.001)
OPTIMIZERS = {
    "coupled": Optimizer(weight_decay=0.1),
    "decoupled": Optimizer(weight_decay=0.1, decay="decoupled"),
    "coupled-no_decay": Optimizer(weight_decay=0.1, no_decay=("bias", "batch_norm", "prelu")),
    "decoupled-no_decay": Optimizer(weight_decay=0.1, decay="decoupled", no_decay=("batch_norm",)),
    "no_momentum": Optimizer(weight_decay=0.1, momentum=0.0),
}


@pytest.mark.parametrize("engine", [JAX, MXNET, PYTORCH], ids=["jax", "mxnet", "pytorch"])
def test_sgd_follows_the_formula(
    case_file: Callable[..., Path], run_program: Callable[..., dict[str, np.ndarray]]
) -> None:
    cases = []
    for name, optimizer in OPTIMIZERS.items():
        path = case_file(optimizer=optimizer, schedule=SCHEDULE, batch_size=2)
        cases.append(path.rename(path.with_name(f"{name}.json")))

    found = run_program("steps", *cases)

    kinds = {spec.name: spec.kind for spec in parameters(build("mobilefacenet", "GDC", 128, 0.0))}
    for which, optimizer in OPTIMIZERS.items():
        for name in (*kinds, CLASSIFIER):
            decay = 0.0 if kinds.get(name) in optimizer.no_decay else optimizer.weight_decay
            coupled, decoupled = (decay, 0.0) if optimizer.decay == "coupled" else (0.0, decay)
            weight = found[f"{which}/0/before/{name}"].astype(np.float64)
            velocity = np.zeros_like(weight)
            for step, rate in enumerate(RATES):
                gradient = found[f"{which}/{step}/gradient/{name}"] + coupled * weight
                velocity = optimizer.momentum * velocity - rate * gradient
                weight = weight + velocity - rate * decoupled * weight
                np.testing.assert_allclose(
                    found[f"{which}/{step}/after/{name}"],
                    weight,
                    rtol=1e-5,
                    atol=1e-6 * max(1.0, np.abs(velocity).max()),
                    err_msg=f"{which} {name} {step}",
                )
