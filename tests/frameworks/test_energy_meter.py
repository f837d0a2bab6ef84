"""What `frameworks/energy.py` writes. Its counters are fakes: a folder for RAPL, a compiled library for NVML.

Neither has been seen on real hardware: no machine at hand had a GPU or let its RAPL counters be read.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import until

from frameworks.energy import Gpu, Rapl, Unreadable, rapl_meters, reading

if TYPE_CHECKING:
    from collections.abc import Sequence

METER = Path(__file__).parents[2] / "frameworks" / "energy.py"
RANGE = 1_000_000


def zone(folder: Path, name: str, microjoules: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, one with memory, as the kernel shows them, and the zones that would count twice."""
    folder = tmp_path / "powercap"
    zone(folder / "intel-rapl:0", "package-0")
    zone(folder / "intel-rapl:0" / "intel-rapl:0:0", "core")
    zone(folder / "intel-rapl:0" / "intel-rapl:0:1", "dram")
    zone(folder / "intel-rapl:1", "package-1")
    zone(folder / "intel-rapl:2", "psys")
    zone(folder / "intel-rapl-mmio:0", "package-0")
    (folder / "intel-rapl").mkdir()
    return folder


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libfake-nvml.so"
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def start(
    file: Path, *, powercap: Path, nvml: Path | str, python: str = sys.executable
) -> subprocess.Popen[bytes]:
    command = [python, "-I", str(METER), str(file), "--powercap", str(powercap), "--nvml", str(nvml)]
    return subprocess.Popen(command)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ended(meter: subprocess.Popen[bytes]) -> int:
    meter.send_signal(signal.SIGTERM)
    return meter.wait(60)


def pythons() -> Sequence[str]:
    oldest = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))
    return [sys.executable, *map(str, oldest[-1:])]


def test_packages_and_their_memory_are_counted_once(powercap: Path) -> None:
    described = [meter.describe for meter in rapl_meters(powercap)]
    assert [("intel-rapl:0", "package-0"), ("intel-rapl:0:1", "dram"), ("intel-rapl:1", "package-1")] == [
        (device["device"], device["name"]) for device in described
    ]


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path / "intel-rapl:0", "package-0", RANGE - 1000)
    meter = Rapl(folder)
    read = []
    for microjoules in (RANGE - 400, 200, 300_000, 100):
        (folder / "energy_uj").write_text(str(microjoules))
        read.append(round(meter.joules() * 1e6))
    assert [600, 1200, 301_000, 1_001_100] == read


def test_a_counter_that_may_not_be_read_says_so(powercap: Path) -> None:
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(Unreadable, match=r"intel-rapl:1/energy_uj: No such file or directory"):
        rapl_meters(powercap)


@pytest.mark.parametrize("python", pythons(), ids=str)
def test_readings_rise_until_the_end(tmp_path: Path, powercap: Path, fake_nvml: Path, python: str) -> None:
    file = tmp_path / "energy0.jsonl"
    meter = start(file, powercap=powercap, nvml=fake_nvml, python=python)
    until(lambda: len(lines(file)) > 2)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("250000\n")
    assert ended(meter) == 0
    head, first, *_rest, last = lines(file)
    assert {} == head["unreadable"]
    assert ["counter", "power", None, None, None] == [device.get("how") for device in head["devices"]]
    assert "Fake GPU 1" == head["devices"][1]["name"]
    assert [0.25, 0.0, 0.0] == last["joules"][2:], "written after SIGTERM"
    assert last["busy_seconds"] >= first["busy_seconds"]
    seconds = (last["time_ms"] - first["time_ms"]) / 1000
    used = [end - begin for begin, end in zip(first["joules"], last["joules"], strict=True)]
    assert used[0] == pytest.approx(300 * seconds, abs=30)
    assert used[1] == pytest.approx(150 * seconds, abs=15)


def test_a_reading_that_fails_is_none_and_the_next_one_goes_on(tmp_path: Path, powercap: Path) -> None:
    counter, file = powercap / "intel-rapl:0" / "energy_uj", tmp_path / "energy0.jsonl"
    meter = start(file, powercap=powercap, nvml="libnone-nvml.so")
    until(lambda: len(lines(file)) > 1)

    counter.unlink()
    until(lambda: lines(file)[-1].get("joules", 0) is None)
    counter.with_name("new").write_text("250000\n")
    counter.with_name("new").rename(counter)

    until(lambda: lines(file)[-1]["joules"] == [0.25, 0.0, 0.0])
    assert ended(meter) == 0


class FailingCounter:
    """In NVML's place, as no GPU fails at will: every second call of the counter does, from the third on."""

    def __init__(self) -> None:
        self.calls = 0

    def nvmlDeviceGetTotalEnergyConsumption(self, _device: object, value: Any) -> int:  # noqa: N802 - NVML's
        self.calls += 1
        value._obj.value = 1000 * self.calls
        return 999 if self.calls > 2 and self.calls % 2 else 0

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: 0


def test_a_gpu_whose_counter_fails_once_has_not_used_nothing() -> None:
    gpu = Gpu(FailingCounter(), 0)

    assert [None, [2.0], None, [4.0]] == [reading([gpu]) for _ in range(4)]


def test_without_any_counter_it_says_why_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "energy0.jsonl"
    began = time.monotonic()
    assert start(file, powercap=tmp_path / "none", nvml="libnone-nvml.so").wait(60) == 0
    assert time.monotonic() - began < 60
    (head,) = lines(file)
    assert [] == head["devices"]
    assert f"{tmp_path}/none: no such folder" == head["unreadable"]["rapl"]
    assert head["unreadable"]["nvml"].startswith("libnone-nvml.so: ")
