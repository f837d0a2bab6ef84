"""Peaks of memory: of real processes on this machine, and of a device by a stand-in for nvidia-smi."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.files import shipped_root
from frameworks.common import program
from frameworks.common.events import PREFIX
from frameworks.common.loop import FinishedStep
from frameworks.common.peak_memory import AnonymousPeak, device_bytes

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
# Arguments: MiB of anonymous memory that it uses, that it uses and gives back before the reading, and of a
# file that it maps and reads.
PROCESS = """
import json, mmap, sys, tempfile
from frameworks.common.peak_memory import AnonymousPeak
used, freed, mapped = (int(word) << 20 for word in sys.argv[1:])

def touched(memory):
    for start in range(0, len(memory), 4096):
        memory[start]
    return memory

peak = AnonymousPeak()
start = peak.read()
kept = bytearray(used)
for begin in range(0, used, 4096):
    kept[begin] = 1
with tempfile.TemporaryFile() as file:
    file.truncate(max(mapped, 1))
    file.write(bytes(mapped))
    file.flush()
    pages = touched(mmap.mmap(file.fileno(), max(mapped, 1), access=mmap.ACCESS_READ))
if freed:
    short = mmap.mmap(-1, freed, flags=mmap.MAP_PRIVATE)
    for begin in range(0, freed, 4096):
        short[begin] = 1
    short.close()
with open("/proc/self/status") as status:
    resident = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))
print(json.dumps({"peak": peak.read() - start, "resident": resident}))
"""


def measured(*, used: int, freed: int = 0, mapped: int = 0) -> dict[str, int]:
    """What a new process measures of itself, in bytes; the peak is that beyond its start."""
    command = [sys.executable, "-c", PROCESS, str(used), str(freed), str(mapped)]
    environment = {**os.environ, "PYTHONPATH": str(shipped_root())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_pages_of_files_are_not_in_the_peak() -> None:
    """The resident set has them: two environments with one library differed by 5 % in it."""
    few, many = measured(used=64, mapped=1), measured(used=64, mapped=256)
    assert 64 * MIB == pytest.approx(few["peak"], abs=8 * MIB)
    assert few["peak"] == pytest.approx(many["peak"], abs=8 * MIB)
    assert many["resident"] - few["resident"] > 64 * MIB


def test_memory_that_was_given_back_before_the_reading_is_in_the_peak() -> None:
    """As activations are at the end of a step."""
    assert 160 * MIB == pytest.approx(measured(used=64, freed=96)["peak"], abs=8 * MIB)


def status(path: Path, **kib: int) -> Path:
    path.write_text("Name:\tpython\n" + "".join(f"{name}:\t{size:8} kB\n" for name, size in kib.items()))
    return path


def test_a_peak_between_two_readings_is_what_was_not_files_in_it(tmp_path: Path) -> None:
    peak = AnonymousPeak(tmp_path / "status")
    status(tmp_path / "status", VmHWM=900, RssAnon=500, RssFile=100, RssShmem=50)
    assert (900 - 150) * 1024 == peak.read()
    # More files since, and the resident set was larger in between.
    status(tmp_path / "status", VmHWM=1200, RssAnon=600, RssFile=250, RssShmem=50)
    assert (1200 - 300) * 1024 == peak.read()


def test_files_that_the_kernel_dropped_do_not_count_as_anonymous_memory(tmp_path: Path) -> None:
    peak = AnonymousPeak(tmp_path / "status")
    status(tmp_path / "status", VmHWM=900, RssAnon=500, RssFile=400, RssShmem=0)
    assert 500 * 1024 == peak.read()
    status(tmp_path / "status", VmHWM=900, RssAnon=550, RssFile=10, RssShmem=0)
    assert 550 * 1024 == peak.read()


def test_a_kernel_that_does_not_count_anonymous_memory_gives_no_peak(tmp_path: Path) -> None:
    status(tmp_path / "status", VmSize=900, VmRSS=500)
    assert AnonymousPeak(tmp_path / "status").read() is None
    assert AnonymousPeak(tmp_path / "none").read() is None


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in for nvidia-smi reads its rows of processes, as tests have no GPU."""
    program, rows = tmp_path / "bin" / "nvidia-smi", tmp_path / "rows"
    program.parent.mkdir()
    query = "--query-compute-apps=pid,gpu_uuid,used_gpu_memory"
    program.write_text(f'#!/bin/sh\ncase "$*" in *{query}*) cat {rows};; *) exit 6;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return rows


@pytest.mark.parametrize(
    ("rows", "mebibytes"),
    [
        (["12, GPU-a, 7000", "977, GPU-a, 1500"], 1500),  # another process on the same device
        (["977, GPU-a, 300", "977, GPU-b, 1500"], 1500),  # the largest of its devices
        (["977, GPU-a, 1000", "977, GPU-a, 500"], 1500),  # two contexts on one
    ],
)
def test_the_memory_of_a_device_is_what_the_process_itself_uses(
    smi: Path, rows: list[str], mebibytes: int
) -> None:
    smi.write_text("\n".join(rows) + "\n")
    assert (mebibytes * MIB, "") == device_bytes(977)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("12, GPU-a, 7000\n", "does not list this process; outside a container it has another number"),
        ("", "does not list this process; outside a container it has another number"),
        ("977, GPU-a, [N/A]\n", "does not tell how much memory a single process uses here"),
        ("977, GPU-a, [Insufficient Permissions]\n", "does not tell how much"),
    ],
)
def test_the_use_of_the_whole_device_never_stands_for_the_process(smi: Path, rows: str, why: str) -> None:
    smi.write_text(rows)
    size, reason = device_bytes(977)
    assert size is None
    assert why in reason


