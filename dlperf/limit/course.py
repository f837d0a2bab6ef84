"""The runs of a plan with searches: each case with `max` gets the value that it is measured at.

A run that runs out of memory at a limit that was found says that the limit is lower: the case's runs become
evidence of its search, which goes on below, and all of them are made again at what it finds then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from dlperf.layout import limit_folder, run_folder
from dlperf.limit.finding import LimitSearch, add_evidence, with_value
from dlperf.limit.model import ModelAnswer, ask_model
from dlperf.logs.events import Step
from dlperf.plan.case import Case
from dlperf.plan.machine import gpu_memory_bytes
from dlperf.plan.plan import Plan, PlannedCase, PlannedRun, PlanStatus
from dlperf.results.limits import LimitRecord, LimitStatus
from dlperf.results.schema import RunResult, Status
from dlperf.running.run import Progress, Runner, store_unmeasured
from dlperf.running.run_folder import read_result
from dlperf.running.scheduler import Scheduler


class MakeScheduler(Protocol):
    """Gives a scheduler of the runs of a plan in a folder, on the nodes that the caller holds."""

    def __call__(self, plan: Plan, folder: Path, progress: Progress) -> Scheduler:
        """The scheduler."""


@dataclass(frozen=True, kw_only=True)
class LimitCourse:
    """Finds the limits of a plan and makes its runs there.

    Attributes:
        plan: what is run.
        results: where; the searches lie in its folder `limits`.
        scheduler: makes the probes and the runs.
        runner: of the sweep.
        retry_failed: make probes again that failed for anything but memory.
    """

    plan: Plan
    results: Path
    scheduler: MakeScheduler
    runner: Runner
    retry_failed: bool

    def run(self, runs: Sequence[PlannedRun]) -> None:
        """Search, and make the runs, until none runs out of memory at a limit.

        Raises what a scheduler raises; what is done is stored, and the next call goes on from there.
        """
        while True:
            again = self._set_aside()
            runs = [run for run in self.plan.runs if run in runs or run.case_id in again]
            if not runs:
                return
            total = len(self.plan.runs)
            self.runner.progress.planned(total=total, done=total - len(runs))
            plan, able = self._settled(runs)
            self.scheduler(plan, self.results, self.runner.progress).run(able, runner=self.runner)
            runs = []

    def _set_aside(self) -> frozenset[str]:
        """Give the runs of each case that ran out of memory at its limit to its search; those cases."""
        again = set()
        for case in self.plan.runnable:
            if case.search is None:
                continue
            stored = self._stored(case)
            if all(result.status is not Status.OOM for _, result in stored):
                continue
            # Those that ran out of memory come last: where this is cut short the next start finds one.
            for folder, _ in sorted(stored, key=lambda one: one[1].status is Status.OOM):
                add_evidence(folder, case_id=case.case_id, to=limit_folder(self.results, case.case_id))
            again.add(case.case_id)
            self.runner.progress.message(f"{case.case_id}: a run ran out of memory at the limit")
        return frozenset(again)

    def _stored(self, case: Case) -> list[tuple[Path, RunResult]]:
        """The results of the case's runs, selected ones or not, and where they lie."""
        folders = run_folder(self.results, case_id=case.case_id, repeat=1).parent.glob("r*")
        return [(folder, result) for folder in folders if (result := read_result(folder)) is not None]

    def _settled(self, runs: Sequence[PlannedRun]) -> tuple[Plan, tuple[PlannedRun, ...]]:
        """The plan with every limit that the runs need, and the runs that can be made.

        A case without a limit gets results that say why.
        """
        wanted = {run.case_id for run in runs}
        found: dict[str, Case] = {}
        without: dict[str, str] = {}
        for case in self.plan.runnable:
            if case.search is None or case.case_id not in wanted:
                continue
            record = self._find(case)
            if record.status is LimitStatus.FOUND and record.trains is not None:
                found[case.case_id] = with_value(case, record.trains)
            else:
                without[case.case_id] = record.reason
        cases = {case.case_id: case for case in self.plan.runnable}
        for run in runs:
            if run.case_id in without:
                self._leave(cases[run.case_id], run, without[run.case_id])
        planned = tuple(
            item.model_copy(update={"case": found.get(item.case_id, item.case)}) for item in self.plan.cases
        )
        plan = self.plan.model_copy(update={"cases": planned})
        return plan, tuple(run for run in runs if run.case_id not in without)

    def _leave(self, case: Case, run: PlannedRun, reason: str) -> None:
        folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
        result = store_unmeasured(case, repeat=run.repeat, folder=folder, reason=reason)
        self.runner.progress.ended(result)

    def _find(self, case: Case) -> LimitRecord:
        progress = ProbeProgress(self.runner.progress)
        runner = replace(self.runner, progress=progress)
        folder = limit_folder(self.results, case.case_id)

        def make(probe: Case, repeat: int) -> None:
            planned = (PlannedCase(case=probe, status=PlanStatus.RUNNABLE),)
            plan = self.plan.model_copy(update={"cases": planned})
            run = PlannedRun(case_id=probe.case_id, repeat=repeat)
            self.scheduler(plan, folder, progress).run([run], runner=runner)

        search = LimitSearch(case=case, folder=folder, make=make, model=_model, say=progress.message)
        if self.retry_failed:
            search.forget_failures()
        progress.message(f"{case.case_id}: searching")
        record = search.find()
        progress.message(f"{case.case_id}: {record.reason}")
        return record


def _model(case: Case) -> ModelAnswer:
    budget = case.memory_bytes if case.device == "cpu" else gpu_memory_bytes()
    return ask_model(case, budget=budget)


class ProbeProgress:
    """Shows probes as what they are: no runs of the sweep, whose count they leave alone."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def message(self, text: str) -> None:
        """See Progress."""
        self._progress.message(text)

    def planned(self, *, total: int, done: int) -> None:
        """See Progress; the sweep has said it."""

    def started(self, case: Case, *, repeat: int) -> None:
        """See Progress."""
        self._progress.started(case, repeat=repeat)

    def stepped(self, step: Step) -> None:
        """See Progress."""
        self._progress.stepped(step)

    def ticked(self) -> None:
        """See Progress."""
        self._progress.ticked()

    def ended(self, result: RunResult) -> None:
        """See Progress; the search says what became of it."""

    def finished(self) -> None:
        """See Progress; the sweep goes on."""
