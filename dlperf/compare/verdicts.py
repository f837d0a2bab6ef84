"""What a comparison found: a verdict for each metric of each case, and what a reader must know beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import AfterValidator, BeforeValidator, Field

from dlperf.compare.matching import Difference, Pair, match
from dlperf.compare.sets import (
    IMPROVEMENTS,
    LIMITS,
    MEASURED,
    METRICS,
    REGRESSIONS,
    SAMPLES_PER_SECOND,
    CaseSamples,
    Metric,
    ResultSet,
    Verdict,
)
from dlperf.compare.tests import FEWEST_RUNS, Effect, Priors, Rule, TestResult, effect_of, run_tests
from dlperf.errors import SourceErrors, UserError
from dlperf.model import Model
from dlperf.plan.documents import read_document, unknown, validate
from dlperf.plan.plan import PlannedCase, PlanStatus, cell_of
from dlperf.plan.selection import parse_expression
from dlperf.report.numbers import percent, plural
from dlperf.results.cases import canonical
from dlperf.results.noise_profile import Floor, NoiseProfile
from dlperf.results.schema import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseVerdict:
    """The verdict on one metric of one case. `test` is None where no test was made; `reason` says why."""

    baseline: CaseSamples
    candidate: CaseSamples | None
    metric: Metric
    verdict: Verdict
    reason: str | None = None
    test: TestResult | None = None
    differences: tuple[Difference, ...] = ()
    figures: tuple[float | None, float | None] = (None, None)
    expected: ExpectedFailure | None = None
    noise_floor: Floor | None = None  # of the case, where it was qualified

    @property
    def is_regression(self) -> bool:
        """A change for the worse that nobody announced."""
        return self.verdict in REGRESSIONS and self.expected is None

    @property
    def ratio(self) -> float | None:
        """Candidate over baseline: of the geometric means where tested, else of the figures."""
        if self.test is not None:
            return self.test.ratio
        before, after = self.figures
        return after / before if before and after else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All findings of a comparison, in the order of the baseline's cases; `notes` hold for all of them.

    `metric` is the one that cases are counted by: every case has one finding on it.
    """

    baseline: str
    candidate: str
    rows: tuple[CaseVerdict, ...]
    metric: Metric = SAMPLES_PER_SECOND
    new: tuple[CaseSamples, ...] = ()  # of the candidate alone
    notes: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[CaseVerdict, ...]:
        """The findings on the metric that cases are counted by."""
        return tuple(row for row in self.rows if row.metric is self.metric)

    def count(self, *verdicts: Verdict) -> int:
        """How many findings have one of the verdicts."""
        counts = Counter(row.verdict for row in self.rows)
        return sum(counts[verdict] for verdict in verdicts)

    @property
    def regressions(self) -> tuple[CaseVerdict, ...]:
        """Changes for the worse that nobody announced."""
        return tuple(row for row in self.rows if row.is_regression)

    @property
    def improvements(self) -> tuple[CaseVerdict, ...]:
        """Changes for the better."""
        return tuple(row for row in self.rows if row.verdict in IMPROVEMENTS)


# The largest case of a kind that trained, found by search or among sizes: no runs to test, a fact.


_FIELDS = {metric.name.removeprefix("max_"): metric for metric in LIMITS}


def limits(pairs: Sequence[Pair], *, allow: Collection[str] = ()) -> list[CaseVerdict]:
    """One finding for each pair of cases with `max`, and each family that differs in one size alone.

    Of a family one case must have run out of memory. Limits on different hardware, say, or of different
    budgets are not comparable unless `allow` names what differs.
    """
    searched = [pair for pair in pairs if pair.baseline.case.search is not None]
    others = [pair for pair in pairs if pair.baseline.case.search is None]
    found = [finding for pair in searched for finding in _found_by_search(pair, allow)]
    return found + [
        finding for field, metric in _FIELDS.items() for finding in _of(field, metric, others, allow)
    ]


