"""A supervisor or a disk that stands still: the sweep goes on or ends, within stated bounds."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from disks import HungDisk, hanging_disk
from processes import until, until_line
from sweep_lab import launch_default

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sweep_lab import SweepLab

LONG = {"warmup_iterations": 1, "measured_iterations": 600, "repeats": 1}


@pytest.fixture
def hung_disk(lab: SweepLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HungDisk]:
    """A disk for results, which can be made to answer no more."""
    folder = lab.folder / "disk"
    folder.mkdir()
    with hanging_disk(folder, image=tmp_path_factory.mktemp("disk") / "image") as disk:
        yield disk
        disk.answer()
        until(lambda: not lab.left())


def supervisors(lab: SweepLab) -> list[int]:
    """Guard and worker of the run in progress."""
    found = []
    for pid in lab.left():
        with suppress(OSError):  # it has ended meanwhile
            if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.slow
def test_a_supervisor_that_stands_still_as_a_whole_is_killed_after_the_limit(lab: SweepLab) -> None:
    lab.patch("import dlperf.running.run as run\nrun.OVERTIME_SECONDS = 2.0\n")
    lab.write(options={"step_seconds": 0.1}, measure=LONG, limits={"time": 8, "stall": 100})
    process = lab.start()
    until(lambda: len(supervisors(lab)) > 1)  # before the limit, however slowly the rank starts
    for pid in supervisors(lab):
        os.kill(pid, signal.SIGSTOP)
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    (result,) = lab.stored()
    assert result.status == "timeout"
    assert "its supervisor stood still and was killed 2 s after the limit" in (result.reason or "")
    assert lab.left() == set()


@pytest.mark.slow
def test_a_supervisor_that_its_guard_has_killed_is_told_and_the_sweep_goes_on(lab: SweepLab) -> None:
    lab.patch(launch_default("silence_seconds", 3.0))
    lab.write(
        options={"step_seconds": 0.1},
        measure={"warmup_iterations": 1, "measured_iterations": 30, "repeats": 2},
    )
    process = lab.start()
    until(lambda: lab.logged('"step": 1,'))
    worker = max(supervisors(lab))
    os.kill(worker, signal.SIGSTOP)
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    first, second = lab.stored()
    assert ("incomplete", "ok") == (first.status, second.status)
    assert "its supervisor stood still for 60 s: suspended, or a disk hangs" in (first.reason or "")


@pytest.mark.slow
def test_the_third_ctrl_c_says_how_to_end_a_supervisor_that_stands_still(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 0.1}, measure=LONG)
    process = lab.start()
    until(lambda: lab.logged('"step": 1,'))
    for pid in supervisors(lab):
        os.kill(pid, signal.SIGSTOP)
    for words in ("repeat to kill them", "repeat to exit"):
        process.send_signal(signal.SIGINT)
        until_line(process, words)
    process.send_signal(signal.SIGINT)
    line = until_line(process, "end them with: ")[-1]
    assert process.wait() == 130
    command = line.partition("end them with: ")[2].split()
    assert command[:2] == ["kill", "-9"]
    for pid in map(int, command[2:]):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.left())


@pytest.mark.slow
def test_a_results_disk_that_hangs_during_a_run_ends_the_sweep(lab: SweepLab, hung_disk: HungDisk) -> None:
    lab.patch(
        "import dlperf.running.supervision as supervision\n"
        "supervision._LAST_SECONDS = supervision._JOIN_SECONDS = 1.0\n"
        + launch_default("silence_seconds", 2.0)
    )
    lab.write(options={"step_seconds": 0.1}, measure=LONG)
    process = lab.start("--results", str(hung_disk.folder / "tiny"))
    logs = hung_disk.folder.glob
    until(lambda: any('"step": 1,' in log.read_text() for log in logs("tiny/runs/*/r1/logs/rank0.log")))
    hung_disk.hang()
    _, errors = process.communicate()
    assert process.returncode == 5, errors
    assert f"{hung_disk.folder}/tiny/runs/" in errors
    assert "SIGKILL does not end its supervisor, because a disk or a driver does not answer" in errors


@pytest.mark.slow
def test_a_write_that_does_not_return_ends_dlperf_with_the_file_named(lab: SweepLab) -> None:
    lab.patch(
        "import os, sys, time, dlperf.files as files\n"
        "files.DISK_SECONDS = 4.0\n"
        "replace = os.replace\n"
        "def hang(source, target):\n"
        "    if str(target).endswith('result.json'): time.sleep(600)\n"
        "    replace(source, target)\n"
        "os.replace = hang\n",
    )
    lab.write()
    done = lab.run()
    assert done.returncode == 5
    (folder,) = lab.run_folders()
    assert (
        f"dlperf: {folder.relative_to(lab.folder)}/result.json: the disk has not answered for 4 s"
        in done.stderr
    )
