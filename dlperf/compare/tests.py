"""Effects of one metric over many cases -> what may be said about each; A/A runs, which test the tests."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dlperf.compare.sets import MEASURED, REGRESSIONS, CaseSamples, Metric, ResultSet, Verdict
from dlperf.errors import UserError
from dlperf.results.cases import cell_name
from dlperf.results.noise_profile import CaseNoise, Session
from dlperf.statistics.basic import (
    FEWEST_RUNS,
    LEVEL,
    POWER,
    benjamini_hochberg,
    first_enough,
    mean,
    runs_to_detect,
    t_quantile,
)
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


def effect_of(baseline: Mapping[str, float], candidate: Mapping[str, float]) -> Effect:
    """The effect of two sets of at least `FEWEST_RUNS` values above 0, keyed by block.

    Runs of a block are subtracted from each other, so that what they have in common (a machine that was slow
    at the time) drops out. With fewer than `FEWEST_RUNS` common blocks the two sides are compared as
    independent samples with one variance.
    """
    logs = [{block: _log(value) for block, value in side.items()} for side in (baseline, candidate)]
    if min(map(len, logs)) < FEWEST_RUNS:
        raise ValueError(f"fewer than {FEWEST_RUNS} runs on a side")
    common = [block for block in logs[0] if block in logs[1]]
    if len(common) >= FEWEST_RUNS:
        return _blocked([logs[1][block] - logs[0][block] for block in common])
    before, after = (list(side.values()) for side in logs)
    degrees = len(before) + len(after) - 2
    return Effect(
        log_ratio=mean(after) - mean(before),
        variance=Variance((_squares(before) + _squares(after)) / degrees, degrees),
        unit=1 / len(before) + 1 / len(after),
        blocked=False,
        runs=(len(before), len(after)),
    )


def _blocked(differences: Sequence[float]) -> Effect:
    count = len(differences)
    return Effect(
        log_ratio=mean(differences),
        variance=Variance(_squares(differences) / (count - 1), count - 1),
        unit=1 / count,
        blocked=True,
        runs=(count, count),
    )


def _log(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{value} is no figure that could be compared")
    return math.log(value)


def _squares(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


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
        sides = 1 if effect.blocked else 2
        error, own = math.sqrt(variance.value * sides / count), (count - 1) * sides
        reach = t_quantile(1 - level, degrees=own) + t_quantile(POWER, degrees=own)
        return size + reach * error <= counts

    found = first_enough(enough)
    return None if found is None else max(found, max(effect.runs) + 1)


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
    priors = {}
    for blocked in (True, False):
        variances = [one.variance for one in effects if one.blocked is blocked]
        prior = fit_prior(variances)
        if prior != NO_PRIOR:
            prior = replace(prior, learned=learned(variances, floor=smallest(variances)))
        priors[blocked] = prior
    return priors


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
    1987). Else the runs do not tell. `margins` are the smallest ratios that count, less 1, one a case; the
    priors of the variances are by default fitted to these effects.
    """
    rule = rule or Rule()
    priors = fit_priors(effects) if priors is None else priors
    pooled = math.fsum(one.variance.degrees for one in effects)
    known = [_known(one, priors.get(one.blocked, NO_PRIOR), most_degrees=pooled) for one in effects]
    p_values = [error.two_sided_p(one.log_ratio) for one, (_, error) in zip(effects, known, strict=True)]
    results = []
    for effect, (variance, error), margin, p, adjusted_p in zip(
        effects, known, margins, p_values, rule.adjust(p_values), strict=True
    ):
        centre, counts, half = effect.log_ratio, math.log1p(margin), error.reach(0.975)
        verdict, settle = Verdict.INCONCLUSIVE, None
        if adjusted_p <= rule.level and abs(centre) >= counts:
            verdict = metric.verdict(centre)
        elif abs(centre) + error.reach(1 - rule.level) <= counts:
            verdict = Verdict.SAME
        else:
            settle = runs_to_settle(effect, variance, margin=margin, level=rule.level, tests=len(effects))
        results.append(
            TestResult(
                verdict=verdict,
                ratio=math.exp(centre),
                low=math.exp(centre - half),
                high=math.exp(centre + half),
                p=p,
                adjusted_p=adjusted_p,
                margin=margin,
                effect=effect,
                runs_to_settle=settle,
            )
        )
    return results


