"""Frozen plans beside run folders. For tests only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.files import write_document
from dlperf.layout import LOCK_NAME
from dlperf.plan.machine import Machine
from dlperf.plan.plan import Plan, PlannedCase, PlanStatus
from dlperf.plan.sweep import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dlperf.plan.case import Case


def write_plan(
    sweep: Path,
    runnable: Sequence[Case],
    *,
    repeats: int = 2,
    notes: str = "",
    others: Mapping[PlanStatus, Sequence[tuple[Case, str]]] | None = None,
) -> None:
    """A plan.lock.json with runnable cases, and others by status, each with its reason."""
    planned = [PlannedCase(case=case, status=PlanStatus.RUNNABLE) for case in runnable]
    for status, cases in (others or {}).items():
        planned += [PlannedCase(case=case, status=status, reason=reason) for case, reason in cases]
    plan = Plan(
        sweep=sweep.name,
        cases=tuple(planned),
        runs=(),
        repeats=repeats,
        order="interleaved",
        limits=Limits(),
        interpreters={},
        machine=Machine(cores=8),
        notes=notes,
        sources=(),
    )
    write_document(sweep / LOCK_NAME, plan)
