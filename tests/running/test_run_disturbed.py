"""Runs beside other work: they are disturbed, run again, and get a figure once the machine is quiet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sweep_lab import SweepLab

from dlperf.results.schema import Status
from dlperf.running.busy import Busy, BusyProcess
from dlperf.running.transports.local import this_machine_busy

pytestmark = pytest.mark.slow

# Other tests may take half of a CPU; eight busy loops on two take four fifths of it.
LIMIT = 0.72
BUSY_LOOPS = 10


@contextmanager
def busy_loops(count: int = BUSY_LOOPS) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            # In sessions of their own, as the kernel may divide the CPUs among sessions (autogroup).
            command = [sys.executable, "-c", "while True: pass"]
            process = subprocess.Popen(command, start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def test_disturbed_runs_run_again_at_most_twice_and_once_more_when_it_is_quiet(lab: SweepLab) -> None:
    lab.write(
        batch_size_per_device=64,
        measure={
            "warmup_iterations": 1,
            "measured_iterations": 59,
            "repeats": 2,
            "max_interference": LIMIT,
        },
    )
    with busy_loops():
        done = lab.run()
    assert done.returncode == 3, done.stdout + done.stderr
    assert [Status.DISTURBED] * 2 == [result.status for result in lab.stored()]
    assert done.stderr.count("it will run again") == 4
    assert "other work took" in done.stdout
    for result in lab.stored():
        assert result.interference is not None
        assert result.interference.share > LIMIT
        assert result.figures is None

    done = lab.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [Status.OK] * 2 == [result.status for result in lab.stored()]


def test_the_machine_names_what_keeps_it_busy() -> None:
    with busy_loops(4):
        found = this_machine_busy()
    assert found.share > 0.5
    assert any(process.command.startswith("python") for process in found.processes)


def test_a_busy_machine_in_words() -> None:
    processes = (
        BusyProcess(pid=12, command="stress", share=1.3),
        BusyProcess(pid=9, command="cc1plus", share=0.6),
    )
    found = Busy(share=0.97, cpus=2, processes=processes)
    assert str(found) == "97% of 2 CPUs, most of it by stress (pid 12, 1.3 CPUs), cc1plus (pid 9, 0.6 CPUs)"
    assert str(Busy(share=0.01, cpus=1)) == "1% of 1 CPU"
