"""A run folder that is emptied and waited for."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from dlperf.errors import InfrastructureError, UserError
from dlperf.layout import run_folder
from dlperf.running.run_folder import AnotherDlperf, empty_folder, wait_until_deserted, whole_machine


def test_the_folder_of_a_run_has_its_case_and_its_repeat() -> None:
    folder = run_folder(Path("results/tiny"), case_id="mxnet-1.9.1-abc", repeat=2)
    assert folder == Path("results/tiny/runs/mxnet-1.9.1-abc/r2")


def test_what_was_in_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "rank7.log").write_text("old")
    empty_folder(folder)
    assert list(folder.iterdir()) == []


def test_a_result_that_cannot_be_read_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    for number in (1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "result.json").write_text(f"old {number}")
        empty_folder(folder)
        assert list(folder.iterdir()) == []
        assert (tmp_path / f"r1.unreadable-{number}" / "result.json").read_text() == f"old {number}"


def test_a_result_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema_version": 2}')
    with pytest.raises(
        UserError, match=r"result\.json: schema version 2; this dlperf reads up to 1: use a newer"
    ):
        empty_folder(tmp_path)
    assert (tmp_path / "result.json").exists()


def test_a_folder_in_which_a_supervisor_works_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "launch.json").write_text("{}")
    held = os.open(tmp_path / "launch.json", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(InfrastructureError, match=r"still running after 0\.2 s"):
            wait_until_deserted(tmp_path, limit_seconds=0.2)
    finally:
        os.close(held)
    wait_until_deserted(tmp_path, limit_seconds=0)


def test_a_lock_of_the_machine_that_was_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPERF_HOST_LOCK", str(tmp_path / "lock"))
    said: list[str] = []
    with whole_machine(wait=False, say=said.append):
        pass
    assert [] == said
    with whole_machine(wait=False, say=said.append):
        with pytest.raises(AnotherDlperf, match=rf"\(process {os.getpid()} of "):
            whole_machine(wait=False, say=said.append).__enter__()
        (keeper,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        os.kill(int(keeper), signal.SIGKILL)
        os.waitid(os.P_PID, int(keeper), os.WEXITED | os.WNOWAIT)
    assert ["the process that held the lock of this machine was killed: another dlperf may have run"] == said