def test_without_nvidia_smi_the_memory_of_a_device_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (None, "nvidia-smi gives no list of processes") == device_bytes()


class Trainer:
    """Does nothing."""

    phases = None

    def start_window(self) -> None:
        """Start."""

    def step(self, batch: object, iteration: int) -> FinishedStep:  # noqa: ARG002
        """Nothing to do."""
        return FinishedStep(1.0, 0.0)


@pytest.fixture
def peaks(
    case_content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """The events about memory that a program prints on a device: value and reason by key."""

    def run(device: str, **allocator: int) -> dict[str, tuple[int | None, str | None]]:
        path = tmp_path / "case.json"
        path.write_text(json.dumps({**case_content, "device": device}))
        monkeypatch.setattr(sys, "argv", ["train", str(path)])
        program.run(lambda *_: Trainer(), lambda _: {}, lambda _: 1.0, lambda: allocator)
        lines = capsys.readouterr().out.splitlines()
        events = [json.loads(line.removeprefix(PREFIX)) for line in lines]
        return {
            event["key"]: (event["value"], event["metadata"].get("reason"))
            for event in events
            if event["key"].startswith("peak_")
        }

    return run


def test_a_program_on_a_cpu_prints_its_anonymous_memory(peaks: Any) -> None:
    found = peaks("cpu", peak_reserved_bytes=7)
    assert ["peak_anonymous_bytes"] == list(found)
    assert found["peak_anonymous_bytes"][0] > 10 * MIB


def test_a_program_on_a_gpu_prints_its_own_memory_and_its_allocators(smi: Path, peaks: Any) -> None:
    smi.write_text(f"12, GPU-a, 7000\n{os.getpid()}, GPU-a, 1500\n")
    assert {"peak_device_bytes": (1500 * MIB, None), "peak_reserved_bytes": (7, None)} == peaks(
        "cuda", peak_reserved_bytes=7
    )


def test_a_program_that_does_not_know_its_memory_on_the_gpu_says_why(smi: Path, peaks: Any) -> None:
    smi.write_text("12, GPU-a, 7000\n")
    ((size, reason),) = peaks("cuda").values()
    assert size is None
    assert "does not list this process" in reason
