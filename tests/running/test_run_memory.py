"""A rank that takes all memory, in a control group that has little: the kernel kills for real."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sweep_lab import SweepLab

LIMIT_BYTES = 400 << 20
_ROOTS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),  # version 1
    (Path("/sys/fs/cgroup"), "memory.max"),  # version 2
)


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """The cgroup.procs file of a control group with 400 MiB."""
    for root, limit in _ROOTS:
        group = root / f"dlperf-test-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
            (group / limit).write_text(str(LIMIT_BYTES))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        until(lambda group=group: not (group / "cgroup.procs").read_text().split())
        group.rmdir()
        return
    pytest.skip("a memory limit needs a control group that can be made here (root, cgroup v1 or v2)")


def test_a_rank_that_the_kernel_kills_for_memory_is_out_of_memory(lab: SweepLab, small_memory: Path) -> None:
    """The rank is taken, and neither dlperf nor the supervisor, who are in the same group."""
    lab.write(options={"fault": "memory", "fault_step": 2})
    join = f'echo $$ > "{small_memory}" && exec "$@"'
    environment = os.environ | lab.environment()
    done = subprocess.run(
        ["sh", "-c", join, "sh", sys.executable, "-m", "dlperf", "run", "tiny.yaml"],
        cwd=lab.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    (result,) = lab.stored()
    assert result.status == "oom"
    assert result.reason == ("rank 0 was ended by SIGKILL: the kernel ended it for lack of memory")
    assert lab.outcome()["oom_kills"] == 1
