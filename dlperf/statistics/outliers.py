"""Which of several equal things is worse than the others, from repeated measurements of all of them.

Values are logarithms, larger is better; a figure that is better small (a latency) comes with its sign turned.
Repeats are interleaved: the k-th values of all were measured at about the same time, so that what they have
in common then (a busy network, a warm room) drops out as the median of that repeat.

A thing's level is the median of its repeats, which one or two disturbed ones do not move. Its equals' is the
median of their levels; of an even number the worse of the middle two, so that one that is better than all
others does not make those look worse. The variance of a median of normal samples tends to pi/2 times that of
their mean; it is made from moderated sample variances, which a disturbed repeat enlarges. Where the levels of
the equals differ among themselves by more than that explains, the spread of those levels (by the median of
their distances) is added. What is tested is not a difference but a deficit beyond a margin: equals are never
quite equal.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dlperf.statistics.basic import mean, quantile, standard_deviation
from dlperf.statistics.moderation import Variance, fit_prior, moderated

K = TypeVar("K", bound=Hashable)

# Good values of a thing; with fewer its spread is not known.
FEWEST_REPEATS = 3
# Good machines of a reference, for the same reason.
FEWEST_GOOD = 3
_OF_MEDIAN = math.pi / 2
# The standard deviation of normal values by the median of their distances from the median.
_NORMAL_MAD = 1.4826

Values = Sequence[float | None]  # by repeat; None: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Deficit:
    """How far a thing is from its equals, on the scale of logarithms (below 0: worse), and the error of that.

    `equals` are those whose median it is compared with.
    """

    log_ratio: float
    error: Variance
    equals: int

    def p(self, margin: float) -> float:
        """The chance of a deficit so large or larger, were the true one `margin` (a fraction) at most."""
        from scipy.special import stdtr  # type: ignore[import-untyped]  # noqa: PLC0415

        beyond = -self.log_ratio + math.log1p(-margin)
        if self.error.value == 0:
            return 0.0 if beyond > 0 else 1.0
        return float(stdtr(self.error.degrees, -beyond / math.sqrt(self.error.value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The median of a thing's values and the variance of that median; `count` are those values."""

    centre: float
    error: Variance
    count: int


def levels(series: Mapping[K, Values], *, is_interleaved: bool = True) -> dict[K, Level]:
    """The levels of things that are measured alike; without those that have too few values."""
    good = {key: values for key, values in series.items() if _count(values) >= FEWEST_REPEATS}
    if is_interleaved and len(good) > 1:
        good = _without_repeats_medians(good)
    kept = {key: [value for value in values if value is not None] for key, values in good.items()}
    # Of n things whose common part was taken off, each keeps (n - 1) / n of its variance.
    lost = len(kept) / (len(kept) - 1) if is_interleaved and len(kept) > 1 else 1.0
    variances = {
        key: Variance(lost * (standard_deviation(values) or 0.0) ** 2, len(values) - 1)
        for key, values in kept.items()
    }
    prior, pooled = fit_prior(list(variances.values())), sum(one.degrees for one in variances.values())
    found = {}
    for key, values in kept.items():
        variance = moderated(variances[key], prior, most_degrees=pooled)
        error = Variance(_OF_MEDIAN * variance.value / len(values), variance.degrees)
        found[key] = Level(centre=quantile(values, 0.5), error=error, count=len(values))
    return found


def _without_repeats_medians(series: Mapping[K, Values]) -> dict[K, Values]:
    repeats = range(max(map(len, series.values())))
    medians = {
        repeat: quantile(
            [v for values in series.values() if (v := _at(values, repeat)) is not None] or [0.0], 0.5
        )
        for repeat in repeats
    }
    return {
        key: [None if value is None else value - medians[repeat] for repeat, value in enumerate(values)]
        for key, values in series.items()
    }


def _at(values: Values, repeat: int) -> float | None:
    return values[repeat] if repeat < len(values) else None


def _count(values: Values) -> int:
    return sum(value is not None for value in values)


def among_equals(series: Mapping[K, Values]) -> dict[K, Deficit]:
    """Each thing against the median of all others; empty for a single one."""
    found = levels(series)
    if len(found) < 2:  # noqa: PLR2004  a thing and its equal
        return {}
    typical = _OF_MEDIAN * mean([level.error.value for level in found.values()])
    ordered = sorted(level.centre for level in found.values())
    deficits = {}
    for key, level in found.items():
        others = list(ordered)
        others.remove(level.centre)
        reference = others[(len(others) - 1) // 2]
        own = max(0.0, (_NORMAL_MAD * quantile([abs(one - reference) for one in others], 0.5)) ** 2 - typical)
        value = level.error.value + typical / len(others) + own
        error = Variance(value, level.error.degrees)
        deficits[key] = Deficit(log_ratio=level.centre - reference, error=error, equals=len(others))
    return deficits


def against_good(series: Mapping[K, Values], good: Sequence[float]) -> dict[K, Deficit]:
    """Each thing against the median of the levels of good ones (`FEWEST_GOOD` or more) of another session."""
    spread = standard_deviation(good) or 0.0
    reference = Variance(_OF_MEDIAN * spread**2 / len(good), len(good) - 1)
    return {
        key: Deficit(
            log_ratio=level.centre - quantile(good, 0.5),
            error=_sum(level.error, reference),
            equals=len(good),
        )
        for key, level in levels(series, is_interleaved=False).items()
    }


def against_before(after: Mapping[K, Values], before: Mapping[K, Values]) -> dict[K, Deficit]:
    """Each thing against itself in an earlier session; without those that only one of them has."""
    old = levels(before, is_interleaved=False)
    return {
        key: Deficit(
            log_ratio=level.centre - old[key].centre, error=_sum(level.error, old[key].error), equals=1
        )
        for key, level in levels(after, is_interleaved=False).items()
        if key in old
    }


def _sum(one: Variance, other: Variance) -> Variance:
    """Of two independent errors, with Satterthwaite's degrees of freedom (see `ratio_interval`)."""
    value = one.value + other.value
    parts = math.fsum(part.value**2 / part.degrees for part in (one, other) if part.degrees)
    return Variance(value, value**2 / parts if parts else min(one.degrees, other.degrees))
