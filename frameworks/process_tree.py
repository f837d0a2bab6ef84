"""All processes below this one: found, signalled, counted and killed. For the supervisor, on Linux."""

import contextlib
import ctypes
import os
import resource
import signal
import time
from pathlib import Path
from typing import Callable, Dict, List, Set

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What survives SIGKILL for so long waits in the kernel (a dead disk, a dead driver); it is reported.
KILL_LIMIT_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make every orphan below this process its own child, however often it forked or called setsid."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel for signal `number` when the process `parent`, which has started this one, ends."""
    _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def descendants() -> Set[int]:
    """Every process below this one that has not been waited for."""
    children: Dict[int, List[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, todo = set(), [os.getpid()]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


def signal_all(number: int) -> bool:
    """Send a signal to every descendant; whether there was one."""
    found = descendants()
    for pid in found:
        with contextlib.suppress(OSError):  # gone, or another user's: the next walk shows which
            os.kill(pid, number)
    return bool(found)


def cpu_seconds_of_children() -> float:
    """What every process that was started here and has been waited for used, its own children included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kill_all(between: Callable[[], None]) -> Set[int]:
    """Kill every descendant, and what those started meanwhile, until none is left; `between` waits for them.

    Gives those that are still there after KILL_LIMIT_SECONDS.
    """
    deadline = time.monotonic() + KILL_LIMIT_SECONDS
    while signal_all(signal.SIGKILL):
        if time.monotonic() > deadline:
            return descendants()
        between()
    return set()
