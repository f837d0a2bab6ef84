"""A disk that fills up under a sweep."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sweep_lab import SweepLab


@pytest.fixture
def small_disk(lab: SweepLab) -> Iterator[Path]:
    """A file system of 1 MiB where results go."""
    folder = lab.folder / "small"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a full disk needs root, to mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "dlperf-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, which cannot be mounted here: {done.stderr.strip()}")
    yield folder
    until(lambda: not lab.left())
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_sweep_and_keeps_what_is_done(lab: SweepLab, small_disk: Path) -> None:
    flood = {"fault": "flood", "fault_step": 2}
    lab.write(order="sequential", include=[{"batch_size_per_device": 3, "options": {"numpy": flood}}])
    done = lab.run("--results", str(small_disk / "tiny"))
    assert done.returncode == 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dlperf: ")]
    assert "No space left on device; completed runs are kept" in line
    assert lab.left() == set()
    results = list(small_disk.rglob("result.json"))
    assert len(results) == 1
    assert '"status": "ok"' in results[0].read_text()
    assert "[Errno 28] No space left on device: 'logs/rank0.log'" in "".join(
        path.read_text() for path in small_disk.rglob("outcome.json")
    )
