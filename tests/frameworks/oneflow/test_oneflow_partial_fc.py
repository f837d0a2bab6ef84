"""Partial FC on two ranks against numpy: what is sampled, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frameworks.common.case import Case, Rank, read_case
from frameworks.common.margin import held_classes, margin_softmax
from frameworks.common.sampling import sample_size, sampled_classes, sampling_stream
from frameworks.common.schedule import learning_rate

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS, CLASSES, DECAY = 4, 319, 5.0
ARCFACE = {"kind": "arcface", "scale": 64.0, "m1": 1.0, "m2": 0.5, "m3": 0.0}
COSFACE = {"kind": "cosface", "scale": 64.0, "m1": 1.0, "m2": 0.0, "m3": 0.4}


@pytest.fixture
def sampled(
    parallel_case: Callable[..., Path], run_ranks: Callable[..., list[str]], tmp_path: Path
) -> Callable[..., tuple[Case, list[dict[str, np.ndarray]]]]:
    """Train a small classifier with a tenth of its classes: the case, and what each rank computed."""

    def run(decay: str, loss: dict[str, Any], *arguments: str) -> tuple[Case, list[dict[str, np.ndarray]]]:
        optimizer = {"kind": "sgd", "momentum": 0.9, "weight_decay": DECAY, "decay": decay, "no_decay": []}
        schedule = {"learning_rate": 1e-3, "steps": [2], "scales": [0.1]}
        path = parallel_case(
            decay,
            workload={"optimizer": optimizer, "schedule": schedule, "loss": loss, "embedding_size": 16},
            parallelism="partial_fc",
            sample_ratio=0.1,
            num_classes=CLASSES,
        )
        outputs = tmp_path / decay
        program = __file__.replace("test_oneflow_partial_fc.py", "programs/partial_fc.py")
        run_ranks(path, program, path, outputs, *arguments)
        found = []
        for rank in range(2):
            with np.load(f"{outputs}.{rank}.npz") as arrays:
                found.append(dict(arrays))
        return read_case(str(path)), found

    return run


def samples(case: Case, rank: int, labels: np.ndarray) -> list[np.ndarray]:
    """The rows that a rank samples in each step, by the definition."""
    held, stream = held_of(case, rank), sampling_stream(case, rank)
    return [sampled_classes(of_step, held, sample_size(case, rank), stream) for of_step in labels]


def held_of(case: Case, rank: int) -> range:
    return held_classes(case, Rank(rank, rank, 0, 2, 2, 1, "", 0, None))


@pytest.mark.parametrize(
    ("decay", "loss", "arguments"),
    [
        ("coupled", ARCFACE, ()),
        ("decoupled", COSFACE, ()),
        ("coupled", ARCFACE, ("scaled",)),
    ],
)
def test_sampled_rows_follow_the_formula_and_the_others_stay_to_the_bit(
    decay: str,
    loss: dict[str, Any],
    arguments: tuple[str, ...],
    sampled: Callable[..., tuple[Case, list[dict[str, np.ndarray]]]],
) -> None:
    """Weights and momentum, over four steps, through a change of the learning rate.

    From the embeddings that the ranks computed, the loss of the rows sampled and its gradient are the
    definition's, in float64. With the loss scaled as for fp16 too: OneFlow's dynamic scaling would move the
    rows that are not sampled.
    """
    case, found = sampled(decay, loss, *arguments)
    labels = np.concatenate([arrays["labels"] for arrays in found], axis=1)
    rows = [samples(case, rank, labels) for rank in range(2)]
    assert [(16, 15)] * STEPS == [(len(first), len(second)) for first, second in zip(*rows, strict=True)]
    assert (rows[0][0][:15] != rows[1][0]).any()  # each rank draws its own
    velocity = [np.zeros_like(arrays["weight"][0], np.float64) for arrays in found]
    for step in range(STEPS):
        rate = learning_rate(case.schedule, step)
        index = np.concatenate([rows[rank][step] + held_of(case, rank).start for rank in range(2)])
        assert set(labels[step]) <= set(index)
        taken = [arrays["weight"][step][rows[rank][step]] for rank, arrays in enumerate(found)]
        expected = margin_softmax(
            np.concatenate([arrays["embeddings"][step] for arrays in found]),
            np.concatenate(taken),
            np.array([np.flatnonzero(index == label)[0] for label in labels[step]]),
            case.loss,
        )
        gradients = np.split(expected.weight_gradient, [16])
        for rank, arrays in enumerate(found):
            mine = rows[rank][step]
            before, after = arrays["weight"][step : step + 2]
            others = np.setdiff1d(np.arange(len(before)), mine)
            assert (before[others] == after[others]).all()
            if step and rate == learning_rate(case.schedule, step - 1):
                assert (arrays["momentum"][step][others] == arrays["momentum"][step - 1][others]).all()
            coupled, decoupled = (DECAY, 0.0) if decay == "coupled" else (0.0, DECAY)
            velocity[rank][mine] *= 0.9
            velocity[rank][mine] -= rate * (gradients[rank] + coupled * before[mine])
            moved = before[mine] + velocity[rank][mine] - rate * decoupled * before[mine]
            np.testing.assert_allclose(after[mine], moved, rtol=1e-4, atol=2e-6, err_msg=f"{rank} {step}")
            np.testing.assert_allclose(arrays["loss"][step], expected.loss, rtol=1e-5)
