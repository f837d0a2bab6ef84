"""The kernel kills for lack of memory, for real: a rank, or another program while a rank is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from processes import until
from small_memory import run_in, small_memory, starve_another

if TYPE_CHECKING:
    from sweep_lab import SweepLab


def test_a_rank_that_the_kernel_kills_for_memory_is_out_of_memory(lab: SweepLab) -> None:
    """The rank is taken, and neither dlperf nor the supervisor, who are in the same group."""
    lab.write(options={"fault": "memory", "fault_step": 2})
    with small_memory() as group:
        done = run_in(
            group,
            [sys.executable, "-m", "dlperf", "run", "tiny.yaml"],
            cwd=lab.folder,
            env=os.environ | lab.environment(),
        )
    assert done.returncode == 3, done.stderr
    (result,) = lab.stored()
    assert result.status == "oom"
    whom = "it" if "oom_kills" in lab.outcome()["ranks"][0] else "1 process of its control group"
    assert result.reason == f"rank 0 was ended by SIGKILL: the kernel ended {whom} for lack of memory"
    assert lab.outcome()["oom_kills"] >= 1  # on the whole machine, where other tests run out of memory too


def test_a_rank_that_is_killed_while_the_kernel_kills_another_program_for_memory_is_killed(
    lab: SweepLab,
) -> None:
    measure = {"warmup_iterations": 1, "measured_iterations": 6000, "repeats": 1}
    lab.write(options={"step_seconds": 0.1}, measure=measure)
    process = lab.start()
    until(lambda: lab.logged('"step": 1,'))
    starve_another()
    os.kill(rank_of(lab), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    (result,) = lab.stored()
    assert lab.outcome()["oom_kills"] > 0
    assert result.status == "killed"
    assert result.reason is not None
    assert result.reason.startswith("rank 0 was ended by SIGKILL")


def rank_of(lab: SweepLab) -> int:
    """The process of the only rank."""
    (pid,) = (pid for pid in lab.left() if b"DLPERF_RANK=0" in Path(f"/proc/{pid}/environ").read_bytes())
    return pid
