"""What else the machine did during a window of training: /proc, and nvidia-smi for a GPU, read at its edges.

A thread that is ready to run waits when other threads hold its CPUs. The kernel counts both times of each
thread: fields 1 and 2 of /proc/PID/task/TID/schedstat, in nanoseconds (the kernel's documentation,
scheduler/sched-stats.rst). /proc/stat says how long the CPUs were busy with anyone's work.
dlperf/results/interference.py makes a share of both. Nothing is read inside the window.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from frameworks.node.busy import BUSY_COLUMNS, TICK_SECONDS
from frameworks.node.gpus import nvidia_smi, visible_devices

NANOSECONDS = 1e-9
STEAL_COLUMN = 8  # of a CPU in /proc/stat
# Reasons for lower clocks that come from outside the program; an idle GPU and a set clock are none.
THROTTLE_REASONS = (
    "sw_power_cap",
    "hw_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "sw_thermal_slowdown",
)
# Drivers from 535 on have the second name, and so far the first too.
REASON_GROUPS = ("clocks_throttle_reasons", "clocks_event_reasons")


class Reading(NamedTuple):
    """Counters of a process, or several, and of our CPUs at one moment, in seconds."""

    threads: Dict[int, Tuple[float, float]]  # thread -> on a CPU, waiting for one
    busy: float  # of the CPUs that this process may use, with anyone's work
    steal: float  # taken from them by other virtual machines
    machine_busy: float  # the same as busy, of all CPUs of the machine
    machine_cpus: int
    pressure: Optional[float]  # time in which some task of the machine waited for a CPU
    clock: float


def read_counters(cpus: "List[int]", processes: "Optional[List[int]]" = None) -> Optional[Reading]:
    """The counters now, of this process or of `processes`; None where the kernel keeps none, as in gVisor."""
    if not Path("/proc/self/schedstat").exists():
        return None
    try:
        threads: Dict[int, Tuple[float, float]] = {}
        for process in ["self"] if processes is None else processes:
            threads.update(_threads(process))
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = [row for row in rows if row[0] in {f"cpu{cpu}" for cpu in cpus}]
        busy = sum(int(row[column]) for row in ticks for column in BUSY_COLUMNS)
        every = [row for row in rows if row[0][:3] == "cpu" and row[0] != "cpu"]
        machine_busy = sum(int(row[column]) for row in every for column in BUSY_COLUMNS)
        steal = sum(int(row[STEAL_COLUMN]) for row in ticks)
    except (OSError, ValueError, IndexError):
        return None
    if not threads or len(ticks) != len(cpus):
        return None
    return Reading(
        threads,
        busy=busy * TICK_SECONDS,
        steal=steal * TICK_SECONDS,
        machine_busy=machine_busy * TICK_SECONDS,
        machine_cpus=len(every),
        pressure=_pressure(),
        clock=time.perf_counter(),
    )


def _threads(process: "Union[int, str]") -> "Dict[int, Tuple[float, float]]":
    """The seconds of each thread of a process; none of one that has ended."""
    threads = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208  no Path per thread
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{process}/task/{task}/schedstat").read_text().split()
                threads[int(task)] = (int(fields[0]) * NANOSECONDS, int(fields[1]) * NANOSECONDS)
    return threads


def _pressure() -> Optional[float]:
    """The `some` line's total of /proc/pressure/cpu; None without pressure stall information."""
    try:
        first = Path("/proc/pressure/cpu").read_text().splitlines()[0]
        return int(first.rpartition("total=")[2]) * 1e-6
    except (OSError, ValueError, IndexError):
        return None


class Window:
    """Reads at the edges of one window. `close` gives the value of the event `interference`."""

    def __init__(self, processes: "Optional[Callable[[], List[int]]]" = None) -> None:
        """Read the counters; the window starts after this.

        `processes` says which processes are ours at an edge; None: this one alone.
        """
        self._cpus = sorted(os.sched_getaffinity(0))
        self._processes = processes
        self._before = self._read()

    def close(self) -> Optional[Dict[str, Any]]:
        """What happened since; None where the kernel keeps no counters. Threads that ended are left out."""
        before, after = self._before, self._read()
        if before is None or after is None:
            return None
        run = wait = 0.0
        for thread, (ran, waited) in after.threads.items():
            ran_before, waited_before = before.threads.get(thread, (0.0, 0.0))
            run += ran - ran_before
            wait += waited - waited_before
        pressure = None
        if before.pressure is not None and after.pressure is not None:
            pressure = round(after.pressure - before.pressure, 6)
        return {
            "seconds": round(after.clock - before.clock, 6),
            "run_seconds": round(run, 6),
            "wait_seconds": round(wait, 6),
            "busy_seconds": round(after.busy - before.busy, 6),
            "steal_seconds": round(after.steal - before.steal, 6),
            "machine_busy_seconds": round(after.machine_busy - before.machine_busy, 6),
            "machine_cpus": after.machine_cpus,
            "pressure_seconds": pressure,
            "cpus": self._cpus,
            # Two ranks with the same one share a kernel, and so the numbers of their CPUs.
            "machine": _boot_id(),
        }

    def _read(self) -> Optional[Reading]:
        return read_counters(self._cpus, None if self._processes is None else self._processes())


def _boot_id() -> Optional[str]:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def gpu_interference(local_rank: int) -> Optional[Dict[str, Any]]:
    """Other processes on the rank's GPU, and why its clocks are low now; None where nvidia-smi cannot say.

    It cannot of an instance of a GPU (MIG). `processes` counts all but one, which is this one: nvidia-smi
    shows process ids of the host, not ours.
    """
    devices = visible_devices()
    if local_rank >= len(devices) or devices[local_rank].mig:
        return None
    gpu = devices[local_rank].uuid
    apps = _nvidia_smi(gpu, "--query-compute-apps=pid")
    queries = (
        "--query-gpu=" + ",".join(f"{group}.{name}" for name in THROTTLE_REASONS) for group in REASON_GROUPS
    )
    active = next((lines for query in queries if (lines := _nvidia_smi(gpu, query)) is not None), None)
    if apps is None or active is None or len(active) != 1:
        return None
    states = [state.strip() for state in active[0].split(",")]
    return {
        "processes": max(0, len(apps) - 1),
        "throttled_by": [name for name, state in zip(THROTTLE_REASONS, states) if state == "Active"],
    }


def _nvidia_smi(gpu: str, query: str) -> Optional[List[str]]:
    text = nvidia_smi("-i", gpu, query, "--format=csv,noheader,nounits")
    return None if text is None else text.splitlines()
