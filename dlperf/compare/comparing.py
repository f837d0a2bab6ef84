"""Two sides -> findings: matched, guarded, tested together, judged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dlperf.compare.contrast import FEWEST_RUNS, contrast
from dlperf.compare.finding import Finding, Findings
from dlperf.compare.judging import judge
from dlperf.compare.limits import limits
from dlperf.compare.matching import match
from dlperf.compare.metrics import REGRESSIONS, Metric, Verdict
from dlperf.compare.notes import notes_on
from dlperf.compare.settings import Settings
from dlperf.plan.order import cell_of
from dlperf.report.numbers import percent
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.compare.contrast import Contrast
    from dlperf.compare.judging import Judged
    from dlperf.compare.matching import Pair
    from dlperf.compare.side import Side, SideCase
    from dlperf.results.qualification import Floor


def compare(baseline: Side, candidate: Side, *, settings: Settings | None = None) -> Findings:
    """Every verdict that the runs of two sides allow."""
    settings = settings or Settings()
    matched = match(baseline, candidate, compared=settings.compared)
    rows: list[Finding] = []
    for metric in settings.metrics:
        rows += _of_metric(matched.pairs, metric, settings)
    gone = [one for one in matched.only_baseline if one.status is Status.OK]
    rows += [_missing(one, None, metric=settings.lead) for one in gone]
    rows += limits(matched.pairs, allow=settings.allow)
    rows = [_with_expectation(row, settings) for row in rows]
    place = {id(one): number for number, one in enumerate(baseline.cases)}
    rows.sort(key=lambda row: place[id(row.baseline)])
    return Findings(
        baseline=baseline.label,
        candidate=candidate.label,
        rows=tuple(rows),
        metric=settings.lead,
        new=(*matched.only_candidate, *_first_time(matched.pairs)),
        notes=tuple(notes_on(baseline, candidate, rows, settings)),
    )


def _first_time(pairs: Sequence[Pair]) -> list[SideCase]:
    """Cases that only the candidate tried."""
    return [
        pair.candidate
        for pair in pairs
        if pair.baseline.status in _NEVER_TRIED and pair.candidate.status is Status.OK
    ]


def _of_metric(pairs: Sequence[Pair], metric: Metric, settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    tested: list[tuple[Pair, Contrast, Floor | None]] = []
    for pair in pairs:
        untested = _untested(pair, metric, settings)
        if isinstance(untested, Finding):
            found.append(untested)
        elif untested is not None:
            floor = settings.noise_floor(pair, metric, in_turns=untested.blocked)
            tested.append((pair, untested, floor))
    own = settings.margins.get(metric.name, metric.margin)
    verdicts = judge(
        metric,
        [made for _, made, _ in tested],
        margins=[own if floor is None else max(own, floor.value) for _, _, floor in tested],
        rule=settings.rule,
        priors=settings.priors.get(metric.name),
    )
    found += [
        _judged(pair, metric, judged, floor, own=own)
        for (pair, _, floor), judged in zip(tested, verdicts, strict=True)
    ]
    return found


def _untested(pair: Pair, metric: Metric, settings: Settings) -> Finding | Contrast | None:
    """What can be said without a test, else what is to be tested; None: neither side has the metric."""
    before, after = pair.baseline.figure(metric), pair.candidate.figure(metric)
    if before is None:
        return _without_baseline(pair, metric) if metric is settings.lead else None
    if after is None:
        only_once = metric is settings.lead or pair.candidate.status is Status.OK
        return _missing(pair.baseline, pair.candidate, metric=metric) if only_once else None
    finding = Finding(
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
    return contrast(*values)


def _values(pair: Pair, metric: Metric) -> tuple[dict[str, float], dict[str, float]]:
    """The values of both sides by block; a block holds runs of one cell, as those are made in turns."""
    before, after = pair.baseline.values(metric), pair.candidate.values(metric)
    if cell_of(pair.baseline.case) != cell_of(pair.candidate.case):
        after = {f"another cell's {block}": value for block, value in after.items()}
    return before, after


_NEVER_TRIED = frozenset({Status.UNSUPPORTED, Status.NOT_MEASURED})


def _without_baseline(pair: Pair, metric: Metric) -> Finding | None:
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


def _judged(pair: Pair, metric: Metric, judged: Judged, floor: Floor | None, *, own: float) -> Finding:
    verdict, reason = judged.verdict, None
    if verdict in {Verdict.SAME, Verdict.INCONCLUSIVE} and _drowned(floor, own):
        verdict, reason = Verdict.INCONCLUSIVE, _drowned(floor, own)
    elif verdict is Verdict.INCONCLUSIVE:
        settle = judged.runs_to_settle
        reason = f"about {settle} runs a side would settle it" if settle else "too noisy to settle with runs"
    return Finding(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=verdict,
        reason=reason,
        judged=judged,
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


def _missing(baseline: SideCase, candidate: SideCase | None, *, metric: Metric) -> Finding:
    reason = "the candidate has no such case"
    if candidate is not None and candidate.status is Status.OK:
        reason = f"the candidate's runs have no {metric.title}"
    elif candidate is not None:
        reason = candidate.status.value + (f": {candidate.reason}" if candidate.reason else "")
    return Finding(
        baseline=baseline,
        candidate=candidate,
        metric=metric,
        verdict=Verdict.MISSING,
        reason=reason,
        figures=(baseline.figure(metric), None),
    )


def _with_expectation(row: Finding, settings: Settings) -> Finding:
    if row.verdict not in REGRESSIONS and row.verdict is not Verdict.MISSING:
        return row
    one = next((one for one in settings.expected if one.covers(row, today=settings.today)), None)
    return row if one is None else replace(row, expected=one)
