"""The difference of two sets of runs on the logarithmic scale: from blocks where there are some."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.results.moderation import Variance
from dlperf.results.statistics import mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FEWEST_RUNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
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


def contrast(baseline: Mapping[str, float], candidate: Mapping[str, float]) -> Contrast:
    """The contrast of runs by block: runs of both sides under one name were made in one block.

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


def _blocked(differences: Sequence[float]) -> Contrast:
    count = len(differences)
    return Contrast(
        log_ratio=mean(differences),
        variance=Variance(_squares(differences) / (count - 1), count - 1),
        unit=1 / count,
        blocked=True,
        runs=(count, count),
    )


def _independent(baseline: Sequence[float], candidate: Sequence[float]) -> Contrast:
    degrees = len(baseline) + len(candidate) - 2
    return Contrast(
        log_ratio=mean(candidate) - mean(baseline),
        variance=Variance((_squares(baseline) + _squares(candidate)) / degrees, degrees),
        unit=1 / len(baseline) + 1 / len(candidate),
        blocked=False,
        runs=(len(baseline), len(candidate)),
    )


def _squares(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)
