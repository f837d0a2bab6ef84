"""`energy.py FILE` writes how much energy this node's GPUs and processors have used, twice a second.

Runs beside the ranks until SIGTERM and needs the standard library of Python 3.8 alone: NVML is read from the
driver's own libnvidia-ml.so.1, because nvidia-ml-py would have to be installed on every node and nvidia-smi
starts a process a reading. The first line says what is read and what cannot be, each other line the joules of
every device since the first reading, or null where one gave none; docs/results.md, "Energy". It ends at once
where nothing can be read.

RAPL's counters of a package start again at `max_energy_range_uj`; at 200 W that is every 22 minutes.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, TextIO, Tuple

INTERVAL_SECONDS = 0.5
POWERCAP = "/sys/class/powercap"
NVML = "libnvidia-ml.so.1"
_NAME_BYTES = 96
# Zones of the processor; intel-rapl-mmio:0 counts the same package again. AMD's have this name too.
_PACKAGE = re.compile(r"intel-rapl:\d+")


class Unreadable(Exception):
    """A source that cannot be read here; the text says why."""


class Rapl:
    """One counter of microjoules that starts again at its range."""

    def __init__(self, zone: Path) -> None:
        """Take the first reading; Unreadable where that is not allowed."""
        self.describe = {"source": "rapl", "device": zone.name, "name": _text(zone / "name")}
        self._counter = zone / "energy_uj"
        try:
            self._range = int(_text(zone / "max_energy_range_uj"))
            self._last = int(_text(self._counter))
        except OSError as error:
            raise Unreadable(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise Unreadable(f"{zone}: {error}") from error
        self._microjoules = 0

    def joules(self) -> float:
        """Since the first reading."""
        now = int(_text(self._counter))
        used = now - self._last
        self._microjoules += used if used >= 0 else used + self._range
        self._last = now
        return self._microjoules / 1e6


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def rapl_meters(powercap: Path) -> List[Rapl]:
    """A meter for each package and for its memory, which a package's counter leaves out."""
    if not powercap.is_dir():
        raise Unreadable(f"{powercap}: no such folder")
    found = []
    for package in sorted(path for path in powercap.iterdir() if _PACKAGE.fullmatch(path.name)):
        try:
            if not _text(package / "name").startswith("package"):
                continue
            memory = [
                zone for zone in sorted(package.glob(f"{package.name}:*")) if _text(zone / "name") == "dram"
            ]
        except OSError as error:
            raise Unreadable(f"{error.filename}: {error.strerror}") from error
        found += [Rapl(zone) for zone in (package, *memory)]
    if not found:
        raise Unreadable(f"{powercap}: no counter of a processor package")
    return found


class Gpu:
    """One GPU: its counter of millijoules, or its power, integrated, where it has no counter."""

    def __init__(self, library: Any, index: int) -> None:
        """Take the first reading; Unreadable where there is none."""
        self._library = library
        self._handle = ctypes.c_void_p()
        _check(library, library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self._handle)))
        name = ctypes.create_string_buffer(_NAME_BYTES)
        _check(library, library.nvmlDeviceGetName(self._handle, name, _NAME_BYTES))
        self._counts = self._millijoules() is not None
        self.describe = {
            "source": "nvml",
            "device": str(index),
            "name": name.value.decode(errors="replace"),
            "how": "counter" if self._counts else "power",
        }
        self._first = self._millijoules() or 0
        self._joules, self._last = 0.0, (0.0, 0.0) if self._counts else self._power()

    def joules(self) -> float:
        """Since the first reading; Unreadable where there is none now."""
        if self._counts:
            now = self._millijoules()
            if now is None:
                raise Unreadable("NVML gives no reading of the counter")
            return (now - self._first) / 1000
        before, now = self._last, self._power()
        self._joules += (now[0] - before[0]) * (now[1] + before[1]) / 2
        self._last = now
        return self._joules

    def _millijoules(self) -> Optional[int]:
        """None where the GPU has no such counter: those before Volta."""
        value = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value))
        return value.value if status == 0 else None

    def _power(self) -> Tuple[float, float]:
        """When, and watts."""
        value = ctypes.c_uint()
        _check(self._library, self._library.nvmlDeviceGetPowerUsage(self._handle, ctypes.byref(value)))
        return time.monotonic(), value.value / 1000


def _check(library: Any, status: int) -> None:
    if status:
        library.nvmlErrorString.restype = ctypes.c_char_p
        raise Unreadable("NVML: " + (library.nvmlErrorString(status) or b"error").decode(errors="replace"))


def gpu_meters(library_name: str) -> List[Gpu]:
    """A meter for each GPU of the node."""
    try:
        library = ctypes.CDLL(library_name)
    except OSError as error:
        raise Unreadable(str(error)) from error
    _check(library, library.nvmlInit_v2())
    count = ctypes.c_uint()
    _check(library, library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    if not count.value:
        raise Unreadable("NVML finds no GPU")
    return [Gpu(library, index) for index in range(count.value)]


def busy_seconds() -> Optional[float]:
    """Seconds that all CPUs of the machine have worked since it started, for whatever program."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _waiting, interrupts, soft = map(int, fields[:7])
        return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")
    return None


def meters(powercap: str, nvml: str) -> Tuple[List[Any], Dict[str, str]]:
    """What can be read, and why the rest cannot."""
    found: List[Any] = []
    unreadable = {}
    try:
        found += gpu_meters(nvml)
    except Unreadable as error:
        unreadable["nvml"] = str(error)
    try:
        found += rapl_meters(Path(powercap))
    except Unreadable as error:
        unreadable["rapl"] = str(error)
    return found, unreadable


def reading(found: List[Any]) -> Optional[List[float]]:
    """Joules of every meter; None where one cannot be read now, as no reading is no energy of 0."""
    try:
        return [round(meter.joules(), 6) for meter in found]
    except (Unreadable, OSError, ValueError):
        return None


def record(stream: TextIO, found: List[Any], stop: threading.Event) -> None:
    """Write readings until `stop` is set, and one more then."""
    last = False
    while True:
        joules, now = reading(found), int(time.time() * 1000)
        line = {"time_ms": now, "joules": joules, "busy_seconds": busy_seconds()}
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        if last:
            return
        last = stop.wait(INTERVAL_SECONDS)


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description="Writes the energy that this node uses.")
    parser.add_argument("file")
    parser.add_argument("--powercap", default=POWERCAP)
    parser.add_argument("--nvml", default=NVML)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    found, unreadable = meters(arguments.powercap, arguments.nvml)
    head = {
        "schema_version": 1,
        "interval_seconds": INTERVAL_SECONDS,
        "cpus": os.cpu_count(),
        "devices": [meter.describe for meter in found],
        "unreadable": unreadable,
    }
    with open(arguments.file, "w", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(json.dumps(head) + "\n")
        stream.flush()
        if found:
            record(stream, found, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
