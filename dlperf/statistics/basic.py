"""Figures from numbers: pure functions. docs/statistics.md says why these and no others.

No function here drops a value, and none returns a number where there is none to give: too few runs for an
interval give None.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
_SECONDS_PER_HOUR = 3600
_MILLION = 1e6
_LARGEST_EXPONENT = 700.0  # of e, in a float
# A sample of one says nothing about spread, and an interval of two is twelve times as wide as their distance.
FEWEST_RUNS_FOR_SPREAD = 2
FEWEST_RUNS_FOR_INTERVAL = 3
FEWEST_RUNS = 4  # of each side of a verdict
MOST_RUNS = 200  # more than anybody makes
LEVEL = 0.05  # of a test
POWER = 0.8  # the share of real differences that should be found


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided confidence interval, in the unit of its values."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A case's figure from its runs' rates, in the unit of the rates; `cv` is a fraction of the mean.

    `cv` is None with fewer than two runs, `interval` with fewer than three.
    """

    median: float
    minimum: float
    maximum: float
    cv: float | None
    interval: Interval | None
    runs: int


def samples_per_second(samples: Iterable[int], seconds: Iterable[float]) -> float:
    """Sum of samples / sum of seconds. A mean of rates would count fast steps more than slow ones."""
    return sum(samples) / math.fsum(seconds)


def cost_per_million_samples(samples_per_sec: float, *, devices: int, price_per_device_hour: float) -> float:
    """In the price's currency: hours that a million samples take x devices x price."""
    return _MILLION / samples_per_sec / _SECONDS_PER_HOUR * devices * price_per_device_hour


def summarise(rates: Sequence[float]) -> Summary:
    """Median, extremes, coefficient of variation and t interval of a case's good runs, at least one."""
    if not rates:
        raise ValueError("no rates to summarise")
    deviation = standard_deviation(rates)
    return Summary(
        median=quantile(rates, 0.5),
        minimum=min(rates),
        maximum=max(rates),
        cv=None if deviation is None else deviation / mean(rates),
        interval=t_interval(rates),
        runs=len(rates),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, linear between neighbours.

    Definition 7 of Hyndman and Fan, "Sample quantiles in statistical packages", The American Statistician 50
    (1996); numpy's default.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    return min(max(low + (high - low) * (position - below), low), high)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; the same whatever the order of the values."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation, n - 1 in the denominator; None with fewer than two values."""
    if len(values) < FEWEST_RUNS_FOR_SPREAD:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(rates: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval | None:
    """Two-sided interval for the geometric mean of the runs' rates; None with fewer than three.

    Noise is a factor, so that logarithms are what varies alike: exp of mean -+ t(n - 1) x s / sqrt(n) of the
    logarithms (Student, "The probable error of a mean", Biometrika 6, 1908). The interval of positive rates
    is positive. The runs are the sample: steps of one run are correlated and would make it far too narrow.
    """
    if len(rates) < FEWEST_RUNS_FOR_INTERVAL or min(rates) <= 0:
        return None
    centre, deviation = _of_logarithms(rates)
    half = t_quantile(0.5 + confidence / 2, degrees=len(rates) - 1) * deviation / math.sqrt(len(rates))
    return _exp_interval(centre, half)


def ratio_interval(
    over: Sequence[float], under: Sequence[float], *, confidence: float = CONFIDENCE
) -> Interval | None:
    """Two-sided interval for the ratio of two cases' geometric means; None with fewer than three rates each.

    Welch's interval for the difference of the mean logarithms ("The generalization of Student's problem when
    several different population variances are involved", Biometrika 34, 1947) with Satterthwaite's degrees of
    freedom, then back by exp.
    """
    if min(len(over), len(under)) < FEWEST_RUNS_FOR_INTERVAL or min(*over, *under) <= 0:
        return None
    sides = [(len(side), *_of_logarithms(side)) for side in (over, under)]
    difference = sides[0][1] - sides[1][1]
    parts = [deviation**2 / count for count, _, deviation in sides]
    variance = math.fsum(parts)
    if variance == 0:
        return _exp_interval(difference, 0.0)
    degrees = variance**2 / math.fsum(
        part**2 / (count - 1) for part, (count, _, _) in zip(parts, sides, strict=True)
    )
    return _exp_interval(difference, t_quantile(0.5 + confidence / 2, degrees=degrees) * math.sqrt(variance))


def _of_logarithms(rates: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    logs = [math.log(rate) for rate in rates]
    return mean(logs), standard_deviation(logs) or 0.0


def _exp_interval(centre: float, half: float) -> Interval:
    """Exp of both ends, within what a float holds."""
    return Interval(
        low=math.exp(max(centre - half, -_LARGEST_EXPONENT)),
        high=math.exp(min(centre + half, _LARGEST_EXPONENT)),
    )


@lru_cache(maxsize=4096)
def t_quantile(share: float, *, degrees: float) -> float:
    """The value below which `share` of Student's t distribution lies; `degrees` need not be whole."""
    # scipy.stats holds the same and takes ten times as long to load; scipy ships no types.
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # noqa: PLC0415

    return float(stdtrit(degrees, share))


def two_sided_p(t: float, *, degrees: float) -> float:
    """The chance of a t so far from 0 or farther, were there no difference; infinite degrees: normal."""
    from scipy.special import ndtr, stdtr  # noqa: PLC0415

    below = ndtr(-abs(t)) if degrees == float("inf") else stdtr(degrees, -abs(t))
    return float(2 * below)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below q hold a share of at most q false ones, on average.

    Benjamini and Hochberg, "Controlling the false discovery rate", Journal of the Royal Statistical Society
    B 57 (1995). In the order given.
    """
    count = len(p_values)
    adjusted = [1.0] * count
    least = 1.0
    for rank, index in reversed(list(enumerate(_ascending(p_values), 1))):
        least = min(least, p_values[index] * count / rank)
        adjusted[index] = least
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance of any false one below q is at most q.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979). In the order given.
    """
    adjusted = [1.0] * len(p_values)
    most = 0.0
    for rank, index in enumerate(_ascending(p_values)):
        most = max(most, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = most
    return adjusted


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=p_values.__getitem__)


def runs_to_detect(
    effect: float, *, variance: float, blocked: bool, level: float, tests: int, degrees: float = math.inf
) -> int | None:
    """Runs a side with which a change by log `effect` is found with `POWER`; None above `MOST_RUNS`.

    `variance` is on the scale of logarithms, of a difference within a block (`blocked`) or of one run, with
    `degrees` of freedom behind it beside those that more runs bring. The level, two-sided, is divided by the
    number of tests, as Benjamini-Hochberg does for a single real change.
    """

    def enough(count: int) -> bool:
        error = math.sqrt(variance * (1 if blocked else 2) / count)
        own = (count - 1) * (1 if blocked else 2)
        least = t_quantile(1 - level / tests / 2, degrees=own + (0 if math.isinf(degrees) else degrees))
        return (least + t_quantile(POWER, degrees=own)) * error <= abs(effect)

    return first_enough(enough) if effect else None


def first_enough(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of runs that is enough; what is enough once stays so."""
    counts = range(FEWEST_RUNS, MOST_RUNS + 1)
    index = bisect_left(counts, 1, key=enough)
    return counts[index] if index < len(counts) else None
