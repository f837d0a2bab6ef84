"""Sample what a node does during a run: `telemetry.py JSON`, started by the supervisor beside the ranks.

It is no rank: whatever happens to it changes nothing for the run. It writes one CSV into the run folder, the
working directory, which docs/formats.md describes; ends when it is asked to (SIGTERM); and leaves no process.
A CPU that no rank uses is its own, where there is one. JSON:

    {"file": "telemetry.csv", "pids": [17], "cpus": [0, 1], "gpus": 0, "network": false, "interface": null,
     "data": null}
"""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `python -I` leaves it out

from frameworks.node import counters
from frameworks.node.facts import physical_cores

COLUMNS = (
    "time_ms", "source", "cpu_mhz", "run_seconds", "wait_seconds", "busy_seconds", "steal_seconds",
    "pressure_cpu_seconds", "pressure_memory_seconds", "pressure_io_seconds", "received_bytes", "sent_bytes",
    "disk_read_bytes", "power_watts", "sm_mhz", "memory_mhz", "celsius", "utilization_percent", "memory_mib",
    "pcie_generation", "pcie_width", "reasons", "other_processes", "ecc_corrected", "ecc_uncorrected",
    "remapped_correctable", "remapped_uncorrectable", "device", "note",
)  # fmt: skip
INTERVAL_SECONDS = 1.0
# Of its own CPU: a node with thousands of threads is sampled less often.
MOST_CPU_SHARE = 0.005
CHILDREN_SAMPLES = 5  # from one look for new processes of the ranks to the next
# Each of these makes samples twice as sparse; the file ends after so many.
SPARSER_BYTES, MOST_BYTES = 1 << 20, 8 << 20
MOST_NOTES, LONGEST_NOTE = 100, 200
SILENCE_SECONDS = 10.0  # of a GPU, until a note says so
FINISH_SECONDS = 1.0  # of nvidia-smi's last answer
_ODD_IN_NOTE = re.compile(r"[^ -~]|[,\"]")


class File:
    """The CSV: a row per line, each one write, no quotes. It is small, whatever comes."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._bytes = self._notes = 0
        self._rows: Dict[str, int] = {}  # samples by source
        self._lock = threading.Lock()
        self._write(",".join(COLUMNS))

    def put(self, source: str, *, time_ms: Optional[int] = None, **values: Any) -> None:
        """Write a row; of the samples of a long run only every second, fourth and so on."""
        is_sample = "run_seconds" in values or "sm_mhz" in values or "power_watts" in values
        with self._lock:
            number = self._rows.get(source, 0)
            if is_sample:
                self._rows[source] = number + 1
            if self._bytes >= MOST_BYTES or (is_sample and number % (1 << self._bytes // SPARSER_BYTES)):
                return
            if values.get("note"):
                self._notes += 1
                if self._notes > MOST_NOTES:
                    return
            row = {**values, "time_ms": time_ms or int(time.time() * 1000), "source": source}
            self._write(",".join(_cell(row.get(column)) for column in COLUMNS))

    def _write(self, line: str) -> None:
        data = line.encode("ascii") + b"\n"
        self._bytes += len(data)
        try:
            os.write(self._descriptor, data)
        except OSError:  # a full disk: there is nobody to tell
            end_children()
            os._exit(1)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return _ODD_IN_NOTE.sub(" ", str(value))[:LONGEST_NOTE]


class NodeSamples:
    """What the ranks took of this node's CPUs, and what else it did."""

    def __init__(self, spec: Dict[str, Any], file: File) -> None:
        self._file, self._ranks, self._cpus = file, list(spec["pids"]), list(spec["cpus"])
        self._interface: Optional[str] = spec["interface"]
        self._has_network = spec["network"] and not counters.has_rdma()
        if spec["network"] and not self._has_network:
            file.put("node", note="RDMA devices: their bytes are not counted")
        self._disk = None if spec["data"] is None else counters.disk_of(spec["data"])
        self._processes: Set[int] = set()
        self._threads: Dict[int, Tuple[float, float]] = {}
        self._run = self._wait = 0.0
        self._samples = 0

    def take(self) -> None:
        """Write a sample; seconds and bytes are since some start, the threads' since their own."""
        if self._samples % CHILDREN_SAMPLES == 0:
            self._processes = counters.below(self._ranks)
        self._samples += 1
        threads: Dict[int, Tuple[float, float]] = {}
        for process in self._processes:
            threads.update(counters.threads(process))
        for thread, (ran, waited) in threads.items():
            ran_before, waited_before = self._threads.get(thread, (0.0, 0.0))
            self._run += max(0.0, ran - ran_before)
            self._wait += max(0.0, waited - waited_before)
        self._threads = threads
        times = counters.cpu_times(self._cpus)
        network = counters.network_bytes(self._interface) if self._has_network else None
        self._file.put(
            "node",
            cpu_mhz=counters.clock_mhz(self._cpus),
            run_seconds=self._run,
            wait_seconds=self._wait,
            busy_seconds=times and times.busy,
            steal_seconds=times and times.steal,
            pressure_cpu_seconds=counters.pressure("cpu"),
            pressure_memory_seconds=counters.pressure("memory"),
            pressure_io_seconds=counters.pressure("io"),
            received_bytes=network and network[0],
            sent_bytes=network and network[1],
            disk_read_bytes=self._disk and counters.disk_read_bytes(self._disk),
        )


