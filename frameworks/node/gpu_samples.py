"""What nvidia-smi says of some GPUs, again and again: two long-running processes, each read by a thread.

A thread may wait for nvidia-smi for as long as it likes: nothing else waits for the thread.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from functools import partial
from typing import Callable, Dict, List, Optional, Sequence, Set

from frameworks.node.counters import text_of
from frameworks.node.gpus import Device, gpu_rows, visible_devices

SAMPLE_MILLISECONDS, APPS_MILLISECONDS = 500, 2000
# Columns of telemetry.csv by what nvidia-smi calls them.
GAUGES = {
    "power.draw": "power_watts",
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "temperature.gpu": "celsius",
    "utilization.gpu": "utilization_percent",
    "memory.used": "memory_mib",
    "pcie.link.gen.current": "pcie_generation",
    "pcie.link.width.current": "pcie_width",
}
# Why clocks are low, as a bit mask: drivers from 535 on have the first name, older ones the second.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# Asked for at the start and at the end, those of a row in one question: old drivers know some of them.
HEALTH = (
    {
        "ecc.errors.corrected.volatile.total": "ecc_corrected",
        "ecc.errors.uncorrected.volatile.total": "ecc_uncorrected",
    },
    {
        "remapped_rows.correctable": "remapped_correctable",
        "remapped_rows.uncorrectable": "remapped_uncorrectable",
    },
)
HEALTH_SECONDS = 20.0
STARTS, PAUSE_SECONDS = 3, 2.0  # of an nvidia-smi that has ended
# An nvidia-smi that prints so many lines more than it should is ended.
FLOOD_LINES, FLOOD_TIMES = 1000, 10
LONGEST_LINE = 4096
_NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{1,6})?")
_MASK = re.compile(r"0x[0-9a-fA-F]{1,16}")
_TIME = re.compile(r"(\d{4})/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{3})")
_MOST_CLOCK_SECONDS = 60.0

Put = Callable[..., None]  # source, time_ms and columns of a row


class GpuSamples:
    """Rows of the first `count` GPUs that CUDA shows here, and notes on what is missing."""

    def __init__(self, count: int, put: Put) -> None:
        """Start the threads; `put` takes the rows and is called from them."""
        self._count, self._put = count, put
        self._ending = False
        self._devices: List[Device] = []
        self._known = threading.Event()
        self.complaint = ""  # the last line of nvidia-smi that was no sample
        # Monotonic time of the last sample by source; of the node, as long as the GPUs are not known.
        self.last_seen = {"node": time.monotonic()}
        for work in (self._sample, self._watch_users):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def finish(self, seconds: float) -> None:
        """What is known at the end; takes no more than `seconds` and a moment."""
        self._ending = True
        self._read_health(seconds / len(HEALTH))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  a thread that ends says so, and nothing else ends
            self._note(f"sampling of GPUs failed: {type(error).__name__}: {error}")

    def _note(self, text: str) -> None:
        if not self._ending:
            self._put("node", note=text)

    def _sample(self) -> None:
        self._devices = visible_devices()[: self._count]
        self.last_seen = {f"gpu{device.index}": time.monotonic() for device in self._devices}
        self._known.set()
        if shutil.which("nvidia-smi") is None:
            self._note("there is no nvidia-smi on the PATH")
        elif len(self._devices) < self._count:
            self._note(f"nvidia-smi shows {len(self._devices)} of {self._count} GPUs")
        if not self._devices:
            return
        for device in self._devices:
            self._put(f"gpu{device.index}", device=f"{device.name} {device.uuid}")
        self._read_health(HEALTH_SECONDS)
        for reasons in (*REASONS, None):
            names = ["timestamp", "index", *GAUGES, *([reasons] if reasons else [])]
            stream = Stream(self._devices, f"--query-gpu={','.join(names)}", SAMPLE_MILLISECONDS)
            for _ in range(STARTS):
                end = stream.read(partial(self._take, has_reasons=reasons is not None))
                if self._ending or not stream.answered:
                    break  # this driver does not know one of the names
                self._note(f"nvidia-smi has ended: {end}")
                time.sleep(PAUSE_SECONDS)
            if stream.answered or self._ending:
                return
        self._note(f"nvidia-smi gives no samples: {end}")

    def _take(self, cells: Sequence[str], *, has_reasons: bool) -> bool:
        """Put a sample; False where it is none."""
        self.complaint = ", ".join(cells)
        if len(cells) != 2 + len(GAUGES) + has_reasons or not cells[1].isdigit():
            return False
        source = f"gpu{int(cells[1])}"
        if source not in self.last_seen:
            return False
        values = {column: cell for column, cell in zip(GAUGES.values(), cells[2:]) if _NUMBER.fullmatch(cell)}
        if has_reasons and _MASK.fullmatch(cells[-1]):
            values["reasons"] = cells[-1].lower()
        if not values:
            return False
        self.complaint, self.last_seen[source] = "", time.monotonic()
        self._put(source, time_ms=_time_ms(cells[0]), **values)
        return True

    def _read_health(self, seconds: float) -> None:
        for names in HEALTH:
            for index, *cells in gpu_rows("index", *names, seconds=seconds):
                values = {
                    column: cell for column, cell in zip(names.values(), cells) if _NUMBER.fullmatch(cell)
                }
                if values and f"gpu{index}" in self.last_seen:
                    self._put(f"gpu{index}", **values)

    def _watch_users(self) -> None:
        """Count processes of others on the GPUs; of an instance of a GPU nvidia-smi cannot say."""
        self._known.wait()
        gpus = {device.uuid: f"gpu{device.index}" for device in self._devices if not device.mig}
        if not gpus:
            return
        users = Users(gpus, self._put)
        query = "--query-compute-apps=timestamp,gpu_uuid,pid"
        Stream(self._devices, query, APPS_MILLISECONDS).read(users.take)


class Users:
    """Processes on GPUs, as nvidia-smi lists them: a line per process, all of one moment with one time."""

    def __init__(self, gpus: Dict[str, str], put: Put) -> None:
        """`gpus` are sources by UUID. Whatever our parent, the supervisor, has started is ours."""
        self._gpus, self._put, self._supervisor = gpus, put, os.getppid()
        self._moment = ""
        self._listed: Dict[str, Set[int]] = {}
        self._ours: Dict[int, bool] = {}

    def take(self, cells: Sequence[str]) -> bool:
        """Take a line; False where it is none."""
        if len(cells) != 3 or not cells[2].isdigit():  # noqa: PLR2004  as many as asked for
            return False
        moment, uuid, pid = cells
        if moment != self._moment:
            self._report()
            self._moment, self._listed = moment, {}
        if uuid in self._gpus:
            self._listed.setdefault(uuid, set()).add(int(pid))
        return True

    def _report(self) -> None:
        """In a container nvidia-smi has the host's numbers: where none is ours, one per GPU must be."""
        if not self._listed:
            return
        knows_us = any(self._is_ours(pid) for pids in self._listed.values() for pid in pids)
        for uuid, source in self._gpus.items():
            pids = self._listed.get(uuid, set())
            others = sum(not self._is_ours(pid) for pid in pids) if knows_us else max(0, len(pids) - 1)
            self._put(source, other_processes=others)

    def _is_ours(self, pid: int) -> bool:
        if pid not in self._ours:
            parent = pid
            while parent not in (0, 1, self._supervisor):
                stat = (text_of(f"/proc/{parent}/stat") or "").rpartition(")")[2].split()
                parent = int(stat[1]) if len(stat) > 1 else 0
            self._ours[pid] = parent == self._supervisor
        return self._ours[pid]


