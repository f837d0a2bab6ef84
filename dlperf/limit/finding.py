"""The search of one case: its probes are runs in a folder of their own, its course is kept as it goes.

Nothing but the run folders is remembered: a search that was cut short asks again for each probe from the
first on, and finds the results of those that were made. Runs of the case itself, measured at what was found
until one of them ran out of memory there, lie among them and are taken as probes of full length.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dlperf import __version__
from dlperf.files import write_document
from dlperf.layout import LIMIT_NAME, RUNS_FOLDER, run_folder
from dlperf.limit.model import ModelAnswer
from dlperf.limit.search import (
    BeyondUpper,
    Broken,
    End,
    Found,
    NothingTrains,
    Outcome,
    Probe,
    Range,
    Tried,
    next_step,
)
from dlperf.plan.case import Case, Measure, Search, bytes_text
from dlperf.results.limits import LimitRecord, LimitStatus, ProbeRecord, probe_record, read_limit
from dlperf.results.schema import RunResult, Status
from dlperf.results.store import read_results
from dlperf.running.run_folder import read_result

_STATUS = {
    Found: LimitStatus.FOUND,
    NothingTrains: LimitStatus.NOTHING_TRAINS,
    BeyondUpper: LimitStatus.BEYOND_UPPER,
    Broken: LimitStatus.BROKEN,
}
# They say nothing about a case: such a probe is made again, as such a run is.
_NEVER_MADE = frozenset({Status.NOT_MEASURED, Status.LOST_NODE})


def outcome_of(result: RunResult) -> Outcome:
    """What a probe's result says about its value."""
    if result.status is Status.OK:
        return Outcome.TRAINS
    return Outcome.MEMORY if result.status is Status.OOM else Outcome.FAILED


def with_value(case: Case, value: int) -> Case:
    """The case with a value of the axis that it searches; its identity stays."""
    return case if case.search is None else case.changed(**{case.search.axis: value})


def add_evidence(folder: Path, *, case_id: str, to: Path) -> None:
    """Move a run folder of the searched case itself behind those that lie in the folder of its search."""
    number = max(map(_number, _evidence_folders(to, case_id)), default=0) + 1
    target = run_folder(to, case_id=case_id, repeat=number)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)


def _evidence_folders(folder: Path, case_id: str) -> list[Path]:
    return sorted(run_folder(folder, case_id=case_id, repeat=1).parent.glob("r*"), key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("r"))


def probe_case(case: Case, search: Search, probe: Probe) -> Case:
    """The ordinary case that a probe runs: the value, and a few iterations unless it is of full length."""
    short = Measure(warmup_iterations=0, measured_iterations=search.iterations)
    measure = case.measure if probe.full else short
    return case.changed(**{search.axis: probe.value, "search": None, "measure": measure})


