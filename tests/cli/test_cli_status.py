"""`dlperf status`: how far a sweep is, seen from another process, from files alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from processes import until
from sweep_lab import SweepLab

from dlperf.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SECONDS = 120


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SweepLab]:
    lab = SweepLab(tmp_path)
    with lab.stack:
        yield lab


def status(folder: Path | str, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["status", str(folder), *options])
    return result.exit_code, result.stdout


def test_a_finished_sweep_is_done() -> None:
    code, text = status(ROOT / "evidence/quickstart")
    assert (0, 1) == (code, len(text.splitlines()))
    assert text.endswith(": 20 of 20 runs done (20 ok)\n")


def test_a_folder_without_a_plan_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert 2 == result.exit_code
    assert f"{tmp_path}: no sweep with a plan" in result.stderr


def test_a_lock_of_another_file_system_with_the_same_number_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of locks of our own: two file systems cannot be made to number their files alike."""
    folder = tmp_path / "quickstart"
    shutil.copytree(ROOT / "evidence/quickstart", folder)
    lock = folder / ".dlperf.lock"
    lock.touch()
    file = lock.stat()
    ours = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    table = tmp_path / "locks"
    table.write_text(
        f"1: FLOCK ADVISORY WRITE 11 ff:ff:{file.st_ino} 0 EOF\n2: FLOCK ADVISORY WRITE 12 {ours} 0 EOF\n"
    )
    monkeypatch.setattr("dlperf.cli.status._LOCKS", table)
    assert 12 == json.loads(status(folder, "--json")[1])[0]["process"]


@pytest.mark.slow
def test_a_running_sweep_shows_its_steps_and_its_process(lab: SweepLab) -> None:
    """The second run hangs at step 2; the state is read by another process meanwhile, and after its end."""
    lab.write(
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2},
        include=[{"batch_size_per_device": 3, "options": {"numpy": {"fault": "hang", "fault_step": 2}}}],
    )
    process = lab.start()

    def state() -> dict[str, Any]:
        (found,) = json.loads(status(lab.results, "--json")[1])
        content: dict[str, Any] = found
        return content

    def hangs() -> bool:
        """The program is at step 2, and the loop prints one step behind."""
        if not (lab.results / "plan.lock.json").exists():
            return False
        return [("b3", 1)] == [(run["case_id"].split("_")[4], run["steps"]) for run in state()["running"]]

    until(hangs, limit=SECONDS)
    content = state()
    (run,) = content["running"]
    assert process.pid == content["process"]
    assert (4, 4) == (content["planned"], run["planned_steps"])
    assert 3 - sum(content["done"].values()) == content["waiting"]
    assert run["samples_per_sec"] > 0
    assert run["last_lines"]
    code, text = status(lab.results)
    assert 3 == code
    assert f"1 running, {content['waiting']} waiting" in text
    assert "step 1 of 4" in text
    process.terminate()
    process.communicate(timeout=SECONDS)
    assert state()["process"] is None