def _known(
    effect: Effect, prior: Prior, *, most_degrees: float
) -> tuple[Variance, StudentError | MixtureError]:
    """The moderated variance of a case, and the error of its difference."""
    if not prior.covers(effect.variance):
        prior = NO_PRIOR  # noisier than anything before: it was learned from quieter times
    variance = moderated(effect.variance, prior, most_degrees=most_degrees)
    if prior.learned is None:
        return variance, StudentError(math.sqrt(variance.value * effect.unit), variance.degrees)
    return variance, MixtureError.of(effect.variance, prior.learned, unit=effect.unit)


SPLITS = 400

Values = tuple[float, float]  # of the two runs of a block


def qualify(side: ResultSet, *, runs: int = 5, splits: int = SPLITS, seed: int = 0) -> Session:
    """Measure the noise of one session, and how often the comparison calls it a regression.

    The runs of a case are taken two by two in their order; each two are a block of an A/A comparison, whose
    sides are drawn anew for each split. Splits share their runs: more of them make the rate finer, not surer.
    The noise floor is for `runs` a side. UserError where no case has 2 x `FEWEST_RUNS` good runs.
    """
    blocks = {metric.name: _blocks(side, metric) for metric in MEASURED}
    usable = blocks[MEASURED[0].name]
    if not usable:
        raise UserError(
            f"{side.label}: no case has {2 * FEWEST_RUNS} good runs, which two sides of {FEWEST_RUNS} take"
        )
    draw = random.Random(seed)  # noqa: S311 - no secret
    alarms = sum(_raises_alarm(blocks, draw) for _ in range(splits))
    starts = [run.started_at for one in side.cases for run in one.runs if run.started_at is not None]
    return Session(
        started_at=min(starts, default=None),
        runs=runs,
        cases=len(usable),
        splits=splits,
        false_alarms=alarms,
        noise=tuple(noise for metric in MEASURED for noise in _noise(metric, blocks[metric.name], runs)),
    )


def _blocks(side: ResultSet, metric: Metric) -> list[tuple[CaseSamples, list[Values]]]:
    """Each case's values two by two, in the order in which they were made."""
    found = []
    for one in side.cases:
        one.checked_values(metric)
        runs = sorted(one.runs, key=lambda run: (run.started_at or "", run.repeat))
        values = [run.values[metric.name] for run in runs if metric.name in run.values]
        pairs = list(zip(values[::2], values[1::2], strict=False))
        if len(pairs) >= FEWEST_RUNS:
            found.append((one, pairs))
    return found


def _effect(values: Sequence[Values], turned: Sequence[bool]) -> Effect:
    ordered = (pair[::-1] if turn else pair for pair, turn in zip(values, turned, strict=True))
    return _blocked([_log(second) - _log(first) for first, second in ordered])


def _raises_alarm(blocks: dict[str, list[tuple[CaseSamples, list[Values]]]], draw: random.Random) -> bool:
    # The sides of a block are the same for all metrics, as they would be in a comparison.
    turns: dict[str, list[bool]] = {}
    for metric in MEASURED:
        effects = []
        for one, values in blocks[metric.name]:
            turned = turns.setdefault(one.case.case_id, [draw.random() < 0.5 for _ in values])  # noqa: PLR2004
            effects.append(_effect(values, turned[: len(values)]))
        tests = run_tests(metric, effects, margins=[metric.margin] * len(effects))
        if metric.fails and any(test.verdict in REGRESSIONS for test in tests):
            return True
    return False


def _noise(
    metric: Metric, blocks: Sequence[tuple[CaseSamples, list[Values]]], runs: int
) -> Iterator[CaseNoise]:
    # Who ran first turns round from block to block, as in a sweep of two versions.
    effects = [_effect(values, [bool(number % 2) for number in range(len(values))]) for _, values in blocks]
    prior = fit_priors(effects).get(True, NO_PRIOR)
    pooled = math.fsum(one.variance.degrees for one in effects)
    for (one, values), made in zip(blocks, effects, strict=True):
        variance = moderated(made.variance, prior, most_degrees=pooled)
        half = t_quantile(0.975, degrees=variance.degrees) * math.sqrt(variance.value / runs)
        logs = [math.log(value) for pair in values for value in pair]
        yield CaseNoise(
            case=one.case.content_hash,
            cell=cell_name(one.case),
            framework=one.case.framework,
            version=one.case.version,
            hardware=one.hardware,
            metric=metric.name,
            blocks=len(values),
            level=math.exp(mean(logs)),
            deviation=math.sqrt(variance.value),
            noise_floor=math.expm1(half),
        )
