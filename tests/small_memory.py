"""Control groups with little memory, in which the kernel kills for real. For tests only; they need root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_BYTES = 400 << 20
_ROOTS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),  # version 1
    (Path("/sys/fs/cgroup"), "memory.max"),  # version 2
)
_JOIN = 'echo $$ > "$0" && exec "$@"'


@contextmanager
def small_memory(limit: int = LIMIT_BYTES) -> Iterator[Path]:
    """The cgroup.procs file of a control group with `limit` bytes, swap included."""
    for root, name in _ROOTS:
        group = root / f"dlperf-test-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        for swap, value in (("memory.memsw.limit_in_bytes", str(limit)), ("memory.swap.max", "0")):
            if (group / swap).exists():
                (group / swap).write_text(value)
        yield group / "cgroup.procs"
        until(lambda group=group: not (group / "cgroup.procs").read_text().split())
        group.rmdir()
        return
    pytest.skip("a memory limit needs a control group that can be made here (root, cgroup v1 or v2)")


def run_in(group: Path, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the control group of a `small_memory`."""
    return subprocess.run(
        ["sh", "-c", _JOIN, str(group), *command],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def starve_another() -> None:
    """Have the kernel kill a program that is none of ours for lack of memory."""
    with small_memory(40 << 20) as group:
        greedy = "x = bytearray(200 << 20); print(len(x))"
        done = run_in(group, [sys.executable, "-c", greedy], env=dict(os.environ))
    assert -signal.SIGKILL == done.returncode, done.stdout + done.stderr
