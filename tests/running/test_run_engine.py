"""`dlperf run` with a real engine: its threads and helper processes end like any other's."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import PROMISED_SECONDS, until

from dlperf.adapters.registry import load_adapters

if TYPE_CHECKING:
    from collections.abc import Callable

    from sweep_lab import SweepLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def write(lab: SweepLab, python: Path, *, iterations: int) -> None:
    version = load_adapters()["pytorch"].versions[0]
    lab.write(
        frameworks=[{"name": "pytorch", "version": version, "python": str(python)}],
        options={},
        measure={"warmup_iterations": 1, "measured_iterations": iterations, "repeats": 1},
    )


def test_pytorch_is_killed_with_dlperf_and_measured_when_it_is_started_again(
    lab: SweepLab, engine_python: Callable[[str], Path]
) -> None:
    python = engine_python("pytorch")
    write(lab, python, iterations=3)
    process = lab.start()
    until(lambda: lab.logged('"key": "init_stop"'), limit=300)
    process.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS)
    assert lab.stored() == []
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert result.figures is not None
    assert result.figures.samples_per_sec > 0
    assert result.engine.facts["threads"] == 1


# From the death of a rank to the end of its case, whatever the engine's own patience is.
PROMISED_END_SECONDS = 15.0


def rank_process(lab: SweepLab, rank: int) -> int:
    """The process that trains as `rank`."""
    wanted = f"DLPERF_RANK={rank}".encode()
    found = [
        process
        for process in lab.left()
        if wanted in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        and b".train" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]
    return min(found)


@pytest.mark.parametrize("name", ["mxnet", "oneflow", "pytorch"])
def test_a_killed_rank_ends_the_case_as_a_crash_and_the_sweep_goes_on(
    lab: SweepLab, engine_python: Callable[[str], Path], name: str
) -> None:
    version = load_adapters()[name].versions[0]
    lab.write(
        frameworks=[{"name": name, "version": version, "python": str(engine_python(name))}],
        topology="1n2g",
        oversubscribe=True,
        options={},
        # Too few for a judgement of the machine's steadiness; far more than are made before the kill.
        measure={"warmup_iterations": 1, "measured_iterations": 59, "repeats": 1},
        include=[{"frameworks": [{"name": "numpy", "python": sys.executable}], "topology": "1n1g"}],
    )
    process = lab.start()
    until(lambda: lab.logged('"step": 3,'), limit=300)

    os.kill(rank_process(lab, 1), signal.SIGKILL)
    until(lambda: len(lab.stored()) == 1, limit=PROMISED_END_SECONDS)

    process.communicate()
    ends = {result.case.framework: result for result in lab.stored()}
    assert "crash" == ends[name].status
    assert "ok" == ends["numpy"].status
    assert (ends[name].reason or "").startswith("rank 1 was ended by SIGKILL")
    assert set() == lab.left()
