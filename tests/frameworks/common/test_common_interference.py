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
from nvidia_smi import FakeGpu, write_nvidia_smi

from frameworks.common.interference import THROTTLE_REASONS, Window, gpu_interference, read_counters

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


@pytest.mark.parametrize(
    ("users", "throttled", "expected"),
    [
        ((812,), "Not Active", {"processes": 0, "throttled_by": []}),
        ((812, 977), "Active", {"processes": 1, "throttled_by": list(THROTTLE_REASONS)}),
        ((), "Not Active", {"processes": 0, "throttled_by": []}),
    ],
)
def test_gpu_interference_is_that_of_the_rank_s_own_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    users: tuple[int, ...],
    throttled: str,
    expected: dict[str, object],
) -> None:
    busy = FakeGpu(name="busy", uuid="GPU-0", throttled="Active")
    own = FakeGpu(name="own", uuid="GPU-3", throttled=throttled)
    apps = (("GPU-0", 1, "other"), ("GPU-0", 2, "other"), *(("GPU-3", pid, "python") for pid in users))
    write_nvidia_smi(tmp_path, busy, busy, busy, own, apps=apps)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert expected == gpu_interference(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3")
    assert expected == gpu_interference(0)
    assert gpu_interference(1) is None  # there is no second device


def test_of_an_instance_of_a_gpu_nvidia_smi_knows_no_interference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nvidia_smi(tmp_path, FakeGpu(name="A100", uuid="GPU-0", instances=(("1g.5gb", "MIG-1", 4864),)))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_interference(0) is None


def test_without_nvidia_smi_nothing_is_known_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_interference(0) is None


def test_a_driver_that_knows_the_reasons_by_their_new_name_alone_is_asked_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(name="NVIDIA H200", throttled="Active")
    old_names = tuple(f"clocks_throttle_reasons.{name}" for name in THROTTLE_REASONS)
    write_nvidia_smi(tmp_path, gpu, unknown=old_names)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert {"processes": 0, "throttled_by": list(THROTTLE_REASONS)} == gpu_interference(0)


def test_a_warning_of_nvidia_smi_is_not_counted_as_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nvidia_smi(
        tmp_path, FakeGpu(name="V100", uuid="GPU-0"), apps=(("GPU-0", 7, "python"),), corrupted=True
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert {"processes": 0, "throttled_by": []} == gpu_interference(0)