@dataclass(kw_only=True)
class LimitSearch:
    """Finds the largest value of one case.

    Attributes:
        case: it, with its search.
        folder: of the search; `limit.json` and the probes' run folders lie there.
        make: makes one run, `make(case, repeat)`, whose result then lies in the folder.
        model: asks the memory model about a case, for a guess and for its parts.
        say: is told of each probe.
    """

    case: Case
    folder: Path
    make: Callable[[Case, int], None]
    model: Callable[[Case], ModelAnswer]
    say: Callable[[str], None]
    _tried: list[Tried] = field(default_factory=list)
    _results: list[tuple[Probe, RunResult]] = field(default_factory=list)

    def forget_failures(self) -> None:
        """Remove the probes that failed for anything but memory, so that they are made again."""
        if not self.folder.is_dir():
            return
        for run in read_results(self.folder).runs:
            if outcome_of(run.result) is Outcome.FAILED:
                shutil.rmtree(run.folder)

    def find(self) -> LimitRecord:
        """The finished record, which is stored; raises what `make` raises."""
        search = self._search
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RUNS_FOLDER).mkdir(exist_ok=True)
        before = read_limit(self.folder)
        guess = before.guess if before is not None else self.model(self.case).largest
        where = Range(lower=search.lower, granularity=search.granularity, upper=search.upper, guess=guess)
        evidence = self._evidence(search)
        step = next_step(where, self._tried)
        while isinstance(step, Probe) or evidence:
            if isinstance(step, Probe):
                self._try(step, search)
            else:  # in the order in which they were made: after what had been found
                self._take(*evidence.pop(0))
            step = next_step(where, self._tried)
            if isinstance(step, Probe):
                self._write(self._record(where, step))
        record = self._record(where, step)
        self._write(record)
        return record

    def _evidence(self, search: Search) -> list[tuple[Probe, RunResult]]:
        """The runs of the case that were measured at limits found before, in the order of these."""
        found = []
        for folder in _evidence_folders(self.folder, self.case.case_id):
            result = read_result(folder)
            if result is not None:
                value = getattr(result.case, search.axis)
                found.append((Probe(value=value, full=True, attempt=_number(folder)), result))
        return found

    @property
    def _search(self) -> Search:
        if self.case.search is None:
            raise ValueError(f"{self.case.case_id} searches for nothing")
        return self.case.search

    def _try(self, probe: Probe, search: Search) -> None:
        case = probe_case(self.case, search, probe)
        folder = run_folder(self.folder, case_id=case.case_id, repeat=probe.attempt)
        result = read_result(folder)
        if result is None or result.status in _NEVER_MADE:
            self.make(case, probe.attempt)
            result = read_result(folder)
            if result is None:
                raise ValueError(f"{folder}: the probe left no result")
            self.say(f"{search.axis} {_words(probe, result)}")
        self._take(probe, result)

    def _take(self, probe: Probe, result: RunResult) -> None:
        self._tried.append(Tried(value=probe.value, full=probe.full, outcome=outcome_of(result)))
        self._results.append((probe, result))

    def _write(self, record: LimitRecord) -> None:
        write_document(self.folder / LIMIT_NAME, record)

    def _record(self, where: Range, step: Probe | End) -> LimitRecord:
        fails = min((one.value for one in self._tried if one.outcome is Outcome.MEMORY), default=None)
        good = [one.value for one in self._tried if one.outcome is Outcome.TRAINS]
        trains = max((value for value in good if fails is None or value < fails), default=None)
        if isinstance(step, Found):
            trains, fails = step.value, step.above
        case = with_value(self.case, trains or self._search.lower)
        done = not isinstance(step, Probe)
        return LimitRecord(
            dlperf_version=__version__,
            case=case,
            status=LimitStatus.SEARCHING if isinstance(step, Probe) else _STATUS[type(step)],
            reason=self._reason(step),
            trains=trains,
            fails=fails,
            most_probes=where.most_probes,
            guess=where.guess,
            model=self.model(case).parts if done else (),
            probes=tuple(self._probe_record(probe, result) for probe, result in self._results),
        )

    def _probe_record(self, probe: Probe, result: RunResult) -> ProbeRecord:
        folder = run_folder(self.folder, case_id=result.case.case_id, repeat=probe.attempt)
        place = str(folder.relative_to(self.folder))
        return probe_record(result, value=probe.value, full=probe.full, folder=place)

    def _reason(self, step: Probe | End) -> str:
        axis, probes = self._search.axis, len(self._results)
        last = self._results[-1][1] if self._results else None
        if isinstance(step, Found):
            return f"limit found in {probes} probes; {step.value} trains, {step.above} does not"
        if isinstance(step, BeyondUpper):
            return (
                f"{axis} {step.value} trains, and it is the largest that may be tried: "
                f"raise the upper bound (--upper, or search.{axis}.upper in a sweep)"
            )
        if isinstance(step, NothingTrains):
            return self._nothing_trains(step)
        if isinstance(step, Broken):
            why = "" if last is None else f": {last.status}: {last.reason}"
            return f"a probe at {axis} {step.value} failed again, and not for lack of memory{why}"
        return f"{probes} probes so far; the next one tries {step.value}"

    def _nothing_trains(self, end: NothingTrains) -> str:
        """What the smallest value says; an engine that never told its version has no room for itself."""
        smallest = [result for probe, result in self._results if probe.value == end.value]
        budget = self.case.memory_bytes
        if budget is not None and smallest and not smallest[-1].engine.facts:
            return (
                f"the memory budget of {bytes_text(budget)} is smaller than what {self.case.framework} takes "
                "by itself, before it trains anything: raise it"
            )
        why = f": {smallest[-1].reason}" if smallest else ""
        return f"does not train at the smallest value, {self._search.axis} {end.value}{why}"


def _words(probe: Probe, result: RunResult) -> str:
    outcome = outcome_of(result)
    what = {
        Outcome.TRAINS: "trains",
        Outcome.MEMORY: "runs out of memory",
        Outcome.FAILED: f"failed, {result.status}: {result.reason}",
    }[outcome]
    return f"{probe.value}{' at full length' if probe.full else ''}: {what}"
