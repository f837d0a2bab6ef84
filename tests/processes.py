"""Real processes in tests: wait for a condition with a limit, find what a run has left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

# A variable that ranks inherit, so that everything below a dlperf that has it carries it too.
MARK = "NCCL_TEST_MARK"
# What the project promises: nothing is left five seconds after the harness was killed.
PROMISED_SECONDS = 5.0
_LIMIT_SECONDS = 120.0  # of what takes a second or two on a quiet machine
_POLL_SECONDS = 0.02


def until(condition: Callable[[], object], *, limit: float = _LIMIT_SECONDS, what: str = "") -> float:
    """Wait until `condition` holds; the seconds that took. AssertionError after `limit` seconds."""
    started = time.monotonic()
    while not condition():
        seconds = time.monotonic() - started
        assert seconds < limit, f"not within {limit:g} s: {what or condition}"
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - started


def until_line(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read standard error up to the line that holds `text`; the lines, that one the last."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError(f"{text!r} is not in {seen}")


def marked(mark: str) -> set[int]:
    """Every living process whose environment holds `mark`."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if wanted in variables and state not in (b"Z", b"X"):
            found.add(int(folder.name))
    return found
