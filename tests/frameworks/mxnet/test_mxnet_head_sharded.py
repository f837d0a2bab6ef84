"""The split classifier against the float64 definition: loss, gradients and the update of what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlperf.plan.case import Loss
from frameworks.common import case as program_case
from frameworks.common.case import read_case
from frameworks.common.margin import class_range, margin_softmax
from frameworks.common.sampling import sample_size

Arrays = dict[str, np.ndarray]
RunHead = Callable[..., tuple[Arrays, Arrays, program_case.Case]]

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DEVICES, BATCH = 2, 4
RATES = (2e-4, 1e-4)
LOSSES = {
    "arcface": Loss(kind="arcface", m2=0.5),
    "cosface": Loss(kind="cosface", m3=0.4),
    "combined": Loss(kind="combined", m1=1.1, m2=0.3, m3=0.2, scale=32.0),
    "softmax": Loss(kind="softmax"),
}


@pytest.fixture
def run_head(
    parallel_case: Callable[..., Path],
    run_ranks: Callable[..., list[str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> RunHead:
    """Run the program on random rows; its inputs, its outputs and the case."""

    def run(classes: int, batch: int, **changes: object) -> tuple[Arrays, Arrays, program_case.Case]:
        path = parallel_case("head", devices=DEVICES, num_classes=classes, batch_size=batch, **changes)
        random = np.random.default_rng(2)
        inputs = {
            "embeddings": random.standard_normal((DEVICES * batch, 128)).astype(np.float32),
            "weight": (random.standard_normal((classes, 128)) * 0.01).astype(np.float32),
            "labels": random.integers(0, classes, DEVICES * batch),
            "rates": np.array(RATES),
        }
        losses = json.dumps({name: loss.model_dump() for name, loss in LOSSES.items()})
        np.savez(tmp_path / "head.npz", **inputs, losses=losses)
        outputs = tmp_path / "found.npz"
        program = request.path.parent / "programs" / "head_sharded.py"
        run_ranks(program, path, tmp_path / "head.npz", outputs, ranks=1, devices=DEVICES)
        with np.load(outputs) as arrays:
            return inputs, dict(arrays), read_case(str(path))

    return run


def stepped(
    weight: np.ndarray, velocity: np.ndarray, gradient: np.ndarray, rate: float, case: program_case.Case
) -> None:
    """SGD in place, the definition of docs/workloads.md."""
    optimizer = case.optimizer
    coupled = optimizer.weight_decay if optimizer.decay == "coupled" else 0.0
    velocity *= optimizer.momentum
    velocity -= rate * (gradient + coupled * weight)
    weight += velocity - rate * (optimizer.weight_decay - coupled) * weight


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_model_parallel_matches_the_definition(decay: str, run_head: RunHead) -> None:
    optimizer = {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.1, "decay": decay, "no_decay": []}
    inputs, found, case = run_head(51, BATCH, parallelism="model", workload={"optimizer": optimizer})

    for name, loss in LOSSES.items():
        weight = inputs["weight"].astype(np.float64)
        velocity = np.zeros_like(weight)
        for step, rate in enumerate(RATES):
            of_loss = program_case.Loss(**loss.model_dump())
            expected = margin_softmax(inputs["embeddings"], weight, inputs["labels"], of_loss)
            np.testing.assert_allclose(found[f"{name}/{step}/loss"], expected.loss, rtol=1e-5, atol=1e-5)
            assert_close(found[f"{name}/{step}/by_embeddings"], expected.embedding_gradient, f"{name} {step}")
            assert_close(found[f"{name}/{step}/by_weight"], expected.weight_gradient, f"{name} {step}")
            stepped(weight, velocity, expected.weight_gradient, rate, case)
            assert_close(found[f"{name}/{step}/weight"], weight, f"{name} {step}")


def assert_close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    # float32 logits up to 64 carry 4e-6, which the softmax makes a relative error of the gradient
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=5e-5 * np.abs(expected).max(), err_msg=what)


def test_partial_fc_matches_the_definition_on_its_samples(
    run_head: RunHead,
) -> None:
    """A batch that names more classes of a device than it samples is an error."""
    inputs, found, case = run_head(1000, 64, parallelism="partial_fc", sample_ratio=0.05)

    shares = [class_range(1000, DEVICES, rank) for rank in range(DEVICES)]
    trained = found["arcface/0/by_weight"].any(axis=1)
    index = np.flatnonzero(trained)
    sizes = [np.count_nonzero(trained[start:stop]) for start, stop in shares]
    assert [sample_size(case, rank) for rank in range(DEVICES)] == sizes
    labels = np.searchsorted(index, inputs["labels"])
    np.testing.assert_array_equal(inputs["labels"], index[labels])
    loss = program_case.Loss(**LOSSES["arcface"].model_dump())
    expected = margin_softmax(inputs["embeddings"], inputs["weight"][index], labels, loss)
    np.testing.assert_allclose(found["arcface/0/loss"], expected.loss, rtol=1e-5, atol=1e-5)
    assert_close(found["arcface/0/by_embeddings"], expected.embedding_gradient, "by embeddings")
    assert_close(found["arcface/0/by_weight"][index], expected.weight_gradient, "by weight")
    weight = inputs["weight"].astype(np.float64)
    rows = weight[index]
    stepped(rows, np.zeros_like(rows), expected.weight_gradient, RATES[0], case)
    assert_close(found["arcface/0/weight"][index], rows, "sampled rows")
    np.testing.assert_array_equal(inputs["weight"][~trained], found["arcface/0/weight"][~trained])
    assert "a batch names 128 classes of a rank that samples 98; take a larger sample_ratio" == found["error"]
