"""`plan.lock.json`: the plan as it was when the sweep first ran. Editing the YAML later leaves it alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from dlperf.errors import UserError
from dlperf.files import read_document, write_document
from dlperf.layout import LIMITS_FOLDER, LOCK_NAME, RUNS_FOLDER
from dlperf.plan.plan import Plan

_MOST_CASE_LINES = 40


def freeze(plan: Plan, folder: Path) -> Plan:
    """Write the plan into a results folder, or agree with the one that is there.

    An equal plan resumes. More repeats, or other limits, extend the frozen plan, whose file is written anew.
    Fewer repeats resume too and keep the frozen file. Where no run was begun yet the plan takes the other's
    place. Returns the plan to run.

    Raises:
        UserError: the folder holds another plan (the text ends with what differs), or a file that is no plan.
    """
    path = folder / LOCK_NAME
    if not path.exists():
        write_lock(plan, path)
        return plan
    frozen = read_lock(path)
    if not _has_runs(folder):
        write_lock(plan, path)
        return plan
    differences = list(compare_plans(frozen, plan))
    if differences:
        raise UserError(
            f"{path}: this folder holds results of another plan; restore the files, "
            "or choose another folder with --results DIR. What changed:\n" + "\n".join(differences)
        )
    if plan.repeats > frozen.repeats or plan.limits != frozen.limits:
        write_lock(plan, path)
    return plan


def _has_runs(folder: Path) -> bool:
    """Whether any run, or probe of a limit, was begun."""
    return any(any((folder / name).glob("*")) for name in (RUNS_FOLDER, LIMITS_FOLDER))


def write_lock(plan: Plan, path: Path) -> None:
    """Write the plan whole or not at all, and flush it to the disk."""
    write_document(path, plan)


def read_lock(path: Path) -> Plan:
    """Read a frozen plan; UserError where the file is none, or is of another schema version."""
    remedy = "choose another folder with --results DIR, or remove the file to plan again"
    return read_document(path, Plan, kind="plan", remedy=remedy)


def compare_plans(old: Plan, new: Plan) -> Iterator[str]:
    """The lines of a unified diff where the plans cannot share a results folder; nothing where they can.

    They can when they hold the same cases with the same prospects, the same order and the same interpreters.
    """
    if _essence(old) == _essence(new):
        return
    for what in ("machine", "cluster", "settings"):
        then, now = _words(getattr(old, what)), _words(getattr(new, what))
        if then != now:
            yield from (f"-{what}: {then}", f"+{what}: {now}")
    for before, after in zip(old.sources, new.sources, strict=False):
        yield from _diff(before.text, after.text, names=(f"{before.path} (frozen)", after.path))
    cases = list(_diff(_essence(old), _essence(new), names=("cases (frozen)", "cases")))
    yield from cases[:_MOST_CASE_LINES]
    if len(cases) > _MOST_CASE_LINES:
        yield f"... and {len(cases) - _MOST_CASE_LINES} more lines"


def _words(value: object) -> str:
    return (" ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _essence(plan: Plan) -> str:
    """What must stay the same, one thing a line."""
    lines = [f"order {plan.order}"]
    lines += [f"python of {name} {path}" for name, path in sorted(plan.interpreters.items())]
    # A wheel may lie elsewhere now: its hash is in the names of its cases.
    lines += [f"index of {name} {one.index}" for name, one in sorted(plan.origins.items()) if one.index]
    lines += [f"{item.case_id} {item.status.value}" for item in plan.cases]
    return "\n".join(lines)


def _diff(before: str, after: str, *, names: tuple[str, str]) -> Iterator[str]:
    return difflib.unified_diff(before.splitlines(), after.splitlines(), *names, n=1, lineterm="")
