"""The run folder from the runner's side: what state it is in, how it is emptied, who works in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from dlperf.errors import InfrastructureError

if TYPE_CHECKING:
    from pathlib import Path

LAUNCH_NAME: Final = "launch.json"
CASE_NAME: Final = "case.json"
OUTCOME_NAME: Final = "outcome.json"
RESULT_NAME: Final = "result.json"
ENVIRONMENT_NAME: Final = "environment.json"

# A supervisor that lost its harness ends its ranks within a few seconds, a dead disk or driver left aside.
DESERTED_LIMIT_SECONDS = 30.0
_POLL_SECONDS = 0.05


def run_folder(results: Path, *, case_id: str, repeat: int) -> Path:
    """Where one run of a case lies; docs/architecture.md, "The files between the rooms"."""
    return results / "runs" / case_id / f"r{repeat}"


def node_file(name: str, *, node_rank: int, nodes: int) -> str:
    """A node's own file: `outcome.json`, or `outcome.node1.json` where a run has several nodes."""
    stem, dot, suffix = name.rpartition(".")
    return name if nodes == 1 else f"{stem}.node{node_rank}{dot}{suffix}"


def wait_until_deserted(folder: Path, *, limit_seconds: float = DESERTED_LIMIT_SECONDS) -> None:
    """Return when no supervisor, and so no rank, is at work in the folder.

    A supervisor holds a lock on its launch file, which the kernel drops when its last process is gone.

    Raises:
        InfrastructureError: one is still there after the limit.
    """
    try:
        descriptor = os.open(folder / LAUNCH_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return
    deadline = time.monotonic() + limit_seconds
    try:
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"{folder}: the supervisor of an earlier run is still at work after {limit_seconds:g} s; "
                    "end it (ps -eo pid,args | grep supervisor.py) and start again"
                )
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def empty_folder(folder: Path) -> None:
    """Make the run folder anew; what an interrupted or failed run left in it is gone.

    Raises:
        InfrastructureError: a run is still going on in it.
    """
    if folder.exists():
        wait_until_deserted(folder)
        # The result first: a removal that is cut short must not leave a result without its logs.
        (folder / RESULT_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
