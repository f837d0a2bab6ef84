"""What a results folder says of runs that were under way when their job of Slurm ended."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from run_folders import failed, make_case, write_run

from dlperf.cli import main
from dlperf.results.extract import extract
from dlperf.results.schema import MADE_AGAIN, Status
from dlperf.results.store import read_result, store_run
from dlperf.running.slurm import JobState
from dlperf.running.slurm_job import SubmittedJob, explain_runs

if TYPE_CHECKING:
    from pathlib import Path

JOB = SubmittedJob(number="7", submitted_at="2026-01-02T03:00:00+00:00", log="slurm/7.log")
PREEMPTED = JobState(state="PREEMPTED")
CASE = make_case()


def explain(results: Path, state: JobState = PREEMPTED) -> None:
    explain_runs(results, job=JOB, number=JOB.number, state=state)


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (
            PREEMPTED,
            Status.PREEMPTED,
            "it ended with its job: job 7: PREEMPTED: another job took its place",
        ),
        (
            JobState(state="TIMEOUT"),
            Status.JOB_TIMEOUT,
            "it ended with its job: job 7: TIMEOUT: it reached its time limit",
        ),
        (
            JobState(state="FAILED", reason="it stopped before its time limit"),
            Status.JOB_TIMEOUT,
            "it ended with its job: job 7: FAILED: its command failed (it stopped before its time limit)",
        ),
        (
            JobState(state="NODE_FAIL", reason="NodeDown"),
            Status.LOST_NODE,
            "a node was lost: job 7: NODE_FAIL: Slurm lost a node of it (NodeDown)",
        ),
    ],
)
def test_a_run_that_ended_with_its_job_says_how(
    tmp_path: Path, state: JobState, status: Status, reason: str
) -> None:
    folder = write_run(tmp_path, CASE)
    (folder / "outcome.json").unlink()
    (folder / "logs" / "rank0.log").unlink()
    explain(tmp_path, state)
    result = read_result(folder)
    assert result is not None
    assert (result.status, result.reason, result.nodes) == (status, reason, ("node-a",))
    assert result.status in MADE_AGAIN
    assert extract(folder).result == result  # from the files alone


def test_results_show_and_report_count_it(tmp_path: Path) -> None:
    write_run(tmp_path / "y1", CASE, outcome=failed("stopped", signal=15))
    explain(tmp_path / "y1")
    words = "it ended with its job: job 7: PREEMPTED: another job took its place"
    for arguments, status in (
        (["results"], "preempted"),
        (["show", CASE.case_id], "preempted"),
        (["report"], "job preempted (run 1 of 1)"),
    ):
        shown = CliRunner().invoke(main, [*arguments, str(tmp_path / "y1")])
        assert status in shown.output, arguments
        assert words in " ".join(shown.output.split()), arguments


def test_what_a_stopped_run_left_is_kept(tmp_path: Path) -> None:
    folder = write_run(tmp_path, CASE, seconds=(2.0, 1.0, 1.0), outcome=failed("stopped", signal=15))
    explain(tmp_path)
    result = read_result(folder)
    assert result is not None
    assert (result.status, result.seconds, result.figures) == (Status.PREEMPTED, 12.3, None)
    assert len(json.loads((folder / "outcome.json").read_text())["ranks"]) == 1
    assert result.evidence is not None
    assert result.evidence.startswith("logs/rank0.log:")


@pytest.mark.parametrize(
    "state", [JobState(state="CANCELLED"), JobState(state="FAILED"), JobState(state="unknown")]
)
def test_nothing_is_said_of_runs_that_a_person_or_dlperf_ended(tmp_path: Path, state: JobState) -> None:
    folder = write_run(tmp_path, CASE, outcome=failed("stopped", signal=15))
    explain(tmp_path, state)
    assert read_result(folder) is None


def test_a_run_that_had_ended_or_was_begun_before_the_job_has_not_ended_with_it(tmp_path: Path) -> None:
    stored, whole, older = (write_run(tmp_path, CASE, repeat=repeat) for repeat in (1, 2, 3))
    before = store_run(stored)
    (older / "outcome.json").unlink()
    os.utime(older / "case.json", (0, 0))
    explain(tmp_path)
    assert read_result(stored) == before
    ended = read_result(whole)
    assert ended is not None
    assert ended.status is Status.OK
    assert read_result(older) is None