def _found_by_search(pair: Pair, allow: Collection[str]) -> Iterator[CaseVerdict]:
    """The two limits; a side without one is missing, which is said already."""
    search, other = pair.baseline.case.search, pair.candidate.case.search
    both_ok = pair.baseline.status is Status.OK and pair.candidate.status is Status.OK
    if search is None or other is None or not both_ok:
        return
    before, after = (one.case.number(search.axis) for one in (pair.baseline, pair.candidate))
    step = max(search.granularity, other.granularity)
    yield _finding(
        pair,
        _FIELDS[search.axis],
        before=before,
        after=after,
        step=step,
        barred=pair.barred({*allow, "limit"}),  # the limits are what is compared
        reason=f"found by search, in steps of {step}",
    )


def _of(field: str, metric: Metric, pairs: Sequence[Pair], allow: Collection[str]) -> Iterator[CaseVerdict]:
    families: dict[str, list[Pair]] = {}
    for pair in pairs:
        families.setdefault(canonical(pair.baseline.case, leaving_out=(field,)), []).append(pair)
    for family in families.values():
        if not any(pair.baseline.out_of_memory or pair.candidate.out_of_memory for pair in family):
            continue
        before = _largest(field, [pair.baseline for pair in family])
        after = _largest(field, [pair.candidate for pair in family])
        if before is None or after is None:
            continue  # a case that is missing, which is said already
        yield _finding(
            family[0],
            metric,
            before=before,
            after=after,
            step=1,
            barred=next((barred for pair in family if (barred := pair.barred(allow))), None),
            reason=f"the largest of {len(family)} sizes that trained; a larger one ran out of memory",
        )


def _largest(field: str, cases: Sequence[CaseSamples]) -> int | None:
    """The largest size that trained; None where none did, or one above it failed for anything but memory."""
    most = max((getattr(one.case, field) for one in cases if one.status is Status.OK), default=None)
    if most is None or any(getattr(one.case, field) > most and not one.out_of_memory for one in cases):
        return None
    return int(most)


def _finding(
    pair: Pair, metric: Metric, *, before: int, after: int, step: int, barred: str | None, reason: str
) -> CaseVerdict:
    """The finding on two limits; fewer than `step` apart they are the same."""
    verdict = Verdict.SAME if abs(after - before) < step else metric.verdict(after - before)
    return CaseVerdict(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=verdict if barred is None else Verdict.NOT_COMPARABLE,
        reason=barred or reason,
        differences=pair.differences,
        figures=(float(before), float(after)),
    )


# What a reader must know beside the verdicts of a comparison, one line each.


def notes_on(
    baseline: ResultSet, candidate: ResultSet, rows: Sequence[CaseVerdict], settings: Settings
) -> Iterator[str]:
    """How the sides were run, what was allowed, what failed, and which expectations are idle."""
    yield from settings.notes
    yield from _apart(rows)
    yield from _pythons(rows)
    allowed = {one.guard for row in rows for one in row.differences if one.guard in settings.allow}
    for guard in sorted(allowed):
        yield f"{guard} differs and was allowed to (--allow {guard})"
    failed = sum(one.failed_runs for one in candidate.cases), sum(one.failed_runs for one in baseline.cases)
    if any(failed):
        yield f"failed runs are left out: {failed[1]} of the baseline, {failed[0]} of the candidate"
    yield from (one.over for one in settings.expected if one.is_over(settings.today))
    used = {id(row.expected) for row in rows}
    yield from (
        f"{_IDLE}: {one.case} ({one.reason}); remove it from the file"
        for one in settings.expected
        if id(one) not in used and not one.is_over(settings.today)
    )


_IDLE = "expected failure matches nothing"