def use_own_cpu(ranks: List[int]) -> None:
    """Move to a CPU that no rank uses, of a core that no rank uses where there is one."""
    cores = {int(cpu): tuple(core) for cpu, core in physical_cores().items()}
    taken = {cores.get(cpu) for cpu in ranks}
    free = sorted(cores.keys() - set(ranks), key=lambda cpu: (cores[cpu] in taken, -cpu))
    if free:
        os.sched_setaffinity(0, free[:1])


def end_children() -> None:
    """Kill what this process has started, and take its CPU time into ours."""
    for process in counters.below([os.getpid()]) - {os.getpid()}:
        with contextlib.suppress(OSError):  # a thread has taken its end already
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


class Silence:
    """Notes that a GPU gives no samples, and that it does again."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._silent: Set[str] = set()

    def check(self, last_seen: Dict[str, float], complaint: str) -> None:
        """Compare the times of the last samples with the clock; `complaint` is what nvidia-smi printed."""
        now = time.monotonic()
        silent = {source for source, seen in last_seen.items() if now - seen > SILENCE_SECONDS}
        for source in sorted(silent - self._silent):
            why = f": {complaint}" if complaint else ""
            self._file.put(source, note=f"no sample of nvidia-smi for {SILENCE_SECONDS:g} s{why}")
        for source in sorted(self._silent - silent):
            self._file.put(source, note="nvidia-smi answers again")
        self._silent = silent


def main() -> None:
    """Sample until the end is asked for."""
    spec = json.loads(sys.argv[1])
    endings = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)  # for threads and nvidia-smi too: this thread waits
    use_own_cpu(spec["cpus"])
    file = File(spec["file"])
    samples, gpus = NodeSamples(spec, file), None
    if spec["gpus"]:
        from frameworks.node.gpu_samples import GpuSamples  # noqa: PLC0415  only where there are some

        gpus = GpuSamples(spec["gpus"], file.put)
    silence = Silence(file)
    is_over = False
    while not is_over:
        before = time.thread_time()
        samples.take()
        if gpus is not None:
            silence.check(dict(gpus.last_seen), gpus.complaint)
        pause = max(INTERVAL_SECONDS, (time.thread_time() - before) / MOST_CPU_SHARE)
        received = signal.sigtimedwait(endings, pause)
        # Of a process that was stopped for longer, CPython gives a signal that never came.
        is_over = received is not None and received.si_signo in endings
    samples.take()
    if gpus is not None:
        gpus.finish(FINISH_SECONDS)
    end_children()
    os._exit(0)  # a thread may still wait for nvidia-smi


if __name__ == "__main__":
    main()
