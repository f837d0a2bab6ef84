"""Runs a plan with searches: finds the limit of each case with `max`, then measures the case at that limit.

The probes of a search are ordinary runs in a folder of their own. State is kept in the run folders only: an
interrupted search replays its probes and finds the results of those that are complete.

If a measured run runs out of memory at the limit, the limit is lower. The runs of that case then move into
the folder of its search, where they count as full-length probes; the search continues below, and the case is
measured again at the new limit.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from dlperf.errors import InfrastructureError
from dlperf.files import run_shipped, write_document
from dlperf.layout import LIMIT_NAME, RUNS_FOLDER, limit_folder, require_repeat, run_folder
from dlperf.limit.search import Probe, Range, SearchResult, next_step
from dlperf.model import Model
from dlperf.plan.case import Case, Measure, Search, bytes_text
from dlperf.plan.plan import Plan, PlannedCase, PlannedRun, PlanStatus
from dlperf.results.schema import (
    MADE_AGAIN,
    LimitRecord,
    LimitStatus,
    MemoryPart,
    ProbeRecord,
    RunResult,
    Status,
)
from dlperf.results.store import probe_record, read_limit, read_result, read_results
from dlperf.running.run import Progress, Runner, store_unmeasured
from dlperf.running.scheduler import Scheduler
from dlperf.version import __version__
from dlperf.wording import plural

_MODEL_SECONDS = 120
# These say nothing about a case: such a probe runs again, like any other run.
_NOT_RUN = MADE_AGAIN - {Status.DISTURBED}


class ModelAnswer(Model):
    """The memory model of a case: its parts, and the largest value of its search whose parts fit."""

    parts: tuple[MemoryPart, ...]
    largest: int | None  # None without a search, a budget, or a value that fits


def ask_model(case: Case, *, gpu_memory_bytes: int | None = None) -> ModelAnswer:
    """Ask frameworks/common/memory.py: the arithmetic needs the tables of the training programs.

    On cuda the budget is what a GPU has, if that is known. InfrastructureError where the program fails.
    """
    budget = case.memory_bytes if case.device == "cpu" else gpu_memory_bytes
    content = case.model_dump(mode="json")
    request = json.dumps({"case": content, "search": content.get("search"), "budget": budget})
    what = "the memory model failed"
    answer = run_shipped("frameworks.common.memory", stdin=request, seconds=_MODEL_SECONDS, what=what)
    try:
        return ModelAnswer.model_validate_json(answer)
    except ValidationError as error:
        raise InfrastructureError(f"{what}: {error}") from error


@dataclass(kw_only=True)
class LimitSearch:
    """Finds the largest value that trains for one case."""

    case: Case  # with its search
    folder: Path  # of the search; holds `limit.json` and the run folders of the probes
    run_probe: Callable[[Case, int], None]  # runs a case, as a repeat, and stores its result in `folder`
    model: Callable[[Case], ModelAnswer]  # asks the memory model for a guess and for the parts of a case
    report: Callable[[str], None]  # receives one line per probe
    _completed: list[ProbeRecord] = field(default_factory=list)

    def forget_failures(self) -> None:
        """Remove the probes that failed for a reason other than memory, so that they run again."""
        if not self.folder.is_dir():
            return
        for run in read_results(self.folder).runs:
            if run.result.status not in {Status.OK, Status.OOM}:
                shutil.rmtree(run.folder)

    def find(self) -> LimitRecord:
        """Search, store the record and return it; raises what `run_probe` raises."""
        search = self._search
        (self.folder / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
        before = read_limit(self.folder)
        guess = before.guess if before is not None else self.model(self.case).largest
        values = Range(lower=search.lower, granularity=search.granularity, upper=search.upper, guess=guess)
        measured = self._measured_runs()
        step = next_step(values, self._completed)
        while isinstance(step, Probe) or measured:
            # Measured runs count in their original order: after the limit that they were measured at.
            self._completed.append(self._run(step) if isinstance(step, Probe) else measured.pop(0))
            step = next_step(values, self._completed)
            if isinstance(step, Probe):
                write_document(self.folder / LIMIT_NAME, self._record(values, step))
        record = self._record(values, step)
        write_document(self.folder / LIMIT_NAME, record)
        return record

    @property
    def _search(self) -> Search:
        if self.case.search is None:
            raise ValueError(f"{self.case.case_id} has no search")
        return self.case.search

    def _measured_runs(self) -> list[ProbeRecord]:
        """The runs of the case itself at limits found earlier, in their original order."""
        return [
            self._probe_record(folder, result, full=True)
            for folder in _measured_folders(self.folder, self.case.case_id)
            if (result := read_result(folder)) is not None
        ]

    def _run(self, probe: Probe) -> ProbeRecord:
        """The record of a probe, which runs first if it has no stored result."""
        case = probe_case(self.case, self._search, probe)
        folder = run_folder(self.folder, case_id=case.case_id, repeat=probe.attempt)
        result = read_result(folder)
        if result is None or result.status in _NOT_RUN:
            self.run_probe(case, probe.attempt)
            result = read_result(folder)
            if result is None:
                raise ValueError(f"{folder}: the probe left no result")
            length = " at full length" if probe.full else ""
            outcomes = {Status.OK: "trains", Status.OOM: "runs out of memory"}
            outcome = outcomes.get(result.status, f"failed, {result.status}: {result.reason}")
            self.report(f"{self._search.axis} {probe.value}{length}: {outcome}")
        return self._probe_record(folder, result, full=probe.full)

    def _probe_record(self, folder: Path, result: RunResult, *, full: bool) -> ProbeRecord:
        value = getattr(result.case, self._search.axis)
        return probe_record(result, value=value, full=full, folder=str(folder.relative_to(self.folder)))

    def _record(self, values: Range, step: Probe | SearchResult) -> LimitRecord:
        out_of_memory = (probe.value for probe in self._completed if probe.status is Status.OOM)
        fails = min(out_of_memory, default=None)
        good = (probe.value for probe in self._completed if probe.status is Status.OK)
        trains = max((value for value in good if fails is None or value < fails), default=None)
        status = LimitStatus.SEARCHING if isinstance(step, Probe) else step.status
        if isinstance(step, SearchResult) and status is LimitStatus.FOUND:
            trains, fails = step.value, step.fails
        case = with_value(self.case, trains or self._search.lower)
        return LimitRecord(
            dlperf_version=__version__,
            case=case,
            status=status,
            reason=self._reason(step),
            trains=trains,
            fails=fails,
            most_probes=values.most_probes,
            guess=values.guess,
            model=() if status is LimitStatus.SEARCHING else self.model(case).parts,
            probes=tuple(self._completed),
        )

    def _reason(self, step: Probe | SearchResult) -> str:
        axis, probes = self._search.axis, len(self._completed)
        if isinstance(step, Probe):
            return f"{plural(probes, 'probe')} so far; next value: {step.value}"
        match step.status:
            case LimitStatus.FOUND:
                return f"limit found in {plural(probes, 'probe')}; {step.value} trains, {step.fails} does not"
            case LimitStatus.BEYOND_UPPER:
                return (
                    f"{axis} {step.value} trains, and no larger value is allowed: "
                    f"raise the upper bound (--upper, or search.{axis}.upper in a sweep)"
                )
            case LimitStatus.NOTHING_TRAINS:
                return self._why_nothing_trains(step.value)
        last = self._completed[-1]
        return (
            f"the probe at {axis} {step.value} failed twice, and not for lack of memory: "
            f"{last.status}: {last.reason}"
        )

    def _why_nothing_trains(self, value: int) -> str:
        """An engine that never reported its version had no memory left for itself."""
        smallest = next((probe for probe in reversed(self._completed) if probe.value == value), None)
        if smallest is None:
            return f"the smallest value, {self._search.axis} {value}, does not train"
        budget, result = self.case.memory_bytes, read_result(self.folder / smallest.folder)
        if budget is not None and result is not None and not result.engine.facts:
            return (
                f"the memory budget of {bytes_text(budget)} is less than {self.case.framework} needs "
                "before training starts: raise it"
            )
        return f"the smallest value, {self._search.axis} {value}, does not train: {smallest.reason}"


def with_value(case: Case, value: int) -> Case:
    """The case with a value for the axis that it searches; its id stays the same."""
    return case if case.search is None else case.changed(**{case.search.axis: value})


def probe_case(case: Case, search: Search, probe: Probe) -> Case:
    """The ordinary case that a probe runs: few iterations, unless it is a full-length probe."""
    short = Measure(warmup_iterations=0, measured_iterations=search.iterations)
    # Other work disturbs a figure, and takes no memory.
    measure = (case.measure if probe.full else short).model_copy(update={"max_interference": 1.0})
    return case.changed(**{search.axis: probe.value, "search": None, "measure": measure})


def _measured_folders(folder: Path, case_id: str) -> list[Path]:
    return sorted(run_folder(folder, case_id=case_id, repeat=1).parent.glob("r*"), key=require_repeat)


@dataclass(frozen=True, kw_only=True)
class LimitRunner:
    """Finds the limits of a plan and measures its cases there."""

    plan: Plan
    results: Path  # the searches are in its folder `limits`
    scheduler: Callable[[Plan, Path, Progress], Scheduler]  # of a plan in a results folder: probes, and runs
    runner: Runner  # of the sweep
    retry_failed: bool  # repeat probes that failed for a reason other than memory

    def run(self, runs: Sequence[PlannedRun]) -> None:
        """Search and run until no run runs out of memory at its limit.

        Raises what a scheduler raises; completed work is stored, and the next call continues from there.
        """
        while True:
            reopened = self._reopen_searches()
            runs = [run for run in self.plan.runs if run in runs or run.case_id in reopened]
            if not runs:
                return
            total = len(self.plan.runs)
            self.runner.progress.planned(total=total, done=total - len(runs))
            plan, runnable = self._resolve_limits(runs)
            self.scheduler(plan, self.results, self.runner.progress).run(runnable, runner=self.runner)
            runs = []

    def _reopen_searches(self) -> frozenset[str]:
        """Move the runs of cases that ran out of memory at their limit to the searches; gives case ids."""
        reopened = set()
        for case in self.plan.runnable:
            if case.search is None:
                continue
            runs = run_folder(self.results, case_id=case.case_id, repeat=1).parent.glob("r*")
            stored = [(folder, result) for folder in runs if (result := read_result(folder)) is not None]
            if all(result.status is not Status.OOM for _, result in stored):
                continue
            search_folder = limit_folder(self.results, case.case_id)
            # Out-of-memory runs move last: if this is interrupted, the next start still finds one.
            for folder, _ in sorted(stored, key=lambda item: item[1].status is Status.OOM):
                moved = _measured_folders(search_folder, case.case_id)
                number = max(map(require_repeat, moved), default=0) + 1
                target = run_folder(search_folder, case_id=case.case_id, repeat=number)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(target)
            reopened.add(case.case_id)
            self.runner.progress.message(
                f"{case.case_id}: a run ran out of memory at the limit; searching below it"
            )
        return frozenset(reopened)

    def _resolve_limits(self, runs: Sequence[PlannedRun]) -> tuple[Plan, tuple[PlannedRun, ...]]:
        """The plan with the limits that the runs need, and the runs that have one.

        The runs of a case without a limit get results that say why.
        """
        needed = {run.case_id for run in runs}
        cases = {case.case_id: case for case in self.plan.runnable}
        reasons: dict[str, str] = {}
        for case in self.plan.runnable:
            if case.search is None or case.case_id not in needed:
                continue
            record = self._find_limit(case)
            if record.status is LimitStatus.FOUND and record.trains is not None:
                cases[case.case_id] = with_value(case, record.trains)
            else:
                reasons[case.case_id] = record.reason
        for run in runs:
            if run.case_id in reasons:
                folder = run_folder(self.results, case_id=run.case_id, repeat=run.repeat)
                case, reason = cases[run.case_id], reasons[run.case_id]
                result = store_unmeasured(case, repeat=run.repeat, folder=folder, reason=reason)
                self.runner.progress.ended(result)
        planned = tuple(
            item.model_copy(update={"case": cases.get(item.case_id, item.case)}) for item in self.plan.cases
        )
        plan = self.plan.model_copy(update={"cases": planned})
        return plan, tuple(run for run in runs if run.case_id not in reasons)

    def _find_limit(self, case: Case) -> LimitRecord:
        progress = _ProbeProgress(self.runner.progress)
        runner = replace(self.runner, progress=progress)
        folder = limit_folder(self.results, case.case_id)

        def run_probe(probe: Case, repeat: int) -> None:
            planned = (PlannedCase(case=probe, status=PlanStatus.RUNNABLE),)
            plan = self.plan.model_copy(update={"cases": planned})
            run = PlannedRun(case_id=probe.case_id, repeat=repeat)
            self.scheduler(plan, folder, progress).run([run], runner=runner)

        search = LimitSearch(
            case=case,
            folder=folder,
            run_probe=run_probe,
            model=partial(ask_model, gpu_memory_bytes=self.plan.machine.gpu_memory_bytes),
            report=progress.message,
        )
        if self.retry_failed:
            search.forget_failures()
        progress.message(f"{case.case_id}: searching")
        record = search.find()
        progress.message(f"{case.case_id}: {record.reason}")
        return record


class _ProbeProgress:
    """Shows probes and leaves the sweep's count of runs alone; the search itself reports the outcomes."""

    def __init__(self, sweep: Progress) -> None:
        self.message, self.started = sweep.message, sweep.started
        self.stepped, self.ticked = sweep.stepped, sweep.ticked

    def planned(self, *, total: int, done: int) -> None: ...

    def ended(self, result: RunResult) -> None: ...

    def finished(self) -> None: ...
