"""A disk that fills up under a sweep."""

from __future__ import annotations

import os
import re
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


@pytest.mark.parametrize("free_bytes", [0, 4096, 8192, 16384])
def test_a_disk_that_is_full_at_the_start_is_named_and_left_as_it_was(
    lab: SweepLab, small_disk: Path, free_bytes: int
) -> None:
    lab.write()
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - free_bytes))
    done = lab.run("--results", str(small_disk / "tiny"))
    assert done.returncode == 5
    error = done.stderr.splitlines()[-1]
    assert re.match(rf"dlperf: (.*: )?{small_disk}/tiny\S*: No space left on device", error)
    unfinished = [path for path in small_disk.rglob(".*") if path.name != ".dlperf.lock"]
    assert unfinished == []


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
