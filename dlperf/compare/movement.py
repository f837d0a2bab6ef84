"""How much the machine itself moved between two sides, as far as the readings around their blocks tell."""

from __future__ import annotations

import math
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from dlperf.compare.contrast import FEWEST_RUNS, contrast
from dlperf.results.significance import two_sided_p
from dlperf.results.statistics import mean, standard_deviation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.compare.side import SideCase, SideRun
    from dlperf.results.sentinels import Reading

# A guard that asked at 5 % would itself throw away every twentieth verdict.
_LEVEL = 0.01


def machine_movement(baseline: SideCase, candidate: SideCase, *, blocked: bool) -> float | None:
    """The larger change of the two readings in favour of one side, as a log ratio; None without readings.

    Blocked: what a machine gains from before a block to after it is a gain of whoever ran second, and what
    does not cancel out over the blocks stays. Otherwise: the candidate's readings against the baseline's. A
    change that the readings' own spread explains counts as none.
    """
    if blocked:
        return _within_blocks(baseline, candidate)
    return _between(_readings(baseline), _readings(candidate))


def _within_blocks(baseline: SideCase, candidate: SideCase) -> float | None:
    """The mean gain of whoever ran second, in favour of the candidate.

    One reading ends a block and begins the next, so that gains of neighbours are no independent numbers: the
    error of their mean comes from how often each reading is in it.
    """
    blocks = list(_read_blocks(baseline, candidate))
    if len(blocks) < FEWEST_RUNS:
        return None
    weights: Counter[Reading] = Counter()
    for sign, before, after in blocks:
        weights[after] += sign
        weights[before] -= sign
    share = math.fsum(weight**2 for weight in weights.values()) / len(blocks) ** 2
    gains = [[sign * gain for gain in before.change_to(after)] for sign, before, after in blocks]
    found = [
        # A gain is a difference of two readings, whose variance is half of its own.
        _beyond_chance(
            mean(each),
            error=(standard_deviation(each) or 0.0) * math.sqrt(share / 2),
            degrees=len(each) - 1,
        )
        for each in zip(*gains, strict=True)
    ]
    return max(found, key=abs)


def _read_blocks(baseline: SideCase, candidate: SideCase) -> Iterator[tuple[int, Reading, Reading]]:
    """Of each common block: 1 where the candidate ran second, else -1, and the readings around it."""
    theirs = {run.block: run for run in baseline.runs if run.block is not None}
    for run in candidate.runs:
        other = theirs.get(run.block or "")
        if other is not None and run.before is not None and run.after is not None:
            yield (1 if _second(run, other) else -1), run.before, run.after


def _second(run: SideRun, other: SideRun) -> bool:
    return (run.started_at or "") > (other.started_at or "")


def _readings(one: SideCase) -> list[Reading]:
    """In their order; one that ends a block and begins the next counts once."""
    around = [reading for run in one.runs for reading in (run.before, run.after) if reading is not None]
    return [reading for reading, _ in groupby(around)]


def _between(baseline: Sequence[Reading], candidate: Sequence[Reading]) -> float | None:
    """The candidate's readings against the baseline's, two independent samples with one variance."""
    if min(len(baseline), len(candidate)) < FEWEST_RUNS:
        return None
    found = []
    for rate in ("matmul_flops_per_second", "copy_bytes_per_second"):
        sides = [
            {f"{side} {number}": getattr(one, rate) for number, one in enumerate(readings)}
            for side, readings in (("baseline", baseline), ("candidate", candidate))
        ]
        made = contrast(*sides)
        error = math.sqrt(made.variance.value * made.unit)
        found.append(_beyond_chance(made.log_ratio, error=error, degrees=made.variance.degrees))
    return max(found, key=abs)


def _beyond_chance(change: float, *, error: float, degrees: float) -> float:
    """The change, or 0 where its error explains it."""
    if error == 0:
        return change
    return change if two_sided_p(change / error, degrees=degrees) < _LEVEL else 0.0
