"""One dlperf a results folder, one measuring dlperf a machine. The kernel drops the lock of a dead owner."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dlperf.errors import InfrastructureError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RESULTS_LOCK = ".dlperf.lock"
# One place for all users of a machine, whatever their TMPDIR says.
_HOST_LOCK = Path("/tmp/dlperf-measuring.lock")  # noqa: S108  a lock, never read
_EVERYBODY = 0o666
_POLL_SECONDS = 0.2


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Hold a results folder alone; it is made where it does not exist.

    Raises:
        UserError: another dlperf works in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _RESULTS_LOCK)
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
            lock.acquire(poll_interval=_POLL_SECONDS)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: {error.strerror}; set DLPERF_HOST_LOCK to another file"
        ) from error
    try:
        yield
    finally:
        lock.release()
