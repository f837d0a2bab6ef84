"""Child processes of an installation, which die with their parent, and locks, which they hold until then."""

import fcntl
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dlperf.errors import EnvironmentUnavailable
from dlperf.redaction import redacted_text

_HEARTBEAT_SECONDS = 30.0

# prctl(PR_SET_PDEATHSIG = 1, SIGKILL) before exec. A small program of its own rather than preexec_fn, which
# is unsafe in a process that has threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

# The same for a command that starts processes: it leads a process group, which ends as a whole.
_DIE_WITH_PARENT_AS_GROUP = (
    "import ctypes, os, signal, subprocess, sys\n"
    "os.setsid()\n"
    "signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))\n"
    "ctypes.CDLL(None).prctl(1, 15)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "code = subprocess.Popen(sys.argv[2:], close_fds=False).wait()\n"
    "os._exit(code if code >= 0 else 128 - code)\n"
)

# These would make a child use another Python or other packages.
_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV", "CONDA_PREFIX")


def clean_environment(extra: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of this process with `extra`, without variables that mislead a Python.

    A variable of `extra` that is None is removed. Packages in the user's home are off, as in a run.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    changed = kept | {"PYTHONNOUSERSITE": "1"} | dict(extra)
    return {name: value for name, value in changed.items() if value is not None}


def _tied(program: str, argv: Sequence[str]) -> list[str]:
    """`argv` (an absolute program first) as a command that ends with this process."""
    return [sys.executable, "-I", "-S", "-c", program, str(os.getpid()), *argv]


def run_python(
    python: Path, source: str, *, timeout_seconds: float, hold: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run Python source in another interpreter, outside any project; the child keeps the locks `hold`.

    EnvironmentUnavailable where it runs past the limit.
    """
    try:
        return subprocess.run(
            _tied(_DIE_WITH_PARENT, [str(python), "-c", source]),
            cwd="/",
            env=clean_environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_seconds,
            pass_fds=tuple(hold),
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentUnavailable(f"{python} gave no answer within {timeout_seconds:g} s") from None


def follow(
    argv: Sequence[str],
    *,
    env: Mapping[str, str | None],
    hold: Sequence[int],
    on_line: Callable[[str], None],
    on_silence: Callable[[Sequence[str], float], None],
) -> tuple[int, list[str]]:
    """Run a command outside any project folder; returns its exit code and its output by lines.

    The command and all its children end with this process, or when this call is interrupted; until it is gone
    it keeps the locks `hold`. Paths in `argv` are absolute; `env` is the `extra` of `clean_environment`.
    `on_silence` is called, while no line arrives, with all lines so far and the seconds since the start.
    """
    process = subprocess.Popen(
        _tied(_DIE_WITH_PARENT_AS_GROUP, argv),
        cwd="/",  # the settings of a project around the working directory would change what is made
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=tuple(hold),
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        try:
            lines = _lines(process.stdout, on_line, on_silence)
            return process.wait(), lines
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it does not lead a group yet, and has no children
                process.kill()


def _lines(
    stream: IO[str], on_line: Callable[[str], None], on_silence: Callable[[Sequence[str], float], None]
) -> list[str]:
    arriving: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        try:
            for line in stream:
                arriving.put(redacted_text(line.strip()))
        finally:
            arriving.put(None)

    threading.Thread(target=pump, daemon=True).start()
    lines: list[str] = []
    started = time.monotonic()
    while True:
        try:
            line = arriving.get(timeout=_HEARTBEAT_SECONDS)
        except queue.Empty:
            on_silence(lines, time.monotonic() - started)
            continue
        if line is None:
            return lines
        lines.append(line)
        on_line(line)


@contextmanager
def shared(path: Path) -> Iterator[int]:
    """Lock `path` together with other users of an environment; yields the file descriptor."""
    with _open_lock(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor


@contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None] | None) -> Iterator[int]:
    """Lock `path` alone, to create or remove an environment; yields the file descriptor.

    `on_wait` is called once before waiting for another process; with None, BlockingIOError is raised instead.
    """
    with _open_lock(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                raise
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is never removed: a lock on a removed file does not exclude one on its successor.
    with path.open("a") as stream:
        yield stream.fileno()
