"""The state of a node: processor, memory, GPUs, system. As a program it prints them as JSON."""

import contextlib
import fcntl
import json
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Any, Dict, List, Optional

from frameworks.node.gpus import visible_devices

SIOCGIFADDR = 0x8915


def facts() -> Dict[str, Any]:
    """The node as it is now; the fields of dlperf/results/schema.py's Node."""
    gpus = visible_devices()
    return {
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": meminfo("MemTotal"),
        "accelerators": [gpu.name for gpu in gpus],
        "driver": gpus[0].driver if gpus else None,
        "system": system_name(),
        "kernel": platform.release(),
        "governor": governor(),
        "turbo": turbo(),
        "load": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> Optional[str]:
    """The processor's name."""
    for line in lines_of("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return " ".join(value.split())
    return platform.processor() or platform.machine() or None


def meminfo(key: str) -> Optional[int]:
    """A size of /proc/meminfo, in bytes."""
    for line in lines_of("/proc/meminfo"):
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def system_name() -> Optional[str]:
    """The system's name, such as `Debian GNU/Linux 12 (bookworm)`."""
    for line in lines_of("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return None


def governor() -> Optional[str]:
    """The frequency governors of the usable CPUs."""
    paths = (f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor" for cpu in os.sched_getaffinity(0))
    return ", ".join(sorted({line for path in paths for line in lines_of(path)})) or None


def turbo() -> Optional[bool]:
    """Whether the CPU may exceed its nominal frequency."""
    for path, on in (
        ("/sys/devices/system/cpu/intel_pstate/no_turbo", "0"),
        ("/sys/devices/system/cpu/cpufreq/boost", "1"),
    ):
        for line in lines_of(path):
            return line == on
    return None


def physical_cores() -> Dict[str, List[int]]:
    """Each usable CPU -> its package and core; a CPU without that information is its own core."""
    found = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        topology = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        place = [lines_of(f"{topology}/{item}") for item in ("physical_package_id", "core_id")]
        found[str(cpu)] = [int(item[0]) for item in place] if all(place) else [0, cpu]
    return found


def address_of(interface: str) -> Optional[str]:
    """The IPv4 address of a network interface; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def lines_of(path: str) -> List[str]:
    """The lines of a file; empty if it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return []


if __name__ == "__main__":
    print(json.dumps(facts()))
