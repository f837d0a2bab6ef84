"""From a first look to a verdict: what looks worse is run again, and judged on the fresh runs alone.

A first look at many cases finds some by chance. Runs made after the suspicion are not chosen by it, so that
they can be judged as if they were the only ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dlperf.compare.comparing import compare
from dlperf.compare.judging import LEVEL, Priors, Rule, fit_priors
from dlperf.compare.metrics import REGRESSIONS, Verdict
from dlperf.results.significance import holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.compare.finding import Finding, Findings
    from dlperf.compare.judging import Judged
    from dlperf.compare.metrics import Metric
    from dlperf.compare.settings import Settings
    from dlperf.compare.side import Side

# How often fresh runs may be looked at: a single disturbed run can hide a change from the first look.
CONFIRMING_LOOKS = 2
CONFIRMING_RULE = Rule(level=LEVEL / CONFIRMING_LOOKS, adjust=holm)
# Part of the margin from which on a likely change is looked at again.
_WORTH_A_LOOK = 0.5


def suspects(findings: Findings) -> tuple[Finding, ...]:
    """What looks worse at 5 %, tested as if it were alone, by half the margin or more."""
    return tuple(
        row
        for row in findings.rows
        if row.judged is not None and row.expected is None and looks_worse(row.metric, row.judged)
    )


def looks_worse(metric: Metric, judged: Judged) -> bool:
    """Whether a contrast is worth more runs."""
    effect = judged.contrast.log_ratio
    return (
        metric.verdict(effect) in REGRESSIONS
        and judged.p < LEVEL
        and abs(effect) >= _WORTH_A_LOOK * math.log1p(judged.margin)
    )


def priors_of(findings: Findings) -> dict[str, Priors]:
    """What the variances of each metric have in common, for rounds with fewer cases."""
    by_metric: dict[str, list[Finding]] = {}
    for row in findings.rows:
        by_metric.setdefault(row.metric.name, []).append(row)
    return {
        name: fit_priors([row.judged.contrast for row in rows if row.judged is not None])
        for name, rows in by_metric.items()
    }


def confirm(first: Findings, *, fresh: tuple[Side, Side], settings: Settings) -> Findings:
    """The first findings with every suspect's replaced by the finding on the fresh runs alone.

    Each metric's suspects are tested together by Holm's rule, at a level that allows for `CONFIRMING_LOOKS`.
    The variances are moderated by what the first round found out about them.
    """
    doubtful = suspects(first)
    priors = priors_of(first)
    replaced: dict[int, Finding] = {}
    for metric in dict.fromkeys(row.metric for row in doubtful):
        rows = [row for row in doubtful if row.metric is metric]
        again = compare(
            *(_cases_of(side, rows) for side in fresh),
            settings=replace(
                settings, metrics=(metric,), rule=CONFIRMING_RULE, priors=priors, notes=(), expected=()
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


def undecided(confirmed: Findings, first: Findings) -> tuple[Finding, ...]:
    """The suspects of the first findings that their fresh runs could not tell."""
    doubtful = {_key(row) for row in suspects(first)}
    return tuple(
        row
        for row in confirmed.rows
        if row.verdict is Verdict.INCONCLUSIVE and row.judged is not None and _key(row) in doubtful
    )


def _key(row: Finding) -> tuple[str, str]:
    return (row.baseline.case.content_hash, row.metric.name)


def _cases_of(side: Side, rows: Sequence[Finding]) -> Side:
    wanted = {
        one.case.content_hash for row in rows for one in (row.baseline, row.candidate) if one is not None
    }
    return side.only(one for one in side.cases if one.case.content_hash in wanted)
