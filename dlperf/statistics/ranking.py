"""Which of several participants is the fastest, where their runs tell: one decision for every page."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dlperf.statistics.basic import (
    FEWEST_RUNS,
    LEVEL,
    MOST_RUNS,
    Interval,
    mean,
    quantile,
    ratio_interval,
    runs_to_detect,
    standard_deviation,
)

K = TypeVar("K", bound=Hashable)

# A lead that is smaller does not count: equal programs differ by as much.
SMALLEST_LEAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """How far the first is ahead of another participant, and whether that is told from 1.

    `ratio` is of the medians, as every ratio that a page shows; `interval`, of the ratio of the geometric
    means, holds with 95 % for all others together. The lead `counts` unless it is below the smallest.
    `runs_needed` are the runs of each that would tell them apart with 80 % power, were the lead as large as
    it looks; None where it is told already, where it does not count, or where no affordable number would.
    """

    ratio: float
    interval: Interval
    counts: bool
    told: bool
    runs_needed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Generic[K]):
    """Who is the fastest, or what keeps that from being told.

    `first` has the highest median, None without any run; it is the `winner` where nothing is in the way.
    `leads` are its leads over each other participant with enough runs, `lacking` the numbers of good runs of
    those with fewer than `FEWEST_RUNS`.
    """

    first: K | None
    winner: K | None
    leads: Mapping[K, Lead]
    lacking: Mapping[K, int]

    @property
    def close(self) -> tuple[K, ...]:
        """Those that the first cannot be told apart from."""
        return tuple(other for other, lead in self.leads.items() if not lead.told)

    @property
    def next(self) -> K:
        """The other participant with the highest median; there is one where there is a winner."""
        return min(self.leads, key=lambda other: self.leads[other].ratio)

    @property
    def runs_needed(self) -> int | None:
        """Runs of each that would settle all that is open; None where no affordable number would."""
        needed = [lead.runs_needed for lead in self.leads.values() if not lead.told]
        if self.lacking:
            needed.append(FEWEST_RUNS)
        return None if None in needed else max((count for count in needed if count is not None), default=None)

    def in_words(self, name: Callable[[K], str]) -> str:
        """`A is the fastest, 1.31 times B`; else why that cannot be told, and what would settle it."""
        if self.winner is not None:
            ratio = self.leads[self.next].ratio
            return f"{name(self.winner)} is the fastest, {ratio:.2f} times {name(self.next)}"
        if self.lacking or self.first is None:
            few = ", ".join(f"{name(key)} has {count}" for key, count in self.lacking.items())
            return f"no winner named: at least {FEWEST_RUNS} good runs of each are needed; {few}"
        close, needed = " and ".join(map(name, self.close)), self.runs_needed
        text = f"no winner named: {name(self.first)} cannot be told apart from {close}"
        if needed:
            return f"{text}; about {needed} runs of each would settle it"
        if not all(self.leads[other].counts for other in self.close):
            return f"{text}; a lead below {100 * SMALLEST_LEAD:g} % does not count"
        return f"{text}; it would take more than {MOST_RUNS} runs of each"


def fastest(rates: Mapping[K, Sequence[float]]) -> Standing[K] | None:
    """Who of all participants has the highest rate; None with fewer than two participants.

    `rates` holds the rates of the good runs of each; none where all its runs failed, were disturbed or are
    still to be made. A rate that is not above 0 counts as none. A participant that cannot run at all must be
    left out.

    The one with the highest median is the winner if every participant has `FEWEST_RUNS` runs, and if it is
    ahead of each other by `SMALLEST_LEAD` and by the interval of their ratio: Welch's, on logarithms, at a
    level that is divided by the number of others (Bonferroni). Where all are equal, one is named in at most
    1 of 20 rows.
    """
    if len(rates) < 2:  # noqa: PLR2004
        return None
    rates = {key: [rate for rate in each if 0 < rate < math.inf] for key, each in rates.items()}
    lacking = {key: len(each) for key, each in rates.items() if len(each) < FEWEST_RUNS}
    first = max((key for key in rates if rates[key]), key=lambda key: quantile(rates[key], 0.5), default=None)
    leads = {}
    if first is not None and first not in lacking:
        others = [key for key in rates if key != first and key not in lacking]
        leads = {key: _lead(rates[first], rates[key], others=len(rates) - 1) for key in others}
    told = not lacking and all(lead.told for lead in leads.values())
    return Standing(first=first, winner=first if told else None, leads=leads, lacking=lacking)


def _lead(first: Sequence[float], other: Sequence[float], *, others: int) -> Lead:
    interval = ratio_interval(first, other, confidence=1 - LEVEL / others)
    if interval is None:
        raise ValueError(f"fewer than {FEWEST_RUNS} runs")
    logs = [[math.log(rate) for rate in side] for side in (first, other)]
    log_ratio = mean(logs[0]) - mean(logs[1])
    counts = log_ratio >= math.log1p(SMALLEST_LEAD)
    told, needed = counts and interval.low > 1, None
    if counts and not told:
        variance = mean([(standard_deviation(side) or 0.0) ** 2 for side in logs])
        count = runs_to_detect(log_ratio, variance=variance, blocked=False, level=LEVEL, tests=others)
        needed = None if count is None else max(count, min(len(first), len(other)) + 1)
    ratio = quantile(first, 0.5) / quantile(other, 0.5)
    return Lead(ratio=ratio, interval=interval, counts=counts, told=told, runs_needed=needed)
