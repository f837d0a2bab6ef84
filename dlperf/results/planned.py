"""What the plan of a sweep says about cells without a run: not run yet, excluded, or unsupported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.plan.plan import PlannedCase, PlanStatus
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan

NOT_YET = "planned and not run yet; `dlperf run` goes on with the sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A case of a plan, how many runs it should have, and what stands for it while it has none."""

    sweep: Path
    case: Case
    runs: int
    status: Status
    reason: str


def planned_cells(plans: Mapping[Path, Plan]) -> tuple[PlannedCell, ...]:
    """Every cell of the frozen plans of the sweeps."""
    return tuple(cell for sweep, plan in plans.items() for cell in _cells(sweep, plan))


def _cells(sweep: Path, plan: Plan) -> Iterator[PlannedCell]:
    for item in plan.cases:
        status, reason = _standing(item)
        runs = plan.repeats if item.status is PlanStatus.RUNNABLE else 0
        yield PlannedCell(sweep=sweep, case=item.case, runs=runs, status=status, reason=reason)


def _standing(item: PlannedCase) -> tuple[Status, str]:
    reason = item.reason or "no reason given"
    if item.status is PlanStatus.UNSUPPORTED:
        return Status.UNSUPPORTED, reason
    if item.status is PlanStatus.EXCLUDED:
        return Status.NOT_MEASURED, f"excluded: {reason}"
    if item.status is PlanStatus.UNAVAILABLE:
        return Status.NOT_MEASURED, reason
    return Status.NOT_MEASURED, NOT_YET
