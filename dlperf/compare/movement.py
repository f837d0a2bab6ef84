"""How much the machine itself moved between two sides, as far as the readings around their blocks tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dlperf.compare.contrast import FEWEST_RUNS
from dlperf.results.significance import two_sided_p
from dlperf.results.statistics import mean, standard_deviation

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        changes = _within_blocks(baseline, candidate)
    else:
        changes = _between(_readings(baseline), _readings(candidate))
    if not changes:
        return None
    return max((_beyond_chance(each) for each in zip(*changes, strict=True)), key=abs)


def _within_blocks(baseline: SideCase, candidate: SideCase) -> list[tuple[float, float]]:
    theirs = {run.block: run for run in baseline.runs if run.block is not None}
    changes = []
    for run in candidate.runs:
        other = theirs.get(run.block or "")
        if other is None or run.before is None or run.after is None:
            continue
        sign = 1 if _second(run, other) else -1
        matmul, copy = run.before.change_to(run.after)
        changes.append((sign * matmul, sign * copy))
    return changes if len(changes) >= FEWEST_RUNS else []


def _second(run: SideRun, other: SideRun) -> bool:
    return (run.started_at or "") > (other.started_at or "")


def _readings(one: SideCase) -> list[Reading]:
    return [reading for run in one.runs for reading in (run.before, run.after) if reading is not None]


def _between(baseline: Sequence[Reading], candidate: Sequence[Reading]) -> list[tuple[float, float]]:
    """Each of the candidate's readings against the geometric mean of the baseline's."""
    if min(len(baseline), len(candidate)) < FEWEST_RUNS:
        return []
    first = baseline[0]
    centre = [mean(each) for each in zip(*(first.change_to(one) for one in baseline), strict=True)]
    return [
        (change[0] - centre[0], change[1] - centre[1])
        for change in (first.change_to(one) for one in candidate)
    ]


def _beyond_chance(changes: Sequence[float]) -> float:
    centre = mean(changes)
    error = (standard_deviation(changes) or 0.0) / math.sqrt(len(changes))
    if error == 0:
        return centre
    return centre if two_sided_p(centre / error, degrees=len(changes) - 1) < _LEVEL else 0.0
