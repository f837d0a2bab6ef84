"""A rank that is slow in training is named as the one that the others waited for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sweep_lab import SweepLab

from dlperf.adapters.registry import load_adapters

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.quiet]


def pause(lab: SweepLab, rank: int, over: threading.Event) -> None:
    """Let the process of a rank train for a quarter of the time, as cpulimit(1) does."""
    process = None
    while not over.wait(0.03):
        process = process or (_process(lab, rank) if lab.logged('"key": "run_start"') else None)
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
                time.sleep(0.09)
                os.kill(process, signal.SIGCONT)


def _process(lab: SweepLab, rank: int) -> int | None:
    for process in lab.left():
        with suppress(OSError):
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            words = Path(f"/proc/{process}/cmdline").read_bytes()
            if f"DLPERF_RANK={rank}".encode() in variables and b".train" in words:
                return process
    return None


@pytest.mark.parametrize("framework", ["pytorch", "mxnet"])
def test_a_rank_that_runs_for_a_quarter_of_the_time_is_named_as_the_straggler(
    lab: SweepLab, engine_python: Callable[[str], Path], framework: str
) -> None:
    version, python = load_adapters()[framework].versions[0], engine_python(framework)
    lab.write(
        frameworks=[{"name": framework, "version": version, "python": str(python)}],
        options={},
        topology="1n2g",
        oversubscribe=True,
        measure={"warmup_iterations": 2, "measured_iterations": 20, "repeats": 1},
    )
    over = threading.Event()
    thread = threading.Thread(target=pause, args=(lab, 1, over))
    thread.start()
    try:
        done = lab.run()
    finally:
        over.set()
        thread.join()

    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    times = result.rank_times
    assert times is not None
    assert (1, 20, True) == (times.slowest_rank, times.steps, times.is_straggler), times
    assert times.excess > 0.2
    assert times.exchange_shares[0] > times.exchange_shares[1]
    shown = lab.dlperf("show", result.case.case_id, str(lab.results)).stdout
    assert f"rank 1 on {result.nodes[0]}: {times.excess:.0%} slower than the median" in " ".join(
        shown.split()
    )
