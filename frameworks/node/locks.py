"""Who works on a node: one measuring dlperf, supervisors in their folders, processes left over."""

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import List, Optional, Set

from frameworks.node import Refused

# An ended run is gone within seconds; we do not wait for one whose process is stuck in the kernel.
DESERTED_SECONDS = 30.0
# The same file as dlperf uses on its own machine (dlperf/running/run_folder.py).
HOST_LOCK = "/tmp/dlperf-measuring.lock"  # noqa: S108  a lock, never read
# In the environment of every rank, and so of everything that it starts.
RUN_VARIABLE = "DLPERF_RUN"


class HostLock:
    """One measuring dlperf per machine; the kernel releases the lock of a dead owner."""

    def __init__(self) -> None:
        self._descriptor: Optional[int] = None

    def take(self) -> bool:
        """Take the lock if it is free; whether it is ours."""
        path = os.environ.get("DLPERF_HOST_LOCK") or HOST_LOCK
        while self._descriptor is None:
            descriptor = _opened_for_all(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116  beside fstat
                    self._descriptor = descriptor
                    break
            os.close(descriptor)  # its last holder has just removed the file
        return True

    def release(self) -> None:
        """Release it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _opened_for_all(path: str) -> int:
    """Open a file of another user, which in /tmp works only without O_CREAT; if there is none, create it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # another user has just created it
            os.fchmod(descriptor, 0o666)
        return descriptor


def is_deserted(folder: Path) -> bool:
    """Whether no supervisor, and so no rank, works in a run folder."""
    try:
        descriptor = os.open(folder / "launch.json", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def until_deserted(folder: Path) -> None:
    """Wait until a supervisor has ended; Refused if it does not."""
    deadline = time.monotonic() + DESERTED_SECONDS
    while not is_deserted(folder):
        if time.monotonic() > deadline:
            raise Refused(f"{folder}: a supervisor is still at work after {DESERTED_SECONDS:g} s")
        time.sleep(0.05)


def run_processes(folder: Path) -> List[int]:
    """Processes of this user and container that a run in `folder` or below it started.

    They have its variable in their environment, with the path of the run's folder. A container may have
    another folder under the same path, which is why both are compared as this process sees them.
    """
    mark = f"{RUN_VARIABLE}={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                if (
                    process.stat().st_uid == os.getuid()  # root could read, and kill, everyone's
                    and any(value == mark or value.startswith(mark + b"/") for value in variables)
                    and os.readlink(process / "ns/pid") == os.readlink("/proc/self/ns/pid")
                    and os.path.samefile(f"{process}/root{folder}", folder)  # noqa: PTH121  of another root
                ):
                    found.append(int(process.name))
    return found


def end_processes(folder: Path) -> Set[int]:
    """Kill every process that a run in `folder` or below it started, until none is left; their ids."""
    killed: Set[int] = set()
    deadline = time.monotonic() + DESERTED_SECONDS
    while time.monotonic() < deadline:
        found = run_processes(folder)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)
    return killed
