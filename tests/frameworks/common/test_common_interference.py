"""The counters at the edges of a window: of real threads beside real busy processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from frameworks.common.interference import Window, read_counters

BUSY = "print(flush=True)\nwhile True: pass"


@contextmanager
def on_one_cpu(beside: int) -> Iterator[None]:
    """This thread alone on a CPU with so many processes that never sleep."""
    usable = os.sched_getaffinity(0)
    with ExitStack() as stack:
        os.sched_setaffinity(0, {max(usable)})
        stack.callback(os.sched_setaffinity, 0, usable)
        for _ in range(beside):
            process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()  # it runs
        yield


def spin(seconds: float) -> None:
    """Use this much CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_thread_beside_busy_processes_waits_and_others_work() -> None:
    with on_one_cpu(beside=3):
        window = Window()
        spin(0.3)
        counters = window.close()
    assert counters is not None
    assert counters["run_seconds"] == pytest.approx(0.3, abs=0.1)
    assert counters["wait_seconds"] > counters["run_seconds"]
    assert counters["busy_seconds"] > 2 * counters["run_seconds"]
    assert len(counters["cpus"]) == 1


def test_a_thread_that_started_within_the_window_counts_from_its_start() -> None:
    window = Window()
    spun, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (spin(0.2), spun.set(), stop.wait()))
    thread.start()
    spun.wait()
    counters = window.close()
    stop.set()
    thread.join()
    assert counters is not None
    assert counters["run_seconds"] > 0.1


def test_a_kernel_without_the_counters_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock, as every kernel that tests run on has /proc/self/schedstat; gVisor has not."""

    def missing(path: Path, *_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(Path, "exists", lambda _path: False)
    assert read_counters([0]) is None
    assert Window().close() is None
