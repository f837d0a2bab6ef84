"""Contrasts of one metric over many cases -> what may be said about each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dlperf.compare.metrics import Metric, Verdict
from dlperf.compare.power import runs_to_settle
from dlperf.results.learning import MixtureError, StudentError, learned
from dlperf.results.moderation import NO_PRIOR, Prior, Variance, fit_prior, moderated, smallest
from dlperf.results.significance import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dlperf.compare.contrast import Contrast

LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdict on one contrast and the numbers behind it.

    `ratio` is candidate / baseline; `low` and `high` are its 95 % interval. `p` is for one test alone,
    `adjusted_p` for the metric's tests together. `runs_to_settle` goes with inconclusive; None there means
    that no affordable number would.
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    p: float
    adjusted_p: float
    margin: float
    contrast: Contrast
    runs_to_settle: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a verdict is come to: the level of the tests and what is done about there being many."""

    level: float = LEVEL
    adjust: Callable[[Sequence[float]], list[float]] = benjamini_hochberg


Priors = dict[bool, Prior]  # by whether the contrasts are blocked: their variances are of different things


def fit_priors(contrasts: Sequence[Contrast]) -> Priors:
    """What the variances of a metric have in common over the cases."""
    return {
        blocked: _prior([one.variance for one in contrasts if one.blocked is blocked])
        for blocked in (True, False)
    }


def _prior(variances: Sequence[Variance]) -> Prior:
    prior = fit_prior(variances)
    if prior == NO_PRIOR:
        return prior
    return replace(prior, learned=learned(variances, floor=smallest(variances)))


def judge(
    metric: Metric,
    contrasts: Sequence[Contrast],
    *,
    margins: Sequence[float],
    rule: Rule | None = None,
    priors: Mapping[bool, Prior] | None = None,
) -> list[Judged]:
    """Judge the contrasts of one metric together, in their order.

    A difference is called one when its test says so after the adjustment and it is as large as the margin:
    a t test with a moderated variance, or with many cases one whose variance comes from what they have in
    common (`dlperf.results.learning`). The sides are called the same when the 90 % interval lies inside the
    margin (two one-sided tests at 5 %: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15,
    1987). Else the runs do not tell.

    Args:
        metric: which way is good.
        contrasts: one a case.
        margins: one a case: the smallest ratio that counts, less 1.
        rule: by default Benjamini-Hochberg at 5 %.
        priors: of the variances; by default fitted to these contrasts.
    """
    rule = rule or Rule()
    priors = fit_priors(contrasts) if priors is None else priors
    pooled = math.fsum(one.variance.degrees for one in contrasts)
    known = [_known(one, priors.get(one.blocked, NO_PRIOR), most_degrees=pooled) for one in contrasts]
    p_values = [each.error.two_sided_p(one.log_ratio) for one, each in zip(contrasts, known, strict=True)]
    adjusted = rule.adjust(p_values)
    return [
        _judged(metric, one, each, margin=margin, p=p, adjusted=q, rule=rule, tests=len(contrasts))
        for one, each, margin, p, q in zip(contrasts, known, margins, p_values, adjusted, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known about the noise of a case: its moderated variance, and the error of its difference."""

    variance: Variance
    error: StudentError | MixtureError


def _known(contrast: Contrast, prior: Prior, *, most_degrees: float) -> _Known:
    if not prior.bears(contrast.variance):
        prior = NO_PRIOR  # noisier than anything before: it was learned from quieter times
    variance = moderated(contrast.variance, prior, most_degrees=most_degrees)
    error: StudentError | MixtureError
    if prior.learned is None:
        error = StudentError(math.sqrt(variance.value * contrast.unit), variance.degrees)
    else:
        error = MixtureError.of(contrast.variance, prior.learned, unit=contrast.unit)
    return _Known(variance=variance, error=error)


def _judged(
    metric: Metric,
    contrast: Contrast,
    known: _Known,
    *,
    margin: float,
    p: float,
    adjusted: float,
    rule: Rule,
    tests: int,
) -> Judged:
    centre, counts = contrast.log_ratio, math.log1p(margin)
    half = known.error.reach(0.975)
    half_of_equivalence = known.error.reach(1 - rule.level)
    settle = None
    if adjusted <= rule.level and abs(centre) >= counts:
        verdict = metric.verdict(centre)
    elif abs(centre) + half_of_equivalence <= counts:
        verdict = Verdict.SAME
    else:
        verdict = Verdict.INCONCLUSIVE
        settle = runs_to_settle(contrast, known.variance, margin=margin, level=rule.level, tests=tests)
    return Judged(
        verdict=verdict,
        ratio=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        p=p,
        adjusted_p=adjusted,
        margin=margin,
        contrast=contrast,
        runs_to_settle=settle,
    )
