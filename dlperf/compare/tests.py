"""Effects of one metric over many cases -> what may be said about each of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dlperf.compare.sets import Metric, Verdict
from dlperf.statistics.basic import mean, t_quantile
from dlperf.statistics.moderation import (
    NO_PRIOR,
    MixtureError,
    Prior,
    StudentError,
    Variance,
    fit_prior,
    learned,
    moderated,
    smallest,
)
from dlperf.statistics.multiple import benjamini_hochberg

FEWEST_RUNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """log(candidate / baseline) of the geometric means, and how well it is known.

    `variance` is of one difference between two runs of one block, or (not blocked) of one run, on the scale
    of logarithms; that of `log_ratio` is `unit` times as large.
    """

    log_ratio: float
    variance: Variance
    unit: float
    blocked: bool
    runs: tuple[int, int]  # that the difference is made from, baseline's and candidate's

    def with_runs(self, count: int) -> float:
        """`unit` if each side had `count` runs."""
        return (1 if self.blocked else 2) / count


def effect_of(baseline: Mapping[str, float], candidate: Mapping[str, float]) -> Effect:
    """The effect of two sets of runs, keyed by block: runs with the same key were made in one block.

    Values are above 0. Runs of blocks are subtracted from each other, so that what a block has in common (a
    machine that was slow at the time) drops out. With fewer than `FEWEST_RUNS` common blocks the two sides
    are compared as independent samples with one variance.

    Raises:
        ValueError: a side has fewer than `FEWEST_RUNS` runs, or a value that is not above 0.
    """
    logs = [{block: _log(value) for block, value in side.items()} for side in (baseline, candidate)]
    if min(map(len, logs)) < FEWEST_RUNS:
        raise ValueError(f"fewer than {FEWEST_RUNS} runs on a side")
    common = [block for block in logs[0] if block in logs[1]]
    if len(common) >= FEWEST_RUNS:
        return _blocked([logs[1][block] - logs[0][block] for block in common])
    return _independent(list(logs[0].values()), list(logs[1].values()))


def _log(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{value} is no figure that could be compared")
    return math.log(value)


def _blocked(differences: Sequence[float]) -> Effect:
    count = len(differences)
    return Effect(
        log_ratio=mean(differences),
        variance=Variance(_squares(differences) / (count - 1), count - 1),
        unit=1 / count,
        blocked=True,
        runs=(count, count),
    )


def _independent(baseline: Sequence[float], candidate: Sequence[float]) -> Effect:
    degrees = len(baseline) + len(candidate) - 2
    return Effect(
        log_ratio=mean(candidate) - mean(baseline),
        variance=Variance((_squares(baseline) + _squares(candidate)) / degrees, degrees),
        unit=1 / len(baseline) + 1 / len(candidate),
        blocked=False,
        runs=(len(baseline), len(candidate)),
    )


def _squares(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


# How many runs a question takes. Estimates for planning: the spread itself is known from few runs.


POWER = 0.8  # the share of real differences that should be found
MOST_RUNS = 200


def runs_to_detect(
    effect: float, *, variance: float, blocked: bool, level: float, tests: int, degrees: float = math.inf
) -> int | None:
    """Runs a side with which a change by log `effect` is found with `POWER`; None above `MOST_RUNS`.

    The level is divided by the number of tests, as Benjamini-Hochberg does for a single real change.

    Args:
        effect: log of the ratio, of either sign.
        variance: of a difference within a block, or of one run, on the scale of logarithms.
        blocked: which of the two.
        level: of the test, two-sided.
        tests: how many are made together.
        degrees: of freedom behind `variance`, beside those that more runs bring.
    """

    def enough(count: int) -> bool:
        error = math.sqrt(variance * (1 if blocked else 2) / count)
        own = (count - 1) * (1 if blocked else 2)
        least = t_quantile(1 - level / tests / 2, degrees=own + (0 if math.isinf(degrees) else degrees))
        return (least + t_quantile(POWER, degrees=own)) * error <= abs(effect)

    return _first(enough) if effect else None


def runs_to_settle(
    effect: Effect, variance: Variance, *, margin: float, level: float, tests: int
) -> int | None:
    """Runs a side with which the difference, were it as large as it looks, would be told or ruled out.

    Told where it is as large as the margin, else shown to lie inside it. None: more than `MOST_RUNS`.
    """
    size, counts = abs(effect.log_ratio), math.log1p(margin)
    if size >= counts:
        more = runs_to_detect(
            size,
            variance=variance.value,
            blocked=effect.blocked,
            level=level,
            tests=tests,
            degrees=max(0.0, variance.degrees - effect.variance.degrees),
        )
        return None if more is None else max(more, max(effect.runs) + 1)

    def enough(count: int) -> bool:
        error = math.sqrt(variance.value * effect.with_runs(count))
        own = (count - 1) * (1 if effect.blocked else 2)
        reach = t_quantile(1 - level, degrees=own) + t_quantile(POWER, degrees=own)
        return size + reach * error <= counts

    found = _first(enough)
    return None if found is None else max(found, max(effect.runs) + 1)


def _first(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of runs that is enough; what is enough once stays so."""
    counts = range(FEWEST_RUNS, MOST_RUNS + 1)
    index = bisect_left(counts, 1, key=enough)
    return counts[index] if index < len(counts) else None


