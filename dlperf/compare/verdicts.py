"""What a comparison found: a verdict for each metric of each case, and what a reader must know beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dlperf.compare.matching import Difference, Pair, match
from dlperf.compare.sets import (
    LIMITS,
    MEASURED,
    MEMORY,
    METRICS,
    REGRESSIONS,
    SAMPLES_PER_SECOND,
    CaseSamples,
    Metric,
    ResultSet,
    Verdict,
)
from dlperf.compare.tests import Effect, Priors, Rule, TestResult, effect_of, run_tests
from dlperf.errors import SourceErrors, UserError
from dlperf.model import Model
from dlperf.plan.documents import read_document, unknown, validate
from dlperf.plan.plan import PlannedCase, PlanStatus, cell_of
from dlperf.plan.selection import parse_expression
from dlperf.report.numbers import percent
from dlperf.results.cases import canonical
from dlperf.results.noise_profile import Floor, NoiseProfile
from dlperf.results.published import NO_REPEATS, PREFIX
from dlperf.results.schema import Status
from dlperf.statistics.basic import FEWEST_RUNS
from dlperf.statistics.ranking import fastest
from dlperf.wording import plural

OTHER_SESSION = (
    "the sides were measured in different sessions, and how much this machine changes from one to another is "
    "not known: run both in turns (`dlperf gate`), or measure it (`dlperf qualify` on two days)"
)


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
    fails: bool = True  # a change for the worse of this metric is a regression

    @property
    def is_regression(self) -> bool:
        """A change for the worse that nobody announced, of a metric that fails."""
        return self.verdict in REGRESSIONS and self.expected is None and self.fails

    @property
    def can_be_settled(self) -> bool:
        """Whether more runs of the same kind may give a verdict."""
        return self.verdict is Verdict.INCONCLUSIVE and self.test is not None and self.reason != OTHER_SESSION

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
        return sum(row.verdict in verdicts for row in self.rows)

    @property
    def common(self) -> Comparison:
        """Without the cases that one side alone has; a note says how many."""
        kept = tuple(row for row in self.rows if row.verdict is not Verdict.MISSING)
        missing = len([row for row in self.cases if row.verdict is Verdict.MISSING])
        counts = f"{missing} of the baseline, {len(self.new)} of the candidate"
        left_out = f"left out, as one side alone has them: {counts}"
        notes = (*self.notes, left_out) if missing or self.new else self.notes
        return replace(self, rows=kept, new=(), notes=notes)

    @property
    def regressions(self) -> tuple[CaseVerdict, ...]:
        """Changes for the worse that nobody announced."""
        return tuple(row for row in self.rows if row.is_regression)


_FIELDS = {metric.name.removeprefix("max_"): metric for metric in LIMITS}


def limits(pairs: Sequence[Pair], *, allow: Collection[str] = ()) -> Iterator[CaseVerdict]:
    """The largest case of a kind that trained: no runs to test, a fact.

    One for each pair of cases with `max`, and each family that differs in one size alone, of which one case
    ran out of memory. Limits on different hardware, say, or of different budgets are not comparable unless
    `allow` names what differs.
    """
    for pair in pairs:
        search, other = pair.baseline.case.search, pair.candidate.case.search
        both_ok = pair.baseline.status is Status.OK and pair.candidate.status is Status.OK
        if search is not None and other is not None and both_ok:
            step = max(search.granularity, other.granularity)
            yield _limit(
                pair,
                _FIELDS[search.axis],
                before=pair.baseline.case.number(search.axis),
                after=pair.candidate.case.number(search.axis),
                step=step,
                barred=pair.barred({*allow, "limit"}),  # the limits are what is compared
                reason=f"found by search, in steps of {step}",
            )
    others = [pair for pair in pairs if pair.baseline.case.search is None]
    for field_name, metric in _FIELDS.items():
        families: dict[str, list[Pair]] = {}
        for pair in others:
            families.setdefault(canonical(pair.baseline.case, leaving_out=(field_name,)), []).append(pair)
        for family in families.values():
            before = _largest(field_name, [pair.baseline for pair in family])
            after = _largest(field_name, [pair.candidate for pair in family])
            out_of_memory = any(
                pair.baseline.out_of_memory or pair.candidate.out_of_memory for pair in family
            )
            # A side without a largest size is missing, which is said already.
            if out_of_memory and before is not None and after is not None:
                yield _limit(
                    family[0],
                    metric,
                    before=before,
                    after=after,
                    barred=next((barred for pair in family if (barred := pair.barred(allow))), None),
                    reason=f"the largest of {len(family)} sizes that trained; a larger one ran out of memory",
                )


def _largest(field_name: str, cases: Sequence[CaseSamples]) -> int | None:
    """The largest size that trained; None where none did, or one above it failed for anything but memory."""
    most = max((getattr(one.case, field_name) for one in cases if one.status is Status.OK), default=None)
    if most is None or any(getattr(one.case, field_name) > most and not one.out_of_memory for one in cases):
        return None
    return int(most)


def _limit(
    pair: Pair, metric: Metric, *, before: int, after: int, barred: str | None, reason: str, step: int = 1
) -> CaseVerdict:
    """The verdict on two limits; fewer than `step` apart they are the same."""
    verdict = Verdict.SAME if abs(after - before) < step else metric.verdict(after - before)
    if barred is not None:
        verdict, reason = Verdict.NOT_COMPARABLE, barred
    return _row(pair, metric, verdict, reason=reason, figures=(float(before), float(after)))


def _row(pair: Pair, metric: Metric, verdict: Verdict, **more: Any) -> CaseVerdict:
    """On a pair, by default with its figures of the metric."""
    row = CaseVerdict(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=verdict,
        differences=pair.differences,
        figures=(pair.baseline.figure(metric), pair.candidate.figure(metric)),
    )
    return replace(row, **more)


def notes_on(
    baseline: ResultSet, candidate: ResultSet, rows: Sequence[CaseVerdict], settings: Settings
) -> Iterator[str]:
    """How the sides were run, what was allowed, what failed, and which expectations are idle."""
    yield from settings.notes
    yield from _as_published(baseline, candidate)
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


def _as_published(*sides: ResultSet) -> Iterator[str]:
    """What published figures are, where they do not stand in their source as they stand here."""
    for side in sides:
        if side.label.startswith(PREFIX):
            good = (one.reason for one in side.cases if one.status is Status.OK)
            for reason, count in Counter(good).items():
                if reason not in {None, NO_REPEATS}:
                    yield f"{side.label}: {plural(count, 'figure')}: {reason}"


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
    pairs = [(row.baseline, row.candidate) for row in rows if row.candidate is not None]
    yield from dict.fromkeys(
        "different Pythons: "
        + ", ".join(f"{one.case.framework} {one.case.version} on {one.python}" for one in pair)
        + "; what they change counts as the framework's change"
        for pair in pairs
        if None not in {one.python for one in pair} and pair[0].python != pair[1].python
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user decides about a comparison.

    `margins` by metric name override the metrics' own; `noise_profile` holds the A/A noise of cases, which a
    change must exceed too; `allow` names guards whose difference is let pass; `priors` of an earlier round
    serve by metric name where this one has too few cases. `named` are the metrics that the user asked for.
    """

    metrics: tuple[Metric, ...] = MEASURED
    named: Collection[str] = ()
    margins: Mapping[str, float] = field(default_factory=dict)
    noise_profile: NoiseProfile | None = None
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

    def noise_floor(self, pair: Pair, metric: Metric, *, in_turns: bool) -> Floor | None:
        """How much equal sides may differ, run in common blocks or not; None where it was not measured."""
        if self.noise_profile is None:
            return None
        cases = [(one.case, one.hardware) for one in (pair.baseline, pair.candidate)]
        return self.noise_profile.floor(cases, metric.name, in_turns=in_turns)


