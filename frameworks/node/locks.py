"""Who works on a node: supervisors in their folders, processes left over."""

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import List, Set

from frameworks.node import Refused

# An ended run is gone within seconds; we do not wait for one whose process is stuck in the kernel.
DESERTED_SECONDS = 30.0
# In the environment of every rank, and so of everything that it starts.
RUN_VARIABLE = "DLPERF_RUN"


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
    pause = 0.001  # one that has said its outcome ends within milliseconds
    while not is_deserted(folder):
        if time.monotonic() > deadline:
            raise Refused(f"{folder}: a supervisor is still at work after {DESERTED_SECONDS:g} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


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
