"""A run under a supervisor, seen from the harness: events, lease, an end from outside."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from processes import PROMISED_SECONDS, until

from dlperf.errors import InfrastructureError
from dlperf.running.launch import LaunchFile, RankProcess
from dlperf.running.supervision import SupervisedRun
from dlperf.running.transports.local import start_local_supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.running.transports.local import LocalConnection


def launch(folder: Path, program: str, **limits: Any) -> None:
    rank = RankProcess(rank=0, argv=(sys.executable, "-c", program), env={}, cpus=(), log="logs/rank0.log")
    settings = {"time_limit_seconds": 60.0, "stall_limit_seconds": None, **limits}
    content = LaunchFile(case_id="case", node_rank=0, ranks=(rank,), **settings)
    (folder / "launch.json").write_text(content.model_dump_json())


def start(folder: Path) -> LocalConnection:
    return start_local_supervisor(folder, launch="launch.json")


def said(run: SupervisedRun) -> Iterator[dict[str, Any]]:
    """The events of its only supervisor."""
    for heard in run.events():
        if heard is not None and heard[1] is not None:
            assert heard[0] == 0
            yield heard[1]


def outcome(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return content


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_its_events_come_in_order_and_end(tmp_path: Path) -> None:
    launch(tmp_path, "print('hello')")
    connection = start(tmp_path)
    with SupervisedRun([connection], lease_seconds=10) as run:
        events = list(said(run))
        assert connection.exit_code() == 0
        assert connection.complaint() == ""
    assert [event["event"] for event in events] == ["started", "output", "rank_exit", "finished"]
    assert events[1]["text"] == "hello"
    assert events[-1]["outcome"] == outcome(tmp_path)


def test_the_lease_is_renewed_for_as_long_as_it_takes(tmp_path: Path) -> None:
    launch(tmp_path, "import time; time.sleep(5)", lease_seconds=3)
    with SupervisedRun([start(tmp_path)], lease_seconds=3) as run:
        events = list(run.events())
    assert None in events  # a tick while nothing happens
    assert outcome(tmp_path)["reason"] == "completed"


@pytest.mark.parametrize(("how", "signal"), [("stop", 15), ("kill", 9)])
def test_it_can_be_stopped_and_killed(tmp_path: Path, how: str, signal: int) -> None:
    launch(tmp_path, "import time; print('working', flush=True); time.sleep(600)")
    with SupervisedRun([start(tmp_path)], lease_seconds=10) as run:
        for event in said(run):
            if event["event"] == "output":
                getattr(run, how)()
    assert outcome(tmp_path)["reason"] == "stopped"
    assert outcome(tmp_path)["ranks"][0]["signal"] == signal
    getattr(run, how)()  # one that has ended takes no harm


def test_who_leaves_a_run_ends_it(tmp_path: Path) -> None:
    """An exception in the harness, for one."""
    launch(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with SupervisedRun([start(tmp_path)], lease_seconds=10) as run:
        texts = (event["text"] for event in said(run) if event["event"] == "output")
        pid = int(next(texts))
    until(lambda: not alive(pid), limit=PROMISED_SECONDS)
    assert outcome(tmp_path)["reason"] == "lease_lost"


@pytest.mark.slow
def test_a_run_that_floods_is_left_without_a_hang(tmp_path: Path) -> None:
    """More events than the harness keeps, and nobody takes them any more."""
    launch(tmp_path, "while True: print('flood')")
    with SupervisedRun([start(tmp_path)], lease_seconds=10) as run:
        assert next(said(run)) is not None
        until(lambda: (tmp_path / "logs" / "rank0.log").stat().st_size > 1 << 20)
    assert outcome(tmp_path)["reason"] == "lease_lost"


def test_what_the_supervisor_complains_of_is_told(tmp_path: Path) -> None:
    (tmp_path / "launch.json").write_text("no launch file")
    connection = start(tmp_path)
    with SupervisedRun([connection], lease_seconds=10) as run:
        assert [] == list(said(run))
        assert connection.exit_code() == 2
        complaint = connection.complaint()
    assert complaint.startswith("supervisor.py: launch.json: JSONDecodeError")


def test_a_folder_that_is_not_there_is_an_infrastructure_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="the supervisor cannot be started"):
        start(tmp_path / "missing")