def compare(baseline: ResultSet, candidate: ResultSet, *, settings: Settings | None = None) -> Comparison:
    """Every verdict that the runs of two sides allow."""
    settings = settings or Settings()
    matched = match(baseline, candidate, compared=settings.compared)
    rows: list[CaseVerdict] = []
    for metric in settings.metrics:
        rows += _of_metric(matched.pairs, metric, settings)
    other_peaks = dict.fromkeys(filter(None, map(_other_peaks, matched.pairs)))
    rows += [
        CaseVerdict(
            baseline=one,
            candidate=None,
            metric=settings.lead,
            verdict=Verdict.MISSING,
            reason="the candidate has no such case",
            figures=(one.figure(settings.lead), None),
        )
        for one in matched.only_baseline
        if one.status is Status.OK
    ]
    rows += limits(matched.pairs, allow=settings.allow)
    rows = [
        replace(
            row,
            expected=next((one for one in settings.expected if one.covers(row, today=settings.today)), None),
            fails=row.metric.fails or row.metric.name in settings.named,
        )
        for row in rows
    ]
    place = {id(one): number for number, one in enumerate(baseline.cases)}
    rows.sort(key=lambda row: place[id(row.baseline)])
    first_time = [
        pair.candidate
        for pair in matched.pairs
        if pair.baseline.status in _NEVER_TRIED and pair.candidate.status is Status.OK
    ]
    return Comparison(
        baseline=baseline.label,
        candidate=candidate.label,
        rows=tuple(rows),
        metric=settings.lead,
        new=(*matched.only_candidate, *first_time),
        notes=(*notes_on(baseline, candidate, rows, settings), *other_peaks),
    )


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
    if None in {pair.baseline.figure(metric), pair.candidate.figure(metric)}:
        is_lead = metric is settings.lead
        if metric in MEMORY:
            if not is_lead and metric.name not in settings.named:
                return None  # a note says it once
            if (reason := _other_peaks(pair)) is not None:
                return _row(pair, metric, Verdict.NOT_COMPARABLE, reason=reason)
        reason = _why_missing(pair, metric, is_lead=is_lead)
        return None if reason is None else _row(pair, metric, Verdict.MISSING, reason=reason, differences=())
    values = _values(pair, metric)
    bad = [value for side in values for value in side.values() if not (math.isfinite(value) and value > 0)]
    barred = pair.barred(settings.allow) or (f"{metric.title} of {bad[0]:g} is no figure" if bad else None)
    if barred is not None:
        return _row(pair, metric, Verdict.NOT_COMPARABLE, reason=barred)
    if min(map(len, values)) < FEWEST_RUNS:
        counts = " and ".join(str(len(side)) for side in values)
        reason = f"{counts} good runs; a verdict takes {FEWEST_RUNS} on each side"
        return _row(pair, metric, Verdict.INCONCLUSIVE, reason=reason)
    return effect_of(*values)


