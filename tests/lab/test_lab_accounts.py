"""What dlperf reads from real accounts (sacct, slurmdbd, MariaDB) of jobs that all else has forgotten."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from netlab import NetLab
from processes import until
from slurm_lab import Slurm, SlurmSweepLab, why_not

from dlperf.running.slurm import JobState, job_named, job_state

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def accounts() -> Iterator[Slurm]:
    reason = why_not(keeps_accounts=True)
    if reason is not None:
        pytest.skip(f"no accounts of Slurm: {reason}")
    with NetLab(2) as net, Slurm(net, keeps_accounts=True) as slurm:
        yield slurm


def submit(slurm: Slurm, program: str, *options: str) -> str:
    return slurm.ask("sbatch", "--parsable", "--no-requeue", "-o/dev/null", *options, f"--wrap={program}")


@pytest.mark.slow
def test_the_accounts_say_how_each_job_ended(
    accounts: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a job is checked twice a minute, the rest takes seconds."""
    on_first, on_second = ("-w", "node0"), ("-w", "node1", "--exclusive")
    out_of_time = submit(accounts, "sleep 600", "--time=10", *on_first)
    cancelled = submit(accounts, "sleep 600", *on_first)
    preempted = submit(accounts, "sleep 600", *on_second)
    waiting = submit(accounts, "true", *on_second)
    failed = submit(accounts, "srun -n1 sh -c 'exit 9'; exit 7", *on_first)
    some_failed = submit(accounts, "exit 3", *on_first)
    completed = submit(accounts, "true", "--job-name=dlperf-tiny-0123", *on_first)
    for job in (out_of_time, cancelled, preempted):
        until(lambda job=job: accounts.state(job) == "RUNNING", what=f"job {job} runs")
    accounts.ask("scontrol", "update", f"JobId={out_of_time}", "EndTime=now+1")
    accounts.ask("scancel", cancelled, waiting)
    node_failed = submit(accounts, "sleep 600", "-p", "urgent", *on_second)
    until(lambda: accounts.state(node_failed) == "RUNNING", what="a job takes another's place")
    accounts.set_down(accounts.net.hosts[1])

    # Some minutes after a job ends only the accounts know it: here the other tools are missing, and squeue
    # knows no job.
    sacct, squeue = tmp_path / "sacct", tmp_path / "squeue"
    sacct.symlink_to(str(shutil.which("sacct")))
    squeue.write_text("#!/bin/sh\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(accounts.conf))
    expected = {
        completed: (JobState(state="COMPLETED", nodes="node0"), "COMPLETED: it ended by itself"),
        failed: (
            JobState(state="FAILED", reason="exit code 7:0, exit code 9:0", nodes="node0"),
            "FAILED: its command failed (exit code 7:0, exit code 9:0)",
        ),
        some_failed: (
            JobState(state="FAILED", reason="some cases failed", nodes="node0"),
            "FAILED: its command failed (some cases failed)",
        ),
        cancelled: (
            JobState(state="CANCELLED", reason="by root", nodes="node0"),
            "CANCELLED: somebody cancelled it (by root)",
        ),
        waiting: (
            JobState(state="CANCELLED", reason="by root"),
            "CANCELLED: somebody cancelled it (by root)",
        ),
        preempted: (
            JobState(state="PREEMPTED", nodes="node1"),
            "PREEMPTED: another job took its place",
        ),
        node_failed: (
            JobState(state="NODE_FAIL", nodes="node1"),
            "NODE_FAIL: Slurm lost a node of it",
        ),
        out_of_time: (
            JobState(state="TIMEOUT", nodes="node0"),
            "TIMEOUT: it reached its time limit",
        ),
    }
    for job, (state, words) in expected.items():
        until(lambda job=job: not job_state(job).is_alive, what=f"the accounts say that {job} ended")
        assert (job_state(job), str(job_state(job))) == (state, words)
    assert job_named("dlperf-tiny-0123") == completed
    assert job_named("dlperf-tiny-4567") is None
    assert job_state("4711", attempts=1) == JobState(state="unknown")


@pytest.mark.slow
def test_cells_beyond_the_limit_of_a_user_are_submitted_as_jobs_end(accounts: Slurm) -> None:
    accounts.ask("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=1")
    lab = SlurmSweepLab(Path(tempfile.mkdtemp(prefix="shared-", dir=accounts.net.folder)), slurm=accounts)
    with lab.stack:
        lab.write_cluster(nodes=2, allocate="per_cell")
        lab.write(batch_size_per_device=[2, 3])
        done = lab.run()
    assert done.returncode == 0, done.stderr
    assert "tiny: 2 of 2 runs: 2 ok" in done.stdout
    assert done.stderr.count("sbatch refuses the job: AssocMaxSubmitJobLimit ") == 1
    assert "; you have too many jobs: `squeue --me`; the others are submitted as jobs end\n" in done.stderr
    assert "1 not submitted" in done.stderr
    assert [["every run has a result"]] * 2 == [
        [task["ended"] for task in job["tasks"]] for job in lab.jobs()
    ]
