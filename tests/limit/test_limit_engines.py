"""The engines really run out of a memory budget, each in its own way, and the search finds where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.results.schema import LimitStatus
from dlperf.results.store import read_limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

    from dlperf.results.schema import LimitRecord, RunResult

pytestmark = [pytest.mark.slow, pytest.mark.engine]

BATCH_STEP = 12
CLASSES_STEP = 300_000


def entry(name: str, python: Path) -> dict[str, str]:
    """The entry of `frameworks` for the version that the tests' environment has."""
    return {"name": name, "version": load_adapters()[name].versions[0], "python": str(python)}


def searched(lab: SweepLab, *, step: int, values: int) -> tuple[LimitRecord, RunResult]:
    """Run the lab's sweep: its one limit, which lies among `values` steps, and the run at it."""
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (limit,) = read_limits(lab.results)
    record = limit.record
    assert LimitStatus.FOUND is record.status
    told = {(probe.value, probe.full): probe.status for probe in record.probes}
    assert "ok" == told[record.trains or 0, True]
    assert "oom" == told[(record.trains or 0) + step, False]
    assert sum(not probe.full for probe in record.probes) <= math.log2(values) + 3
    (result,) = lab.stored()
    return record, result


@pytest.mark.parametrize("name", ["oneflow", "mxnet", "pytorch"])
def test_the_largest_batch_trains_and_one_step_more_does_not(
    lab: SweepLab, engine_python: Callable[[str], Path], name: str
) -> None:
    lab.write(
        frameworks=[entry(name, engine_python(name))],
        options={},
        batch_size_per_device="max",
        memory="1536MiB",
        search={
            "iterations": 2,
            "batch_size_per_device": {"granularity": BATCH_STEP, "upper": 4 * BATCH_STEP},
        },
        measure={"warmup_iterations": 0, "measured_iterations": 3, "repeats": 1},
    )
    record, result = searched(lab, step=BATCH_STEP, values=4)
    assert record.trains == result.case.batch_size_per_device
    assert result.figures is not None
    # The engine comes on top of its tensors, and all of it lies within the budget.
    assert record.model_bytes < (result.figures.peak_anonymous_bytes or 0) <= 1536 << 20


SPLITS: dict[str, dict[str, object]] = {"model": {}, "partial_fc": {"sample_ratio": 0.1}}


# Each engine and each way once: how a rank of several runs out is the engine's, what fits is the way's. No
# budget ends near a step, where one probe may train and the next not: PyTorch's fits about 1 350 000 classes.
@pytest.mark.parametrize(
    ("name", "parallelism", "values", "memory"),
    [
        ("oneflow", "partial_fc", 2, "1GiB"),
        ("mxnet", "model", 3, "1GiB"),
        ("pytorch", "partial_fc", 5, "1120MiB"),
    ],
)
def test_the_most_classes_of_two_processes_train_and_one_step_more_do_not(
    lab: SweepLab, engine_python: Callable[[str], Path], name: str, parallelism: str, values: int, memory: str
) -> None:
    lab.write(
        frameworks=[entry(name, engine_python(name))],
        options={},
        topology="1n2g",
        oversubscribe=True,
        parallelism=parallelism,
        **SPLITS[parallelism],
        num_classes="max",
        memory=memory,
        search={
            "iterations": 2,
            "num_classes": {"granularity": CLASSES_STEP, "upper": values * CLASSES_STEP},
        },
        measure={"warmup_iterations": 0, "measured_iterations": 2, "repeats": 1},
    )
    record, result = searched(lab, step=CLASSES_STEP, values=values)
    assert record.trains == result.case.num_classes