def _why_missing(pair: Pair, metric: Metric, *, is_lead: bool) -> str | None:
    """Which side has no figure and why; None where that is said by the lead metric already."""
    before, after = pair.baseline, pair.candidate
    if before.figure(metric) is None:
        # A baseline that failed is missing; one that nobody tried has nothing to fall behind.
        if not is_lead or before.status in _NEVER_TRIED:
            return None
        if before.status is Status.OK:
            return f"the baseline's runs have no {metric.title}"
        return f"the baseline has no figure: {before.ending}"
    if after.status is Status.OK:
        return f"the candidate's runs have no {metric.title}"
    return after.ending if is_lead else None


def _other_peaks(pair: Pair) -> str | None:
    """Which peaks of memory each side measured, where they have none in common; one is never another's."""
    sides = (pair.baseline, pair.candidate)
    peaks = [[one.title for one in MEMORY if side.figure(one) is not None] for side in sides]
    if any(side.status is not Status.OK for side in sides) or set(peaks[0]) & set(peaks[1]) or not any(peaks):
        return None
    before, after = (" and ".join(titles) or "no peak of memory" for titles in peaks)
    return f"memory is not compared: the baseline has {before}, the candidate {after}"


_NEVER_TRIED = frozenset({Status.UNSUPPORTED, Status.NOT_MEASURED})


def _values(pair: Pair, metric: Metric) -> tuple[dict[str, float], dict[str, float]]:
    """The values of both sides by block; a block holds runs of one cell, as those are made in turns."""
    before, after = pair.baseline.values(metric), pair.candidate.values(metric)
    blocks = {run.block for run in pair.candidate.runs}
    if cell_of(pair.baseline.case) != cell_of(pair.candidate.case):
        blocks = set()
    return before, {name if name in blocks else f"candidate's {name}": one for name, one in after.items()}


def _tested(pair: Pair, metric: Metric, test: TestResult, floor: Floor | None, *, own: float) -> CaseVerdict:
    verdict, reason, drowned = test.verdict, None, _drowned(floor, own)
    if verdict in {Verdict.SAME, Verdict.INCONCLUSIVE} and drowned:
        verdict, reason = Verdict.INCONCLUSIVE, drowned
    elif verdict is Verdict.INCONCLUSIVE:
        settle = test.runs_to_settle
        reason = (
            f"about {settle} runs per side would settle it" if settle else "too noisy to settle by more runs"
        )
    elif verdict is not Verdict.SAME and metric.speed:
        reason = _not_told(pair, metric, floor, blocked=test.effect.blocked)
        verdict = verdict if reason is None else Verdict.INCONCLUSIVE
    return _row(pair, metric, verdict, reason=reason, test=test, noise_floor=floor)


def _not_told(pair: Pair, metric: Metric, floor: Floor | None, *, blocked: bool) -> str | None:
    """Why a difference of speed that the runs show is no verdict about what is compared."""
    sessions = pair.baseline.sessions
    is_in_one = blocked or (sessions == pair.candidate.sessions and None not in sessions)
    if not is_in_one and not (floor is not None and floor.sessions):
        return OTHER_SESSION
    if pair.baseline.case.framework == pair.candidate.case.framework or metric is not SAMPLES_PER_SECOND:
        return None
    names = {f"{one.case.framework} {one.case.version}": one for one in (pair.baseline, pair.candidate)}
    standing = fastest({name: list(one.values(metric).values()) for name, one in names.items()})
    return None if standing is None or standing.winner is not None else standing.in_words(str)


def _drowned(floor: Floor | None, margin: float) -> str | None:
    """Why a change as small as the margin cannot be ruled out where equal sides differ by more."""
    if floor is None or floor.value <= margin:
        return None
    known = f"equal sides differ by up to {percent(floor.value)} here"
    if floor.sessions:
        return f"{known} from session to session; run both sides in turns"
    return f"{known} (A/A); more runs a side make that less"


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
        """Whether it excuses the finding, which is a change for the worse or a missing case."""
        if finding.verdict not in REGRESSIONS | {Verdict.MISSING}:
            return False
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
    """The entries of a file of expected failures; SourceErrors with each mistake and its line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of expected failures")
    document = read_document(path, shown=str(path))
    file, problems = validate(ExpectedFile, document)
    problems = [*document.problems, *problems]
    if file is None or problems:
        raise SourceErrors(problems)
    return file.expected
