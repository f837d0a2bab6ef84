"""Where results lie: results folders hold sweeps, sweeps hold runs/<case_id>/r<repeat> (docs/results.md)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dlperf.errors import UserError
from dlperf.plan.lock import LOCK_NAME

_REPEAT = re.compile(r"r([0-9]{1,9})")


def sweep_folders(path: Path) -> list[Path]:
    """A sweep's folder itself, or the sweeps in a results folder; UserError where `path` is no folder."""
    if not path.exists():
        raise UserError(f"{path}: no such folder; `dlperf run SWEEP` makes one with results")
    if not path.is_dir():
        raise UserError(f"{path}: a file; give a results folder or the folder of a sweep")
    if _is_sweep(path):
        return [path]
    return [child for child in path.iterdir() if child.is_dir() and _is_sweep(child)]


def _is_sweep(folder: Path) -> bool:
    return (folder / "runs").is_dir() or (folder / LOCK_NAME).is_file()


def run_folders(sweep: Path) -> list[Path]:
    """Of all cases, by name."""
    runs = sweep / "runs"
    if not runs.is_dir():
        return []
    cases = sorted(entry.name for entry in os.scandir(runs) if entry.is_dir())
    return [
        folder / run
        for folder in (runs / case for case in cases)
        for run in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    ]


def repeat_of(folder: Path) -> int | None:
    """The repeat that a run folder's name tells; None where it is no such name."""
    match = _REPEAT.fullmatch(folder.name)
    return None if match is None else int(match[1])


def require_repeat(folder: Path) -> int:
    """The same; UserError where it is none."""
    repeat = repeat_of(folder.resolve())
    if repeat is None:
        raise UserError(f"{folder}: a run folder is named r<repeat>, such as r1")
    return repeat