# Effects of one metric over many cases -> what may be said about each of them.


LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """The verdict on one effect and the numbers behind it.

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
    effect: Effect
    runs_to_settle: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a verdict is come to: the level of the tests and what is done about there being many."""

    level: float = LEVEL
    adjust: Callable[[Sequence[float]], list[float]] = benjamini_hochberg


Priors = dict[bool, Prior]  # by whether the effects are blocked: their variances are of different things


def fit_priors(effects: Sequence[Effect]) -> Priors:
    """What the variances of a metric have in common over the cases."""
    return {
        blocked: _prior([one.variance for one in effects if one.blocked is blocked])
        for blocked in (True, False)
    }


def _prior(variances: Sequence[Variance]) -> Prior:
    prior = fit_prior(variances)
    if prior == NO_PRIOR:
        return prior
    return replace(prior, learned=learned(variances, floor=smallest(variances)))


def run_tests(
    metric: Metric,
    effects: Sequence[Effect],
    *,
    margins: Sequence[float],
    rule: Rule | None = None,
    priors: Mapping[bool, Prior] | None = None,
) -> list[TestResult]:
    """Test the effects of one metric together, in their order.

    A difference is called one when its test says so after the adjustment and it is as large as the margin:
    a t test with a moderated variance, or with many cases one whose variance comes from what they have in
    common (`statistics.moderation`). The sides are called the same when the 90 % interval lies inside the
    margin (two one-sided tests at 5 %: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15,
    1987). Else the runs do not tell.

    Args:
        metric: which way is good.
        effects: one a case.
        margins: one a case: the smallest ratio that counts, less 1.
        rule: by default Benjamini-Hochberg at 5 %.
        priors: of the variances; by default fitted to these effects.
    """
    rule = rule or Rule()
    priors = fit_priors(effects) if priors is None else priors
    pooled = math.fsum(one.variance.degrees for one in effects)
    known = [_known(one, priors.get(one.blocked, NO_PRIOR), most_degrees=pooled) for one in effects]
    p_values = [each.error.two_sided_p(one.log_ratio) for one, each in zip(effects, known, strict=True)]
    adjusted = rule.adjust(p_values)
    return [
        _test_result(metric, one, each, margin=margin, p=p, adjusted=q, rule=rule, tests=len(effects))
        for one, each, margin, p, q in zip(effects, known, margins, p_values, adjusted, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known about the noise of a case: its moderated variance, and the error of its difference."""

    variance: Variance
    error: StudentError | MixtureError


def _known(effect: Effect, prior: Prior, *, most_degrees: float) -> _Known:
    if not prior.covers(effect.variance):
        prior = NO_PRIOR  # noisier than anything before: it was learned from quieter times
    variance = moderated(effect.variance, prior, most_degrees=most_degrees)
    error: StudentError | MixtureError
    if prior.learned is None:
        error = StudentError(math.sqrt(variance.value * effect.unit), variance.degrees)
    else:
        error = MixtureError.of(effect.variance, prior.learned, unit=effect.unit)
    return _Known(variance=variance, error=error)


def _test_result(
    metric: Metric,
    effect: Effect,
    known: _Known,
    *,
    margin: float,
    p: float,
    adjusted: float,
    rule: Rule,
    tests: int,
) -> TestResult:
    centre, counts = effect.log_ratio, math.log1p(margin)
    half = known.error.reach(0.975)
    half_of_equivalence = known.error.reach(1 - rule.level)
    settle = None
    if adjusted <= rule.level and abs(centre) >= counts:
        verdict = metric.verdict(centre)
    elif abs(centre) + half_of_equivalence <= counts:
        verdict = Verdict.SAME
    else:
        verdict = Verdict.INCONCLUSIVE
        settle = runs_to_settle(effect, known.variance, margin=margin, level=rule.level, tests=tests)
    return TestResult(
        verdict=verdict,
        ratio=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        p=p,
        adjusted_p=adjusted,
        margin=margin,
        effect=effect,
        runs_to_settle=settle,
    )
