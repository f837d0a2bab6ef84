"""Locks between processes, on one file an environment: shared by its users, exclusive for maker and remover.

`flock` rather than the filelock library, which has no shared locks. The kernel drops a lock when its last
holder is gone, kill -9 included, so that no stale lock exists.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def shared(path: Path) -> Iterator[int]:
    """Hold `path` together with other users; wait for an exclusive holder. Gives the file descriptor."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor


@contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold `path` alone; call `on_wait` once before waiting for others. Gives the file descriptor."""
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor


@contextmanager
def exclusive_now(path: Path) -> Iterator[int]:
    """Hold `path` alone.

    Raises:
        Busy: another process holds it.
    """
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        yield descriptor


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is never removed: a lock on a removed file would not meet one on its successor.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
