"""What the runs of two cases say of the ratio of their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dlperf.statistics.basic import ratio_interval

if TYPE_CHECKING:
    from dlperf.results.cases import CaseFigures
    from dlperf.statistics.basic import Interval

# A ratio that may be ten times as large is not known at all.
WIDEST_RATIO: Final = 10.0


def interval_of_ratio(over: CaseFigures, under: CaseFigures) -> Interval | None:
    """The 95 % interval of over / under; None where one of them has fewer than two good runs."""
    return ratio_interval(
        [run.samples_per_sec for run in over.good], [run.samples_per_sec for run in under.good]
    )


def too_wide(interval: Interval) -> bool:
    """Whether an interval says nothing of its ratio."""
    return interval.high > WIDEST_RATIO * interval.low
