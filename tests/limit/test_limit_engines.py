"""The engines really run out of a memory budget, each in its own way, and the search finds where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.results.limits import LimitStatus, read_limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]

GRANULARITY = 12


@pytest.mark.parametrize("name", ["oneflow", "mxnet", "pytorch"])
def test_the_largest_batch_trains_and_one_step_more_does_not(
    lab: SweepLab, engine_python: Callable[[str], Path], name: str
) -> None:
    version = load_adapters()[name].versions[0]
    lab.write(
        frameworks=[{"name": name, "version": version, "python": str(engine_python(name))}],
        options={},
        batch_size_per_device="max",
        memory="1536MiB",
        search={"iterations": 2, "batch_size_per_device": {"granularity": GRANULARITY, "upper": 48}},
        measure={"warmup_iterations": 0, "measured_iterations": 3, "repeats": 1},
    )
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (limit,) = read_limits(lab.results)
    record = limit.record
    assert LimitStatus.FOUND is record.status
    told = {(probe.value, probe.full): probe.status for probe in record.probes}
    assert "ok" == told[record.trains or 0, True]
    assert "oom" == told[(record.trains or 0) + GRANULARITY, False]
    assert record.short_probes <= 2 + 3  # log2 of the four values, and 3
    (result,) = lab.stored()
    assert result.figures is not None
    assert record.trains == result.case.batch_size_per_device
    # The engine comes on top of its tensors; the resident set counts libraries, the budget does not.
    assert record.model_bytes < (result.figures.peak_memory_bytes or 0) < 2 << 30
