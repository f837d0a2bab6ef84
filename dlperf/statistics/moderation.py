"""Variances of many small samples, each drawn towards what all of them have in common.

Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004), article 3; the estimates of
its section 6.2 as limma's `fitFDist` and `squeezeVar` make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlperf.statistics.basic import mean, quantile, t_quantile, two_sided_p

Array = NDArray[np.float64]

# Below this share of the median a variance is no estimate but luck, or a clock that is too coarse.
_SMALLEST_SHARE = 1e-5
_FEWEST_VARIANCES = 2
_UNHEARD_OF = 1e-3
_NEWTON_STEPS = 50
_NEWTON_CLOSE = 1e-8


@dataclass(frozen=True, slots=True)
class Variance:
    """A sample variance and its degrees of freedom."""

    value: float
    degrees: float


@dataclass(frozen=True, slots=True)
class Prior:
    """What the variances have in common: `value`, worth as much as a sample with `degrees`.

    0 degrees: nothing is known, each variance stands for itself. Infinite ones: all are the same. `learned`
    says more than the two numbers where there were cases enough.
    """

    value: float
    degrees: float
    learned: Learned | None = None

    def covers(self, sample: Variance) -> bool:
        """Whether a sample so large is one of those that it is about: such things happen 1 time in 1000."""
        from scipy.special import chdtrc, fdtrc  # type: ignore[import-untyped]  # noqa: PLC0415

        most = self.value if self.learned is None else self.learned.values[-1]
        if self.degrees == 0 or sample.value <= most:
            return True
        if self.learned is not None or math.isinf(self.degrees):
            return bool(chdtrc(sample.degrees, sample.degrees * sample.value / most) >= _UNHEARD_OF)
        return bool(fdtrc(sample.degrees, self.degrees, sample.value / most) >= _UNHEARD_OF)


NO_PRIOR = Prior(value=0.0, degrees=0.0)


def fit_prior(variances: Sequence[Variance]) -> Prior:
    """The scaled inverse chi-square distribution that the true variances come from.

    From the mean and the variance of the logarithms of the sample variances, less what their own sampling
    adds. Fewer than two variances, or none above 0, give `NO_PRIOR`.
    """
    from scipy.special import digamma, polygamma  # noqa: PLC0415

    if len(variances) < _FEWEST_VARIANCES:
        return NO_PRIOR
    floor = smallest(variances)
    if floor == 0:
        return NO_PRIOR
    logs = [
        math.log(max(one.value, floor)) - float(digamma(one.degrees / 2)) + math.log(one.degrees / 2)
        for one in variances
    ]
    centre = mean(logs)
    spread = math.fsum((one - centre) ** 2 for one in logs) / (len(logs) - 1)
    spread -= mean([float(polygamma(1, one.degrees / 2)) for one in variances])
    if spread <= 0:
        total = math.fsum(one.degrees for one in variances)
        return Prior(value=math.fsum(one.value * one.degrees for one in variances) / total, degrees=math.inf)
    degrees = 2 * inverse_trigamma(spread)
    return Prior(
        value=math.exp(centre + float(digamma(degrees / 2)) - math.log(degrees / 2)), degrees=degrees
    )


def smallest(variances: Sequence[Variance]) -> float:
    """Below this a sample variance counts as this one; 0 where all are 0."""
    values = [one.value for one in variances]
    return _SMALLEST_SHARE * (quantile(values, 0.5) or mean(values))


def moderated(variance: Variance, prior: Prior, *, most_degrees: float = math.inf) -> Variance:
    """The posterior: the mean of the variance and the prior's, weighted by their degrees of freedom.

    `most_degrees`: the degrees of all samples together, more than which nobody can have.
    """
    if prior.degrees == 0:
        return variance
    if math.isinf(prior.degrees):
        return Variance(prior.value, most_degrees)
    degrees = prior.degrees + variance.degrees
    value = (prior.degrees * prior.value + variance.degrees * variance.value) / degrees
    return Variance(value, min(degrees, most_degrees))


def inverse_trigamma(value: float) -> float:
    """The y above 0 with trigamma(y) = value, itself above 0; Newton's method of the paper's appendix."""
    from scipy.special import polygamma  # noqa: PLC0415

    if value > 1e7:  # noqa: PLR2004 - trigamma(y) is 1 / y^2 near 0 and 1 / y far out
        return 1 / math.sqrt(value)
    if value < 1e-6:  # noqa: PLR2004
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(_NEWTON_STEPS):
        there = float(polygamma(1, y))
        step = there * (1 - there / value) / float(polygamma(2, y))
        y += step
        if -step / y < _NEWTON_CLOSE:
            break
    return y


# The distribution of the variances may also be learned from many cases, without assuming a form of it.

# With fewer cases a distribution without a form is more luck than knowledge.
FEWEST_CASES = 20
_GRID = 60
_ITERATIONS = 200  # stopped early, which keeps the distribution smoother than the likelihood's maximum
# The true variance of the least noisy sample may be smaller, that of the noisiest larger.
_BELOW, _ABOVE = math.exp(-1.0), math.exp(0.5)


@dataclass(frozen=True, slots=True)
class Learned:
    """The true variances that occur, on the scale of logarithms, and the share of each [`_GRID`]."""

    values: tuple[float, ...]
    shares: tuple[float, ...]


def learned(variances: Sequence[Variance], *, floor: float) -> Learned | None:
    """The distribution of the true variances behind sample variances; None with fewer than `FEWEST_CASES`.

    A sample variance smaller than `floor`, which is above 0, counts as that.
    """
    if len(variances) < FEWEST_CASES:
        return None
    samples = [max(one.value, floor) for one in variances]
    values = np.geomspace(_BELOW * min(samples), _ABOVE * max(samples), _GRID)
    likelihood = np.stack([_likelihood(one, values, floor) for one in variances])
    shares = np.full(_GRID, 1 / _GRID)
    for _ in range(_ITERATIONS):
        each = likelihood * shares
        shares = (each / each.sum(axis=1, keepdims=True)).mean(axis=0)
    return Learned(values=tuple(map(float, values)), shares=tuple(map(float, shares)))


def _likelihood(sample: Variance, values: Array, floor: float) -> Array:
    """Of the true variances `values` for a scaled chi-square sample variance, up to a factor."""
    ratio = max(sample.value, floor) / values
    logs = sample.degrees / 2 * (np.log(ratio) - ratio)
    return np.asarray(np.exp(logs - logs.max()))


@dataclass(frozen=True, slots=True)
class MixtureError:
    """The error of a difference: normal, with one of several variances [`_GRID`], each so probable."""

    deviations: Array
    shares: Array

    @classmethod
    def of(cls, sample: Variance, prior: Learned, *, unit: float) -> MixtureError:
        """The error of a difference whose variance is `unit` times that of which there is a sample.

        The prior must bear the sample; one below its range counts as its lower end.
        """
        values = np.asarray(prior.values)
        shares = np.asarray(prior.shares) * _likelihood(sample, values, float(values[0]))
        return cls(deviations=np.sqrt(values * unit), shares=shares / shares.sum())

    def two_sided_p(self, difference: float) -> float:
        """The chance of a difference so far from 0 or farther, were there none."""
        from scipy.special import ndtr  # noqa: PLC0415

        return float(2 * self.shares @ ndtr(-abs(difference) / self.deviations))

    def reach(self, share: float) -> float:
        """The difference that is exceeded, one way, with a chance of 1 - `share` (above one half)."""
        from scipy.optimize import brentq  # type: ignore[import-untyped]  # noqa: PLC0415

        farthest = 40 * float(self.deviations[-1])
        return float(brentq(lambda half: self.two_sided_p(half) - 2 * (1 - share), 0.0, farthest))


@dataclass(frozen=True, slots=True)
class StudentError:
    """The error of a difference: Student's t with `degrees` of freedom times `deviation`, which may be 0."""

    deviation: float
    degrees: float

    def two_sided_p(self, difference: float) -> float:
        """As `MixtureError`."""
        if self.deviation == 0:
            return 0.0 if difference else 1.0
        return two_sided_p(difference / self.deviation, degrees=self.degrees)

    def reach(self, share: float) -> float:
        """As `MixtureError`."""
        return t_quantile(share, degrees=self.degrees) * self.deviation
