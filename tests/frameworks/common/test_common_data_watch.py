"""The process that watches a program that reads a data set, with small programs in place of engines."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from face_sets import cut, made, overwrite
from processes import until

from dlperf.files import shipped_root
from frameworks.common.dataset import EXIT_DATA
from frameworks.common.events import PREFIX

# Prints its process id, then does what the test wants.
PROGRAM = """
import os, signal, sys, time
sys.stdout.write(f"program {os.getpid()}\\n")
sys.stdout.flush()
exec(os.environ["BODY"])
"""
WAIT = "time.sleep(600)"


class Watched:
    """A watch and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def events(self) -> dict[str, Any]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith(PREFIX)]
        return {
            event["key"]: event["value"] for event in map(json.loads, (line[len(PREFIX) :] for line in lines))
        }

    def program(self) -> int:
        """The program's process id, once it runs."""
        until(lambda: "program " in self.log.read_text())
        return int(self.log.read_text().partition("program ")[2].split()[0])

    def ended(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def watch(tmp_path: Path, case_content: dict) -> Iterator[Callable[..., Watched]]:
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "program.py").write_text(PROGRAM)

    def start(body: str, form: str = "recordio", **data: Any) -> Watched:
        content = copy.deepcopy(case_content)
        held = made(tmp_path / "faces", **data) if not (tmp_path / "faces").exists() else None
        if held is not None:
            (tmp_path / "data.json").write_text(held.model_dump_json())
        content["data"] = json.loads((tmp_path / "data.json").read_text())
        content["measure"] = {"warmup_iterations": 2, "measured_iterations": 5}  # takes 40 of the images
        (tmp_path / "case.json").write_text(json.dumps(content))
        log = tmp_path / "log"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{shipped_root()}:{tmp_path / 'code'}",
            "BODY": body,
        }
        argv = [sys.executable, "-m", "frameworks.common.data_watch", "program", str(tmp_path / "case.json")]
        with log.open("wb") as stream:
            process = subprocess.Popen([*argv, form], env=environment, stdout=stream, stderr=stream)
        started.append(process)
        return Watched(process, log)

    yield start
    for process in started:
        process.kill()
        process.wait()


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize("form", ["recordio", "ofrecord"])
@pytest.mark.parametrize("read", ["warm", "cold", "memory"])
def test_it_says_what_is_read_and_ends_as_the_program(
    watch: Callable[..., Watched], form: str, read: str
) -> None:
    watched = watch("sys.exit(3)", form, read=read)

    assert 3 == watched.ended()

    value = watched.events()["data_set"]
    assert (form, read, 50) == (value["form"], value["read"], value["images"])
    assert value["bytes"] > 50 * 4000
    if read == "warm":
        assert 1 == value["resident_share"]
    if read == "cold" and value["file_system"] not in ("tmpfs", "overlay"):
        assert value["resident_share"] < 0.1


@pytest.mark.parametrize("form", ["recordio", "ofrecord"])
def test_a_file_that_is_cut_while_the_program_runs_ends_it(watch: Callable[..., Watched], form: str) -> None:
    """The program stands still, as an engine does whose reader stopped."""
    watched = watch(WAIT, form)
    program = watched.program()

    path, offset = cut(watched.log.parent / "faces", form, 5)

    assert EXIT_DATA == watched.ended()
    assert gone(program)
    error = watched.events()["data_error"]
    assert (str(path), 5, offset) == (error["file"], error["record"], error["offset"])
    assert "within the record" in error["what"]


def test_a_file_that_is_removed_while_the_program_runs_ends_it(watch: Callable[..., Watched]) -> None:
    watched = watch(WAIT)
    watched.program()
    path = watched.log.parent / "faces" / "train.rec"
    path.unlink()

    assert EXIT_DATA == watched.ended()
    assert {"file": str(path), "record": None, "offset": None, "what": "No such file or directory"} == (
        watched.events()["data_error"]
    )


def test_damage_is_told_before_the_program_starts(watch: Callable[..., Watched], tmp_path: Path) -> None:
    watch("").ended()
    cut(tmp_path / "faces", "recordio", 5)

    watched = watch(WAIT)

    assert EXIT_DATA == watched.ended()
    assert 5 == watched.events()["data_error"]["record"]
    assert "program" not in watched.log.read_text()


def test_an_engine_that_aborts_at_a_corrupt_jpeg_is_explained(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    watch("").ended()
    overwrite(tmp_path / "faces", "recordio", 5, 32, bytes(200))

    watched = watch("os.abort()")

    assert EXIT_DATA == watched.ended()
    error = watched.events()["data_error"]
    assert 5 == error["record"]
    assert "corrupt JPEG" in error["what"]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
def test_a_program_that_dies_of_something_else_is_not_explained_by_data(
    watch: Callable[..., Watched], number: signal.Signals
) -> None:
    watched = watch(f"os.kill(os.getpid(), {int(number)})")
    assert -number == watched.ended()
    assert "data_error" not in watched.events()


def test_a_request_to_end_is_the_program_s_to_follow(watch: Callable[..., Watched]) -> None:
    watched = watch("signal.signal(15, lambda *_: sys.exit(7)); print('ready', flush=True); " + WAIT)
    program = watched.program()
    until(lambda: "ready" in watched.log.read_text())

    watched.process.terminate()
    os.kill(program, signal.SIGTERM)

    assert 7 == watched.ended()


def test_the_program_dies_with_its_watch(watch: Callable[..., Watched]) -> None:
    watched = watch(WAIT)
    program = watched.program()
    watched.process.kill()
    watched.process.wait()
    until(lambda: gone(program))
