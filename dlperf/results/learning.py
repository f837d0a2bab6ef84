"""How noisy cases are, learned from many of them without assuming a form of the distribution.

A sample variance of few runs says little. The distribution of the true variances is estimated from all
cases of a metric (nonparametric maximum likelihood: Kiefer and Wolfowitz, Annals of Mathematical Statistics
27, 1956, on a grid, by the EM algorithm); a case's variance is what that and its own sample say together. The
tests that follow: Ignatiadis and Sen, "Empirical partially Bayes multiple testing and compound chi-square
decisions" (arXiv 2303.02887, 2023). limma's moderated t is the same with an inverse chi-square distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dlperf.results.moderation import Variance

    Array = NDArray[np.float64]

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

    Args:
        variances: one a case.
        floor: above 0; a smaller sample variance counts as this one.
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
        from scipy.special import ndtr  # type: ignore[import-untyped]  # noqa: PLC0415

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
        from dlperf.results.significance import two_sided_p  # noqa: PLC0415

        if self.deviation == 0:
            return 0.0 if difference else 1.0
        return two_sided_p(difference / self.deviation, degrees=self.degrees)

    def reach(self, share: float) -> float:
        """As `MixtureError`."""
        from dlperf.results.statistics import t_quantile  # noqa: PLC0415

        return t_quantile(share, degrees=self.degrees) * self.deviation