def of_several(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The notes of several comparisons, each once; what one of them has a use for is not idle."""
    return tuple(
        note
        for note in dict.fromkeys(note for part in parts for note in part)
        if not note.startswith(_IDLE) or all(note in part for part in parts)
    )


def _apart(rows: Sequence[CaseVerdict]) -> Iterator[str]:
    """What it means that sides were not run in turns, and whether anybody knows how much that is."""
    tested = [row for row in rows if row.test is not None]
    apart = [row for row in tested if row.test is not None and not row.test.effect.blocked]
    if not apart:
        return
    some = "" if len(apart) == len(tested) else f" of {len(apart)} in {plural(len(tested), 'finding')}"
    yield (
        f"the sides{some} were not run in common blocks: a machine that changed in between looks like a "
        "change of the framework; `dlperf gate` runs both sides in turns"
    )
    known = [row.noise_floor.sessions for row in apart if row.noise_floor and row.noise_floor.sessions]
    if not known:
        yield (
            "how much this machine changes from one session to another was not measured; `dlperf qualify` on "
            "two days or more measures it"
        )
        return
    most = f"{min(known)} to {max(known)}" if min(known) < max(known) else str(known[0])
    yield (
        f"how much this machine changes from one session to another is known for {len(known)} of "
        f"{plural(len(apart), 'finding')}, from {most} sessions of A/A runs"
    )


def _pythons(rows: Sequence[CaseVerdict]) -> Iterator[str]:
    """Versions that ran on different Pythons, which are a part of what is compared then."""
    pairs = dict.fromkeys(
        (_runtime(row.baseline), _runtime(row.candidate))
        for row in rows
        if row.candidate is not None and _differ(row.baseline.python, row.candidate.python)
    )
    for before, after in pairs:
        yield f"different Pythons: {before}, {after}; what they change counts as the framework's change"


def _differ(before: str | None, after: str | None) -> bool:
    return before is not None and after is not None and before != after


def _runtime(one: CaseSamples) -> str:
    return f"{one.case.framework} {one.case.version} on {one.python}"


# What the user decides about a comparison: metrics, margins, known noise, what may differ or be worse.


class NoiseFloor(Protocol):
    """How large a difference of equal sides may be; None where nobody knows."""

    def __call__(self, pair: Pair, metric: Metric, /, *, in_turns: bool) -> Floor | None:
        """Of the pair's case; `in_turns`: the sides were run in common blocks."""


def no_floor(_pair: Pair, _metric: Metric, *, in_turns: bool) -> Floor | None:  # noqa: ARG001 - see NoiseFloor
    """For machines that nobody qualified."""
    return None


def qualified_floor(noise_profile: NoiseProfile) -> NoiseFloor:
    """The noise floors that were measured."""

    def floor(pair: Pair, metric: Metric, *, in_turns: bool) -> Floor | None:
        cases = [(one.case, one.hardware) for one in (pair.baseline, pair.candidate)]
        return noise_profile.floor(cases, metric.name, in_turns=in_turns)

    return floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user decides about a comparison.

    `margins` by metric name lie over the metrics' own; `noise_floor` gives a case's A/A noise, which a change
    must exceed too; `allow` names guards whose difference is let pass; `priors` of an earlier round serve by
    metric name where this one has too few cases.
    """

    metrics: tuple[Metric, ...] = MEASURED
    margins: Mapping[str, float] = field(default_factory=dict)
    noise_floor: NoiseFloor = no_floor
    allow: Collection[str] = ()
    compared: Collection[str] = ()
    rule: Rule = field(default_factory=Rule)
    priors: Mapping[str, Priors] = field(default_factory=dict)
    expected: Sequence[ExpectedFailure] = ()
    notes: tuple[str, ...] = ()  # of the caller
    today: date | None = None

    @property
    def lead(self) -> Metric:
        """The metric that every case has a finding on: samples/s where it is compared."""
        return SAMPLES_PER_SECOND if SAMPLES_PER_SECOND in self.metrics else self.metrics[0]


# Two sides -> findings: matched, guarded, tested together, test.


def compare(baseline: ResultSet, candidate: ResultSet, *, settings: Settings | None = None) -> Comparison:
    """Every verdict that the runs of two sides allow."""
    settings = settings or Settings()
    matched = match(baseline, candidate, compared=settings.compared)
    rows: list[CaseVerdict] = []
    for metric in settings.metrics:
        rows += _of_metric(matched.pairs, metric, settings)
    gone = [one for one in matched.only_baseline if one.status is Status.OK]
    rows += [_missing(one, None, metric=settings.lead) for one in gone]
    rows += limits(matched.pairs, allow=settings.allow)
    rows = [_with_expectation(row, settings) for row in rows]
    place = {id(one): number for number, one in enumerate(baseline.cases)}
    rows.sort(key=lambda row: place[id(row.baseline)])
    return Comparison(
        baseline=baseline.label,
        candidate=candidate.label,
        rows=tuple(rows),
        metric=settings.lead,
        new=(*matched.only_candidate, *_first_time(matched.pairs)),
        notes=tuple(notes_on(baseline, candidate, rows, settings)),
    )


def _first_time(pairs: Sequence[Pair]) -> list[CaseSamples]:
    """Cases that only the candidate tried."""
    return [
        pair.candidate
        for pair in pairs
        if pair.baseline.status in _NEVER_TRIED and pair.candidate.status is Status.OK
    ]


def _of_metric(pairs: Sequence[Pair], metric: Metric, settings: Settings) -> list[CaseVerdict]:
    found: list[CaseVerdict] = []
    tested: list[tuple[Pair, Effect, Floor | None]] = []
    for pair in pairs:
        untested = _untested(pair, metric, settings)
        if isinstance(untested, CaseVerdict):
            found.append(untested)
        elif untested is not None:
            floor = settings.noise_floor(pair, metric, in_turns=untested.blocked)
            tested.append((pair, untested, floor))
    own = settings.margins.get(metric.name, metric.margin)
    verdicts = run_tests(
        metric,
        [made for _, made, _ in tested],
        margins=[own if floor is None else max(own, floor.value) for _, _, floor in tested],
        rule=settings.rule,
        priors=settings.priors.get(metric.name),
    )
    found += [
        _tested(pair, metric, test, floor, own=own)
        for (pair, _, floor), test in zip(tested, verdicts, strict=True)
    ]
    return found


def _untested(pair: Pair, metric: Metric, settings: Settings) -> CaseVerdict | Effect | None:
    """What can be said without a test, else what is to be tested; None: neither side has the metric."""
    before, after = pair.baseline.figure(metric), pair.candidate.figure(metric)
    if before is None:
        return _without_baseline(pair, metric) if metric is settings.lead else None
    if after is None:
        only_once = metric is settings.lead or pair.candidate.status is Status.OK
        return _missing(pair.baseline, pair.candidate, metric=metric) if only_once else None
    finding = CaseVerdict(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=Verdict.NOT_COMPARABLE,
        differences=pair.differences,
        figures=(before, after),
    )
    barred = pair.barred(settings.allow)
    if barred is not None:
        return replace(finding, reason=barred)
    values = _values(pair, metric)
    bad = [value for side in values for value in side.values() if not (math.isfinite(value) and value > 0)]
    if bad:
        return replace(finding, reason=f"{metric.title} of {bad[0]:g} is no figure")
    if min(map(len, values)) < FEWEST_RUNS:
        counts = " and ".join(str(len(side)) for side in values)
        reason = f"{counts} good runs; a verdict takes {FEWEST_RUNS} on each side"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return effect_of(*values)


def _values(pair: Pair, metric: Metric) -> tuple[dict[str, float], dict[str, float]]:
    """The values of both sides by block; a block holds runs of one cell, as those are made in turns."""
    before, after = pair.baseline.values(metric), pair.candidate.values(metric)
    if cell_of(pair.baseline.case) != cell_of(pair.candidate.case):
        after = {f"another cell's {block}": value for block, value in after.items()}
    return before, after


_NEVER_TRIED = frozenset({Status.UNSUPPORTED, Status.NOT_MEASURED})


def _without_baseline(pair: Pair, metric: Metric) -> CaseVerdict | None:
    """A baseline that failed is missing; one that nobody tried has nothing to fall behind."""
    before = pair.baseline
    if before.status in _NEVER_TRIED:
        return None
    reason = f"the baseline has no figure: {before.status.value}"
    if before.status is Status.OK:
        reason = f"the baseline's runs have no {metric.title}"
    elif before.reason:
        reason += f": {before.reason}"
    return replace(
        _missing(before, pair.candidate, metric=metric),
        reason=reason,
        figures=(None, pair.candidate.figure(metric)),
    )


def _tested(pair: Pair, metric: Metric, test: TestResult, floor: Floor | None, *, own: float) -> CaseVerdict:
    verdict, reason = test.verdict, None
    if verdict in {Verdict.SAME, Verdict.INCONCLUSIVE} and _drowned(floor, own):
        verdict, reason = Verdict.INCONCLUSIVE, _drowned(floor, own)
    elif verdict is Verdict.INCONCLUSIVE:
        settle = test.runs_to_settle
        reason = (
            f"about {settle} runs per side would settle it" if settle else "too noisy to settle by more runs"
        )
    return CaseVerdict(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=verdict,
        reason=reason,
        test=test,
        differences=pair.differences,
        figures=(pair.baseline.figure(metric), pair.candidate.figure(metric)),
        noise_floor=floor,
    )


def _drowned(floor: Floor | None, margin: float) -> str | None:
    """Why a change as small as the margin cannot be ruled out where equal sides differ by more."""
    if floor is None or floor.value <= margin:
        return None
    known = f"equal sides differ by up to {percent(floor.value)} here"
    if floor.sessions:
        return f"{known} from session to session; run both sides in turns"
    return f"{known} (A/A); more runs a side make that less"


def _missing(baseline: CaseSamples, candidate: CaseSamples | None, *, metric: Metric) -> CaseVerdict:
    reason = "the candidate has no such case"
    if candidate is not None and candidate.status is Status.OK:
        reason = f"the candidate's runs have no {metric.title}"
    elif candidate is not None:
        reason = candidate.status.value + (f": {candidate.reason}" if candidate.reason else "")
    return CaseVerdict(
        baseline=baseline,
        candidate=candidate,
        metric=metric,
        verdict=Verdict.MISSING,
        reason=reason,
        figures=(baseline.figure(metric), None),
    )


def _with_expectation(row: CaseVerdict, settings: Settings) -> CaseVerdict:
    if row.verdict not in REGRESSIONS and row.verdict is not Verdict.MISSING:
        return row
    one = next((one for one in settings.expected if one.covers(row, today=settings.today)), None)
    return row if one is None else replace(row, expected=one)


# Regressions that are known and accepted for a time: a YAML file, each with its reason and its last day.


def _expression(text: str) -> str:
    try:
        parse_expression(text)
    except UserError as error:
        raise ValueError(str(error)) from None
    return text


def _day(value: object) -> object:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is no day; write it as 2026-12-31") from None


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(unknown("metric", name, METRICS))
    return name


class ExpectedFailure(Model):
    """One entry: cases (as `-k` selects them) of which a regression is no alarm until a day."""

    case: Annotated[str, AfterValidator(_expression)]
    metric: Annotated[str, AfterValidator(_metric)] | None = None  # None: all
    reason: Annotated[str, Field(min_length=1)]
    until: Annotated[date, BeforeValidator(_day)]

    def is_over(self, today: date | None) -> bool:
        """Whether its last day has passed."""
        return (today or datetime.now(UTC).date()) > self.until

    @property
    def over(self) -> str:
        """What a reader is told once its last day has passed."""
        return f"expected failure is over since {self.until}: {self.case} ({self.reason}); it counts again"

    def covers(self, finding: CaseVerdict, *, today: date | None) -> bool:
        """Whether it excuses the finding."""
        if self.is_over(today) or self.metric not in {None, finding.metric.name}:
            return False
        matches = parse_expression(self.case)
        sides = (finding.candidate, finding.baseline)
        return any(
            matches(PlannedCase(case=side.case, status=PlanStatus.RUNNABLE))
            for side in sides
            if side is not None
        )


class ExpectedFile(Model):
    """The whole file."""

    expected: tuple[ExpectedFailure, ...]


def read_expected(path: Path) -> tuple[ExpectedFailure, ...]:
    """The entries of a file of expected failures.

    Raises:
        UserError: there is no such file.
        SourceErrors: whatever is wrong in it, each with its line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of expected failures")
    document = read_document(path, shown=str(path))
    file, problems = validate(ExpectedFile, document)
    problems = [*document.problems, *problems]
    if file is None or problems:
        raise SourceErrors(problems)
    return file.expected
