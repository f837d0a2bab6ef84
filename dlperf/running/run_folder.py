"""The run folder from the runner's side: what state it is in, how it is emptied, who works in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from dlperf.errors import InfrastructureError, UserError
from dlperf.layout import LAUNCH_NAME, RESULT_NAME, RESULTS_LOCK_NAME, run_folder
from dlperf.plan.plan import Plan, PlannedRun
from dlperf.results.schema import FAILED, RunResult, Status

# A supervisor that lost its harness ends its ranks within a few seconds, a dead disk or driver left aside.
DESERTED_LIMIT_SECONDS = 30.0
_POLL_SECONDS = 0.05


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


# Which runs of a plan have their result in a results folder, and which are still to be made.


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result and the folder that it lies in."""

    folder: Path
    result: RunResult


def pending_runs(plan: Plan, *, results: Path, retry_failed: bool) -> tuple[PlannedRun, ...]:
    """The runs of the plan that are to be made, in its order.

    A run with a whole result is done; one that failed is made again if `retry_failed`; one that could not be
    started, or lost its node, is always tried again: that says nothing about its case. One that ran out of
    memory at a limit that was found is no result either: the limit is lower.
    """
    again = {Status.NOT_MEASURED, Status.LOST_NODE, *(FAILED if retry_failed else ())}
    searched = {case.case_id for case in plan.runnable if case.search is not None}

    def is_missing(run: PlannedRun) -> bool:
        stored = read_result(run_folder(results, case_id=run.case_id, repeat=run.repeat))
        if stored is None or stored.status in again:
            return True
        return stored.status is Status.OOM and run.case_id in searched

    return tuple(run for run in plan.runs if is_missing(run))


def stored_results(plan: Plan, *, results: Path) -> tuple[StoredResult, ...]:
    """The results of the plan's runs that are there, in its order."""
    folders = (run_folder(results, case_id=run.case_id, repeat=run.repeat) for run in plan.runs)
    found = ((folder, read_result(folder)) for folder in folders)
    return tuple(StoredResult(folder=folder, result=result) for folder, result in found if result is not None)


def read_result(folder: Path) -> RunResult | None:
    """The result of a run folder; None where there is none, or none that this dlperf can read."""
    try:
        return RunResult.model_validate_json((folder / RESULT_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


# One dlperf a results folder, one measuring dlperf a machine. The kernel drops the lock of a dead owner.


# One place for all users of a machine, whatever their TMPDIR says.
_HOST_LOCK = Path("/tmp/dlperf-measuring.lock")  # noqa: S108  a lock, never read
_EVERYBODY = 0o666
_LOCK_POLL_SECONDS = 0.2


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Hold a results folder alone; it is made where it does not exist.

    Raises:
        UserError: another dlperf works in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / RESULTS_LOCK_NAME)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another dlperf works in this results folder; wait for its end, "
            "or choose another folder with --results DIR"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another folder with --results DIR") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_machine(*, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold this machine alone for measuring, as two runs at once would measure each other.

    DLPERF_HOST_LOCK names another lock file, for containers that share a machine but not its /tmp.

    Raises:
        InfrastructureError: `wait` is False and another dlperf measures here.
    """
    path = Path(os.environ.get("DLPERF_HOST_LOCK") or _HOST_LOCK)
    lock = FileLock(path, mode=_EVERYBODY)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise InfrastructureError(
                    "another dlperf measures on this machine; try again later, or leave --no-wait out to wait"
                ) from None
            say("another dlperf measures on this machine; waiting for its end")
            lock.acquire(poll_interval=_LOCK_POLL_SECONDS)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: {error.strerror}; set DLPERF_HOST_LOCK to another file"
        ) from error
    try:
        yield
    finally:
        lock.release()
