"""From a first look to a verdict: what looks worse is run again, and judged on the fresh runs alone.

A first look at many cases finds some by chance. Runs made after the suspicion are not chosen by it, so that
they can be judged as if they were the only ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dlperf.compare.sets import REGRESSIONS, Metric, ResultSet, Verdict
from dlperf.compare.tests import Rule, TestResult, fit_priors
from dlperf.compare.verdicts import OTHER_SESSION, CaseVerdict, Comparison, Settings, compare
from dlperf.errors import UserError
from dlperf.plan.case import Case
from dlperf.plan.documents import unknown
from dlperf.statistics.basic import LEVEL, holm

# How often fresh runs may be looked at: a single disturbed run can hide a change from the first look.
CONFIRMING_LOOKS = 2
CONFIRMING_RULE = Rule(level=LEVEL / CONFIRMING_LOOKS, adjust=holm)
# Part of the margin from which on a likely change is looked at again.
_WORTH_A_LOOK = 0.5


def suspects(findings: Comparison) -> tuple[CaseVerdict, ...]:
    """What looks worse at 5 %, tested as if it were alone, by half the margin or more."""
    return tuple(
        row
        for row in findings.rows
        if row.test is not None
        and row.expected is None
        and row.fails
        and row.reason != OTHER_SESSION
        and looks_worse(row.metric, row.test)
    )


def looks_worse(metric: Metric, test: TestResult) -> bool:
    """Whether an effect is worth more runs."""
    effect = test.effect.log_ratio
    return (
        metric.verdict(effect) in REGRESSIONS
        and test.p < LEVEL
        and abs(effect) >= _WORTH_A_LOOK * math.log1p(test.margin)
    )


def confirm(first: Comparison, *, fresh: tuple[ResultSet, ResultSet], settings: Settings) -> Comparison:
    """The first findings with every suspect's replaced by the finding on the fresh runs alone.

    Each metric's suspects are tested together by Holm's rule, at a level that allows for `CONFIRMING_LOOKS`.
    The variances are moderated by what the first round found out about them.
    """
    doubtful = suspects(first)
    replaced: dict[int, CaseVerdict] = {}
    for metric in dict.fromkeys(row.metric for row in doubtful):
        rows = [row for row in doubtful if row.metric is metric]
        effects = [row.test.effect for row in first.rows if row.metric is metric and row.test is not None]
        again = compare(
            *(_cases_of(side, rows) for side in fresh),
            settings=replace(
                settings,
                metrics=(metric,),
                rule=CONFIRMING_RULE,
                priors={metric.name: fit_priors(effects)},
                notes=(),
                expected=(),
            ),
        )
        by_case = {row.baseline.case.content_hash: row for row in again.rows if row.metric is metric}
        for row in rows:
            found = by_case.get(row.baseline.case.content_hash)
            replaced[id(row)] = (
                replace(row, verdict=Verdict.INCONCLUSIVE, reason="it could not be run again")
                if found is None
                else replace(found, baseline=row.baseline, noise_floor=row.noise_floor)
            )
    note = f"suspects run again and judged on those runs alone: {len(replaced)}"
    return replace(
        first,
        rows=tuple(replaced.get(id(row), row) for row in first.rows),
        notes=(*first.notes, note) if replaced else first.notes,
    )


def undecided(confirmed: Comparison, first: Comparison) -> tuple[CaseVerdict, ...]:
    """The suspects of the first findings that their fresh runs could not tell."""
    doubtful = {_key(row) for row in suspects(first)}
    return tuple(row for row in confirmed.rows if row.can_be_settled and _key(row) in doubtful)


def _key(row: CaseVerdict) -> tuple[str, str]:
    return (row.baseline.case.content_hash, row.metric.name)


def _cases_of(side: ResultSet, rows: Sequence[CaseVerdict]) -> ResultSet:
    wanted = {
        one.case.content_hash for row in rows for one in (row.baseline, row.candidate) if one is not None
    }
    return side.only(one for one in side.cases if one.case.content_hash in wanted)


Version = tuple[str, str]  # framework and version


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionComparison:
    """One comparison inside a sweep: a version of each framework against another one of it."""

    baseline: tuple[Version, ...]
    candidate: tuple[Version, ...]

    def sides(self, side: ResultSet) -> tuple[ResultSet, ResultSet]:
        """Baseline and candidate among the cases of a side; either may hold a part of the versions only."""
        return _of(side, self.baseline), _of(side, self.candidate)


def _of(side: ResultSet, versions: Sequence[Version]) -> ResultSet:
    cases = (one for one in side.cases if (one.case.framework, one.case.version) in versions)
    label = ", ".join(f"{framework} {version}" for framework, version in versions)
    return side.only(cases).model_copy(update={"label": label})


def version_comparisons(
    cases: Iterable[Case], *, sweep: str, baselines: Sequence[str] = ()
) -> tuple[VersionComparison, ...]:
    """The comparisons that a sweep holds: one for each further version of a framework.

    Of each framework with several versions one is the baseline: that which `baselines` names, such as
    `mxnet==1.9.0`, else the first in the order of the cases. UserError where no framework has two versions,
    or a named baseline is not there.
    """
    versions: dict[str, list[str]] = {}
    for framework, version in dict.fromkeys((case.framework, case.version) for case in cases):
        versions.setdefault(framework, []).append(version)
    for name in baselines:
        framework, _, version = name.partition("==")
        if version not in versions.get(framework, ()):
            known = [f"{one}=={each}" for one, listed in versions.items() for each in listed]
            raise UserError(f"--baseline: {unknown('version', name, known)}")
        versions[framework].remove(version)
        versions[framework].insert(0, version)
    several = {name: listed for name, listed in versions.items() if len(listed) > 1}
    if not several:
        raise UserError(
            f"{sweep}: no framework is there in two versions; list both in the sweep "
            "(frameworks: [mxnet==1.9.0, mxnet==1.9.1]) or name a baseline with --against"
        )
    return tuple(
        VersionComparison(
            baseline=tuple((name, listed[0]) for name, listed in several.items() if place < len(listed)),
            candidate=tuple((name, listed[place]) for name, listed in several.items() if place < len(listed)),
        )
        for place in range(1, max(map(len, several.values())))
    )
