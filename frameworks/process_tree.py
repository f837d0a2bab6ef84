"""All processes below this one: found, signalled, counted and killed. Linux alone.

`guarded` is the supervisor's other half: it ends the tree when the supervisor is killed or stands still.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, NoReturn, Set

from frameworks.rank_memory import remove_left_groups

EXIT_KILLED, EXIT_NO_OUTCOME, EXIT_STOOD_STILL = 4, 5, 6
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What survives SIGKILL this long is stuck in the kernel (a dead disk, a dead driver); it is reported.
KILL_LIMIT_SECONDS = 10.0
_REAP_INTERVAL_SECONDS = 0.02
# A guard that was itself suspended finds the beats of meanwhile in the pipe.
_SECOND_LOOK_SECONDS = 1.0

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make every orphan below this process its child, even if it forked twice or called setsid."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel to send signal `number` when the parent process `parent` ends."""
    _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def tree() -> List[int]:
    """This process, then every process below it that has not been reaped; parents come first."""
    children: Dict[int, List[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


def descendants() -> Set[int]:
    """Every process below this one that has not been reaped."""
    return set(tree()[1:])


def signal_all(number: int) -> bool:
    """Send a signal to every descendant; whether there were any."""
    found = descendants()
    for pid in found:
        with contextlib.suppress(OSError):  # gone, or another user's; the next call finds out
            os.kill(pid, number)
    return bool(found)


def cpu_seconds_of_children() -> float:
    """CPU time of every reaped process below this one, including its own children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kill_all(between: Callable[[], None]) -> Set[int]:
    """Kill every descendant, and what those start meanwhile, until none is left; `between` reaps them.

    Returns:
        The processes that are still there after KILL_LIMIT_SECONDS.
    """
    deadline = time.monotonic() + KILL_LIMIT_SECONDS
    while signal_all(signal.SIGKILL):
        if time.monotonic() > deadline:
            return descendants()
        between()
    return set()


def end_as(code: int) -> NoReturn:
    """End this process as a child of it has ended: with the exit code, or, where negative, by that signal."""
    sys.stdout.flush()
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core would be ours
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    sys.exit(128 - code)


def guarded(work: Callable[[Callable[[], None]], int], silence_seconds: float) -> int:
    """Run `work` in a child and return its exit code; its tree ends even if that child itself is killed.

    `work` calls its argument to show that it goes on. If it has not for `silence_seconds`, because it was
    stopped or its disk does not answer, the tree is killed. If this process is killed instead, the child ends
    its tree and itself.
    """
    become_subreaper()
    guard = os.getpid()
    beats, beating = os.pipe()
    os.set_blocking(beating, False)
    worker = os.fork()
    if worker == 0:
        code = EXIT_NO_OUTCOME
        try:
            os.close(beats)
            become_subreaper()
            die_with_parent(signal.SIGTERM, guard)
            code = work(lambda: _beat(beating))
        except BaseException as error:  # noqa: BLE001  the child must not return into main
            what = f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.filename:
                what = f"{error.filename}: {error.strerror}"
            print(f"supervisor.py: {what}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(beating)
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda received, _: os.kill(worker, received))
    code = EXIT_STOOD_STILL
    if _beats_to_its_end(beats, silence_seconds):
        _, status = os.waitpid(worker, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else EXIT_KILLED
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    kill_all(_reap_orphans)
    remove_left_groups(mine=True)
    if code == EXIT_STOOD_STILL:
        with contextlib.suppress(OSError):  # nobody may be left to read it
            print(f"supervisor.py: stood still for {silence_seconds:g} s", file=sys.stderr, flush=True)
    return code


def _beat(beating: int) -> None:
    with contextlib.suppress(OSError):  # the pipe is full, or the guard is gone
        os.write(beating, b".")


def _beats_to_its_end(beats: int, silence_seconds: float) -> bool:
    """Wait until the other end of the pipe is closed; False if it was silent for too long."""
    poll = select.poll()
    poll.register(beats, select.POLLIN)
    while poll.poll(silence_seconds * 1000) or poll.poll(_SECOND_LOOK_SECONDS * 1000):
        if not os.read(beats, 4096):
            return True
    return False


def _reap_orphans() -> None:
    """Reap whatever has ended, a moment after it was killed."""
    time.sleep(_REAP_INTERVAL_SECONDS)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
