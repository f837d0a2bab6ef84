"""What the kernel counts of threads, CPUs, pressure, networks and disks. Seconds and bytes, since some start.

A thread that is ready to run waits when other threads hold its CPUs. The kernel counts both times of each
thread: fields 1 and 2 of /proc/PID/task/TID/schedstat, in nanoseconds (the kernel's documentation,
scheduler/sched-stats.rst). /proc/stat says how long the CPUs were busy with anyone's work, /proc/pressure how
long some task waited for a resource (accounting/psi.rst), /sys/dev/block/*/stat what was read
(admin-guide/iostats.rst).
"""

import contextlib
import os
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Union

from frameworks.node.busy import BUSY_COLUMNS, TICK_SECONDS

NANOSECONDS = 1e-9
STEAL_COLUMN = 8  # of a CPU in /proc/stat
SECTOR_BYTES = 512
SECTORS_READ_FIELD = 2
SENT_FIELD = 8  # of an interface in /proc/net/dev


class CpuTimes(NamedTuple):
    """How long CPUs have worked."""

    busy: float  # some CPUs, with anyone's work
    steal: float  # taken from them by other virtual machines
    machine_busy: float  # the same as busy, of all CPUs of the machine
    machine_cpus: int


def text_of(path: str) -> Optional[str]:
    """The content of a file of the kernel; None where it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as stream:  # noqa: PTH123  a Path per thread costs
            return stream.read()
    except OSError:
        return None


def threads(process: "Union[int, str]") -> "Dict[int, Tuple[float, float]]":
    """The seconds of each thread of a process, on a CPU and waiting for one; none of one that has ended."""
    found: Dict[int, Tuple[float, float]] = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
            fields = (text_of(f"/proc/{process}/task/{task}/schedstat") or "").split()
            if len(fields) > 1:
                found[int(task)] = (int(fields[0]) * NANOSECONDS, int(fields[1]) * NANOSECONDS)
    return found


def below(processes: Iterable[int]) -> Set[int]:
    """The processes and all that they started, as far as the kernel lists children (CONFIG_PROC_CHILDREN)."""
    found, todo = set(), list(processes)
    while todo:
        process = todo.pop()
        if process in found:
            continue
        found.add(process)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208
                todo += map(int, (text_of(f"/proc/{process}/task/{task}/children") or "").split())
    return found


def cpu_times(cpus: "List[int]") -> Optional[CpuTimes]:
    """Of these CPUs and of the machine; None where the kernel does not count them all."""
    rows = [line.split() for line in (text_of("/proc/stat") or "").splitlines() if line.startswith("cpu")]
    ours = {f"cpu{cpu}" for cpu in cpus}
    try:
        machine = {row[0]: sum(int(row[column]) for column in BUSY_COLUMNS) for row in rows[1:]}
        steal = sum(int(row[STEAL_COLUMN]) for row in rows if row[0] in ours)
    except (ValueError, IndexError):
        return None
    if not ours or not ours <= machine.keys():
        return None
    return CpuTimes(
        busy=sum(machine[cpu] for cpu in ours) * TICK_SECONDS,
        steal=steal * TICK_SECONDS,
        machine_busy=sum(machine.values()) * TICK_SECONDS,
        machine_cpus=len(machine),
    )


def pressure(resource: str) -> Optional[float]:
    """Seconds in which some task waited for `cpu`, `memory` or `io`; None without pressure information."""
    lines = (text_of(f"/proc/pressure/{resource}") or "").splitlines()
    try:
        return int(lines[0].rpartition("total=")[2]) * 1e-6
    except (ValueError, IndexError):
        return None


def clock_mhz(cpus: "List[int]") -> Optional[float]:
    """The mean frequency of these CPUs now; None where the kernel does not show it, as in most guests."""
    found = []
    for cpu in cpus:
        kilohertz = text_of(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")
        if kilohertz is None or not kilohertz.strip().isdigit():
            return None
        found.append(int(kilohertz))
    return sum(found) / len(found) / 1000 if found else None


def network_bytes(interface: Optional[str]) -> Optional[Tuple[int, int]]:
    """Received and sent by an interface, by default all but the loopback; None where nothing counts.

    From /proc/net/dev, which has those of this process; /sys may show those of another network namespace.
    """
    received = sent = 0
    is_known = False
    for line in (text_of("/proc/net/dev") or "").splitlines():
        name, colon, counts = line.partition(":")
        fields = counts.split()
        is_wanted = name.strip() == interface if interface is not None else name.strip() != "lo"
        if colon and is_wanted and len(fields) > SENT_FIELD:
            received, sent, is_known = received + int(fields[0]), sent + int(fields[SENT_FIELD]), True
    return (received, sent) if is_known else None


def has_rdma() -> bool:
    """Whether there is InfiniBand or RoCE, whose bytes pass the counters of the interfaces by."""
    with contextlib.suppress(OSError):
        return bool(os.listdir("/sys/class/infiniband"))  # noqa: PTH208
    return False


def disk_of(path: str) -> Optional[str]:
    """The file that counts the disk of a path; None where it lies on none, as on NFS or in memory."""
    try:
        device = os.stat(path).st_dev  # noqa: PTH116
    except OSError:
        return None
    counted = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
    return counted if text_of(counted) else None


def disk_read_bytes(counted: str) -> Optional[int]:
    """What was read from the disk of `disk_of`."""
    try:
        return int((text_of(counted) or "").split()[SECTORS_READ_FIELD]) * SECTOR_BYTES
    except (ValueError, IndexError):
        return None
