"""In which order the runs of a plan are made."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from dlperf.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.plan.case import Case
    from dlperf.plan.sweep_file import Order


class PlannedRun(Model):
    """One repeat of one case; repeats count from 1."""

    case_id: str
    repeat: int


def ordered_runs(cases: Sequence[Case], *, repeats: int, order: Order, seed: int) -> tuple[PlannedRun, ...]:
    """Every case `repeats` times.

    `interleaved` goes from cell to cell. A cell's cases differ in their framework only; they are run in
    blocks, each of them once a block, and the order turns round from block to block (A B, B A, A B, ...), so
    that a machine that drifts hits all frameworks alike. `sequential` makes all repeats of a case before the
    next case; `shuffled` mixes all runs, the same way for the same seed.
    """
    if order == "interleaved":
        return tuple(run for arms in cells_of(cases) for run in _blocks(arms, repeats))
    runs = [
        PlannedRun(case_id=case.case_id, repeat=repeat) for case in cases for repeat in range(1, repeats + 1)
    ]
    if order == "shuffled":
        random.Random(seed).shuffle(runs)  # noqa: S311 - an order, no secret
    return tuple(runs)


def cells_of(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each cell (they differ in their framework only), cells as they first appear."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(cell_of(case), []).append(case)
    return list(groups.values())


def cell_of(case: Case) -> str:
    """Equal for cases of one cell. What a search finds, and where it begins, is the framework's own."""
    left_out: dict[str, Any] = {"framework": True, "version": True, "options": True}
    if case.search is not None:
        left_out |= {case.search.axis: True, "search": {"lower": True}}
    return case.model_dump_json(exclude=left_out)


def _blocks(arms: Sequence[Case], repeats: int) -> list[PlannedRun]:
    return [
        PlannedRun(case_id=case.case_id, repeat=repeat)
        for repeat in range(1, repeats + 1)
        for case in (arms if repeat % 2 else reversed(arms))
    ]
