"""How many runs a question takes. Estimates for planning: the spread itself is known from few runs."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from dlperf.compare.contrast import FEWEST_RUNS
from dlperf.results.statistics import t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.compare.contrast import Contrast
    from dlperf.results.moderation import Variance

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
    contrast: Contrast, variance: Variance, *, margin: float, level: float, tests: int
) -> int | None:
    """Runs a side with which the difference, were it as large as it looks, would be told or ruled out.

    Told where it is as large as the margin, else shown to lie inside it. None: more than `MOST_RUNS`.
    """
    effect, counts = abs(contrast.log_ratio), math.log1p(margin)
    if effect >= counts:
        more = runs_to_detect(
            effect,
            variance=variance.value,
            blocked=contrast.blocked,
            level=level,
            tests=tests,
            degrees=max(0.0, variance.degrees - contrast.variance.degrees),
        )
        return None if more is None else max(more, max(contrast.runs) + 1)

    def enough(count: int) -> bool:
        error = math.sqrt(variance.value * contrast.with_runs(count))
        own = (count - 1) * (1 if contrast.blocked else 2)
        reach = t_quantile(1 - level, degrees=own) + t_quantile(POWER, degrees=own)
        return effect + reach * error <= counts

    found = _first(enough)
    return None if found is None else max(found, max(contrast.runs) + 1)


def _first(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of runs that is enough; what is enough once stays so."""
    counts = range(FEWEST_RUNS, MOST_RUNS + 1)
    index = bisect_left(counts, 1, key=enough)
    return counts[index] if index < len(counts) else None