class Stream:
    """An nvidia-smi that answers a question again and again until it is killed."""

    def __init__(self, devices: Sequence[Device], query: str, milliseconds: int) -> None:
        gpus = ",".join(sorted({str(device.index) for device in devices}))
        output = ["--format=csv,noheader,nounits", "-lms", str(milliseconds)]
        self._argv = ["nvidia-smi", "-i", gpus, query, *output]
        self._lines_per_second = len(devices) * 1000 / milliseconds
        self.answered = False  # at least once

    def read(self, take: Callable[[List[str]], bool]) -> str:
        """Pass the cells of each line on until the stream ends; why it did, in words.

        `take` says whether a line was good.
        """
        complaint, lines, started = "", 0, time.monotonic()
        with subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None  # noqa: S101
            while line := process.stdout.readline(LONGEST_LINE):
                text = line.decode("ascii", "replace").strip()
                if take([cell.strip() for cell in text.split(",")]):
                    self.answered = True
                else:
                    complaint = text or complaint
                lines += 1
                usual = self._lines_per_second * (time.monotonic() - started)
                if lines > FLOOD_LINES + FLOOD_TIMES * usual:
                    process.kill()
                    return f"it printed {lines} lines, far more than asked for, the last: {text}"
        code = process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}: {complaint}" if complaint else how


def _time_ms(text: str) -> Optional[int]:
    """nvidia-smi's own time, which is local; None where it is not near ours: then ours counts."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, milliseconds = map(int, match.groups())
    try:
        seconds = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    except (OverflowError, ValueError):
        return None
    is_near = abs(seconds - time.time()) < _MOST_CLOCK_SECONDS
    return int(seconds) * 1000 + milliseconds if is_near else None
