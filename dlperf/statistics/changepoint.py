"""Whether a run found its speed: its iterations cut where their duration changes, and what that looks like.

Pure. The cuts are penalised change points of the mean (PELT: Killick, Fearnhead and Eckley, "Optimal
detection of changepoints with a linear computational cost", Journal of the American Statistical Association
107, 2012) on the logarithm of the durations; docs/evidence.md gives the numbers below and how they were
chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from dlperf.statistics.basic import mean, quantile

# A shorter series is taken as it is: half of it would be no more than the fewest steps of a steady state.
FEWEST_JUDGED = 60
FEWEST_STEADY = 30
# An iteration that takes so many times the median is a pause (validation, checkpoint, stall), not a speed.
PAUSE_FACTOR = 5.0
# Neighbouring stretches whose medians are closer than this are one: true changes so small change no figure.
_SMALLEST_CHANGE = 0.02
_SHORTEST_STRETCH = 10
# Of the squared noise, times log n. Neighbouring iterations correlate by about 0.3, which makes the noise of
# a stretch's mean 2.7 times what independent ones would have; the rest keeps flat runs whole.
_PENALTY = 12.0
_FENCE = 3.0  # in interquartile ranges: what lies beyond is pulled to it, so that no outlier is a stretch
_MOST_POINTS = 2000
_COARSE = 1e-3


class Shape(StrEnum):
    """How the speed of a run changed."""

    FLAT = "flat"
    WARM_UP = "warm-up"  # faster at the end
    SLOWDOWN = "slowdown"  # slower at the end
    DRIFTING = "drifting"  # moved all the way
    NONE = "none"  # back and forth


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """A series cut where its speed changes; `first` is where the steady stretch begins, None where none is.

    `pauses` are the places of the pauses. Places count from 0.
    """

    shape: Shape
    first: int | None
    levels: tuple[float, ...]  # median seconds of each stretch
    pauses: tuple[int, ...]


def classify(seconds: Sequence[float]) -> Segmentation:
    """The stretches of equal speed among a run's accepted iterations, at least `FEWEST_JUDGED`.

    The last stretch is the steady state if it covers half of the time, pauses left out, and `FEWEST_STEADY`
    iterations.
    """
    limit = PAUSE_FACTOR * quantile(seconds, 0.5)
    kept = [place for place, each in enumerate(seconds) if each <= limit]
    pauses = tuple(place for place, each in enumerate(seconds) if each > limit)
    series = [seconds[place] for place in kept]
    starts = _merged(_starts([math.log(each) for each in series]), series)
    ends = [*starts[1:], len(series)]
    levels = tuple(quantile(series[start:end], 0.5) for start, end in zip(starts, ends, strict=True))
    last = series[starts[-1] :]
    steady = len(last) >= FEWEST_STEADY and 2 * math.fsum(last) >= math.fsum(series)
    return Segmentation(
        shape=_shape(levels, steady=steady),
        first=kept[starts[-1]] if len(levels) > 1 and steady else (0 if steady else None),
        levels=levels,
        pauses=pauses,
    )


def _shape(levels: Sequence[float], *, steady: bool) -> Shape:
    if len(levels) == 1:
        return Shape.FLAT
    rises = [after > before for before, after in pairwise(levels)]
    if steady or len(levels) == 2:  # noqa: PLR2004
        return Shape.SLOWDOWN if levels[-1] > levels[-2] else Shape.WARM_UP
    return Shape.DRIFTING if all(rises) or not any(rises) else Shape.NONE


def _starts(logs: Sequence[float]) -> list[int]:
    """Where each stretch begins; the first at 0."""
    width = -(-len(logs) // _MOST_POINTS)
    points = [mean(logs[start : start + width]) for start in range(0, len(logs), width)]
    return [width * start for start in change_points(points, penalty=_PENALTY)]


def change_points(values: Sequence[float], *, penalty: float, shortest: int = _SHORTEST_STRETCH) -> list[int]:
    """Where each stretch of equal mean begins; the first at 0.

    `penalty` is in units of the squared noise times log n; the noise comes from the differences of
    neighbours, which a change of level hardly touches.
    """
    if len(values) < 2 * shortest:
        return [0]
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    fence = _FENCE * (high - low)
    pulled = [min(max(value, low - fence), high + fence) for value in values]
    steps = sorted(abs(after - before) for before, after in pairwise(pulled))
    noise = 1.4826 * quantile(steps, 0.5) / math.sqrt(2)
    noise = noise or _COARSE  # a clock so coarse that most neighbours are equal
    import numpy as np  # noqa: PLC0415 - both are slow to load and needed for long runs alone
    import ruptures  # type: ignore[import-untyped]  # noqa: PLC0415

    signal = np.asarray(pulled)[:, None] / noise
    ends = (
        ruptures.KernelCPD(kernel="linear", min_size=shortest)
        .fit(signal)
        .predict(pen=penalty * math.log(len(values)))
    )
    return [0, *(int(end) for end in ends[:-1])]


def _merged(starts: Sequence[int], series: Sequence[float]) -> list[int]:
    """The starts without those where the median hardly changes, the smallest change first."""
    kept = list(starts)
    while len(kept) > 1:
        ends = [*kept[1:], len(series)]
        levels = [quantile(series[start:end], 0.5) for start, end in zip(kept, ends, strict=True)]
        changes = [abs(math.log(after / before)) for before, after in pairwise(levels)]
        smallest = min(changes)
        if smallest >= math.log1p(_SMALLEST_CHANGE):
            break
        del kept[changes.index(smallest) + 1]
    return kept
