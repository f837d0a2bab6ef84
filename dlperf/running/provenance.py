"""Which dlperf this is and what it runs on, for `environment.json`."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf import __version__
from dlperf.results.environment import Node, RunEnvironment
from dlperf.running.variables import inherited, redacted
from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    from dlperf.environments import Environment
    from dlperf.running.launch_file import LaunchFile

_TOOL_SECONDS = 20


def run_environment(environment: Environment, launch: LaunchFile) -> RunEnvironment:
    """What a run on this machine uses, as it is now."""
    variables = inherited(os.environ)
    for rank in reversed(launch.ranks):
        variables |= rank.env  # rank 0's last: it stands for all
    return RunEnvironment(
        dlperf_version=__version__,
        git_commit=git_commit(),
        nodes=(this_node(),),
        python=environment.manifest.python_version,
        packages=environment.manifest.packages,
        variables=redacted(dict(sorted(variables.items()))),
        cpus={str(rank.rank): rank.cpus for rank in launch.ranks},
    )


@cache
def git_commit() -> str | None:
    """The commit of the checkout that dlperf runs from, `-dirty` appended where files differ."""
    root = shipped_root()
    if not (root / ".git").exists():
        return None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def this_node() -> Node:
    """This machine as it is now."""
    gpus = _gpus()
    return Node(
        host=socket.gethostname(),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        accelerators=tuple(name for name, _ in gpus),
        driver=gpus[0][1] if gpus else None,
        system=_system_name(),
        kernel=platform.release(),
        governor=governor(),
        turbo=turbo(),
        load=round(os.getloadavg()[0], 2),
    )


@cache
def _gpus() -> tuple[tuple[str, str], ...]:
    """Product name and driver version of each GPU."""
    listing = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    rows = (line.split(", ") for line in (listing or "").splitlines())
    return tuple((row[0], row[1]) for row in rows if len(row) == 2)  # noqa: PLR2004


@cache
def _cpu_model() -> str | None:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "cpu model"}:
            return " ".join(value.split())
    return platform.processor() or platform.machine() or None


def _memory_bytes() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


@cache
def _system_name() -> str | None:
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    return None


def governor() -> str | None:
    """The frequency governors of the CPUs that may be used, such as `performance`; None where hidden."""
    paths = (f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor" for cpu in os.sched_getaffinity(0))
    found = {line for path in paths for line in _lines(path)}
    return ", ".join(sorted(found)) or None


def turbo() -> bool | None:
    """Whether the CPU may exceed its nominal frequency; None where it does not say."""
    for path, on in (
        ("/sys/devices/system/cpu/intel_pstate/no_turbo", "0"),
        ("/sys/devices/system/cpu/cpufreq/boost", "1"),
    ):
        for line in _lines(path):
            return line == on
    return None


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def _output(*command: str) -> str | None:
    """What a tool prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
