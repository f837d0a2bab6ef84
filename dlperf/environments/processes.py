"""Child processes of the installation: they die with their parent and hold its lock until they are gone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# prctl(PR_SET_PDEATHSIG = 1, SIGKILL) before exec. A small program of its own rather than preexec_fn, which
# is unsafe in a process that has threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

# They would lead a child to another Python or to other packages than the ones it was given.
_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV", "CONDA_PREFIX")


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The process's environment without what would lead a Python astray, and with `extra`.

    Packages of the user's home stay out, as they do in a run.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    return kept | {"PYTHONNOUSERSITE": "1"} | dict(extra)


def tied(argv: Sequence[str]) -> list[str]:
    """`argv` (an absolute program first) as a command that is killed when this process ends."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *argv]


def run_python(
    python: Path, source: str, *, timeout_seconds: float, hold: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run Python source in another interpreter, away from any project, and give its output.

    Args:
        python: the interpreter.
        source: the program.
        timeout_seconds: the limit.
        hold: file descriptors of locks that the child keeps.

    Raises:
        EnvironmentUnavailable: it cannot be started, or it ran past the limit.
    """
    try:
        return subprocess.run(
            tied([str(python), "-c", source]),
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
