"""Which runs of a plan have their result in a results folder, and which are still to be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf.results.schema import FAILED, RunResult, Status
from dlperf.running.run_folder import RESULT_NAME, run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.order import PlannedRun
    from dlperf.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result and the folder that it lies in."""

    folder: Path
    result: RunResult


def pending_runs(plan: Plan, *, results: Path, retry_failed: bool) -> tuple[PlannedRun, ...]:
    """The runs of the plan that are to be made, in its order.

    A run with a whole result is done; one that failed is made again if `retry_failed`; one that could not be
    started, or lost its node, is always tried again: that says nothing about its case. One that ran out of
    memory at a limit that was found is no result either: the limit is lower.
    """
    again = {Status.NOT_MEASURED, Status.LOST_NODE, *(FAILED if retry_failed else ())}
    searched = {case.case_id for case in plan.runnable if case.search is not None}

    def is_missing(run: PlannedRun) -> bool:
        stored = read_result(run_folder(results, case_id=run.case_id, repeat=run.repeat))
        if stored is None or stored.status in again:
            return True
        return stored.status is Status.OOM and run.case_id in searched

    return tuple(run for run in plan.runs if is_missing(run))


def stored_results(plan: Plan, *, results: Path) -> tuple[StoredResult, ...]:
    """The results of the plan's runs that are there, in its order."""
    folders = (run_folder(results, case_id=run.case_id, repeat=run.repeat) for run in plan.runs)
    found = ((folder, read_result(folder)) for folder in folders)
    return tuple(StoredResult(folder=folder, result=result) for folder, result in found if result is not None)


def read_result(folder: Path) -> RunResult | None:
    """The result of a run folder; None where there is none, or none that this dlperf can read."""
    try:
        return RunResult.model_validate_json((folder / RESULT_NAME).read_bytes())
    except (OSError, ValidationError):
        return None
