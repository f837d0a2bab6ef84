"""What else the machine did during a window of training: /proc read at its edges.

`frameworks/node/counters.py` says what the kernel counts. dlperf/results/interference.py makes a share of it.
Nothing is read inside the window; frameworks/node/telemetry.py samples there, in a process of its own.
"""

import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from frameworks.node.counters import CpuTimes, cpu_times, pressure, text_of, threads


class Reading(NamedTuple):
    """Counters of a process, or several, and of our CPUs at one moment, in seconds."""

    threads: Dict[int, Tuple[float, float]]  # thread -> on a CPU, waiting for one
    cpus: CpuTimes  # of those that this process may use
    pressure: Optional[float]  # time in which some task of the machine waited for a CPU
    clock: float


def read_counters(cpus: "List[int]", processes: "Optional[List[int]]" = None) -> Optional[Reading]:
    """The counters now, of this process or of `processes`; None where the kernel keeps none, as in gVisor."""
    if not Path("/proc/self/schedstat").exists():
        return None
    ours: Dict[int, Tuple[float, float]] = {}
    for process in ["self"] if processes is None else processes:
        ours.update(threads(process))
    times = cpu_times(cpus)
    if not ours or times is None:
        return None
    return Reading(ours, times, pressure("cpu"), clock=time.perf_counter())


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
            "busy_seconds": round(after.cpus.busy - before.cpus.busy, 6),
            "steal_seconds": round(after.cpus.steal - before.cpus.steal, 6),
            "machine_busy_seconds": round(after.cpus.machine_busy - before.cpus.machine_busy, 6),
            "machine_cpus": after.cpus.machine_cpus,
            "pressure_seconds": pressure,
            "cpus": self._cpus,
            # Two ranks with the same one share a kernel, and so the numbers of their CPUs.
            "machine": (text_of("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        }

    def _read(self) -> Optional[Reading]:
        return read_counters(self._cpus, None if self._processes is None else self._processes())
