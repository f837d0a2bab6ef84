"""What else keeps this machine's CPUs busy. As a program it prints the answer as JSON.

It takes the differences of /proc/stat and /proc/PID/stat over an interval, and leaves out this process and
its ancestors: they are dlperf.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Set

INTERVAL_SECONDS = 1.0
MOST_PROCESSES = 3
# A process below this share of one CPU is not worth a name.
SMALLEST_SHARE = 0.02
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
# Columns of a CPU in /proc/stat that count as work: user, nice, system, irq, softirq, steal. Idle and iowait
# do not; guest time is part of user time.
BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)


class Process(NamedTuple):
    """A process and the CPU time that it has used so far."""

    command: str
    parent: int
    cpu_seconds: float


def busy(interval: float = INTERVAL_SECONDS) -> Dict[str, Any]:
    """How busy the usable CPUs are with other work; takes `interval` seconds.

    Returns:
        `share`: of the CPUs' time that others use, from 0 to 1; `cpus`: how many there are; `processes`:
        those that use most, each with `pid`, `command` (its name, without arguments) and `share` of one CPU.
    """
    started, before, busy_before = time.monotonic(), processes(), busy_seconds()
    time.sleep(interval)
    after, seconds = processes(), time.monotonic() - started
    total = busy_seconds() - busy_before
    used = {
        pid: process.cpu_seconds - (before[pid].cpu_seconds if pid in before else 0.0)
        for pid, process in after.items()
    }
    ours = lineage(after)
    own = sum(used.get(pid, 0.0) for pid in ours)
    cpus = len(os.sched_getaffinity(0))
    top = sorted((pid for pid in used if pid not in ours), key=lambda pid: -used[pid])[:MOST_PROCESSES]
    return {
        "share": round(min(1.0, max(0.0, total - own) / (seconds * cpus)), 4),
        "cpus": cpus,
        "processes": [
            {"pid": pid, "command": after[pid].command, "share": round(used[pid] / seconds, 3)}
            for pid in top
            if used[pid] / seconds >= SMALLEST_SHARE
        ],
    }


def processes() -> Dict[int, Process]:
    """All processes that this one can see."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue  # it has ended
        # The command stands in parentheses and may hold spaces and parentheses itself.
        command, _, rest = text.partition("(")[2].rpartition(")")
        fields: List[str] = rest.split()
        cpu_seconds = (int(fields[11]) + int(fields[12])) * TICK_SECONDS
        found[int(name)] = Process(command, int(fields[1]), cpu_seconds)
    return found


def lineage(found: Dict[int, Process]) -> Set[int]:
    """This process and its ancestors."""
    ours, pid = set(), os.getpid()
    while pid in found and pid not in ours and pid != 1:
        ours.add(pid)
        pid = found[pid].parent
    return ours


def busy_seconds() -> float:
    """Time that the usable CPUs have worked since the machine started."""
    usable = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return sum(int(row[column]) for row in rows if row[0] in usable for column in BUSY_COLUMNS) * TICK_SECONDS


if __name__ == "__main__":
    json.dump(busy(), sys.stdout)
