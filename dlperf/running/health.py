"""Checks of this machine before a sweep: one result per check, with the next step if it is not ok."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dlperf.adapters.base import Adapter
from dlperf.environments.environment import environments_root
from dlperf.environments.uv import find_uv
from dlperf.errors import EnvironmentUnavailable, InfrastructureError
from dlperf.files import run_shipped
from dlperf.plan.compatibility import refusal
from dlperf.plan.machine import Machine, detect_machine
from dlperf.running.launch import misspelt, physical_cores
from dlperf.running.run_folder import AnotherDlperf, whole_machine
from dlperf.running.transports.local import this_machine_busy, this_node
from dlperf.wording import plural

# Version 1 writes a huge number for "no limit" (2^63 rounded to pages).
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """The tightest limits; None is no limit."""

    cpus: float | None  # CPU seconds per second
    memory_bytes: int | None


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """The cgroup limits of this process; `root` is the folder with /proc and /sys."""
    cpus, memory = [], []
    for folder in _groups(root):
        cpus += [quota for quota in (_cpus_2(folder), _cpus_1(folder)) if quota is not None]
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and limit < _NO_LIMIT_BYTES:
                memory.append(limit)
    return CgroupLimits(cpus=min(cpus, default=None), memory_bytes=min(memory, default=None))


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups of this process and of all above them."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for top in [mount / name for name in controllers.split(",")] if controllers else [mount]:
            folder = top / path.lstrip("/")
            while folder.is_relative_to(top):
                yield folder
                if folder == top:
                    break
                folder = folder.parent


def _cpus_2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":  # noqa: PLR2004  quota and period
        return None
    return int(words[0]) / int(words[1])


def _cpus_1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path))
    return None


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip()
    return ""


# Load per CPU: less is the background of a desktop, more is somebody's work.
_QUIET_LOAD = 0.25
_LITTLE_MEMORY_BYTES = 4 << 30
# A framework for CPU takes up to 3 GB, one for NVIDIA GPUs up to 8 GB.
_ENVIRONMENTS_BYTES = 10 << 30
_RESULTS_BYTES = 1 << 30
# Reading these takes nanoseconds; others ask a device, which takes microseconds.
_FAST_CLOCKS = frozenset({"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"})
_CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_TOOL_SECONDS = 120


class Level(StrEnum):
    """How serious the result of a check is."""

    OK = "ok"
    UNKNOWN = "unknown"  # could not be read
    WARNING = "warning"  # figures may suffer
    BAD = "bad"  # nothing will run


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthIssue:
    """The result of a check, on one line; if it is not ok, the text says what to do."""

    check: str
    level: Level
    text: str


def check_machine(results: Path, *, adapters: Mapping[str, Adapter]) -> Iterator[HealthIssue]:
    """All checks of this machine, for results in the folder `results`, which need not exist yet."""
    limits = cgroup_limits()
    cores = len(os.sched_getaffinity(0))
    yield check_cores(cores, on_machine=os.cpu_count() or cores, physical=len(set(physical_cores().values())))
    yield check_cpu_quota(cores, limits)
    yield check_load(os.getloadavg()[0], cores=cores)
    node = this_node()
    yield check_frequency(governor=node.governor, turbo=node.turbo)
    yield check_memory(_available_memory(), limits)
    yield check_disk("disk for results", results, needed=_RESULTS_BYTES)
    yield check_disk("disk for environments", environments_root(), needed=_ENVIRONMENTS_BYTES)
    yield check_clock(_CLOCK.read_text().strip() if _CLOCK.exists() else None)
    yield check_uv()
    machine = detect_machine()
    yield from check_gpus(machine)
    yield from check_builds(machine, adapters)
    yield check_variables(os.environ)
    yield check_other_dlperf()


def _ok(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.OK, text=text)


def _unknown(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.UNKNOWN, text=text)


def _warning(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.WARNING, text=text)


def _bad(check: str, text: str) -> HealthIssue:
    return HealthIssue(check=check, level=Level.BAD, text=text)


def check_cores(cores: int, *, on_machine: int, physical: int) -> HealthIssue:
    """How many CPUs may be used, on how many cores."""
    return _ok("cores", f"{cores} of {on_machine} CPUs available, on {plural(physical, 'physical core')}")


def check_cpu_quota(cores: int, limits: CgroupLimits) -> HealthIssue:
    """A quota below the number of CPUs pauses threads in each period, which no figure shows."""
    if limits.cpus is None or limits.cpus >= cores:
        return _ok("CPU quota", "no control group limits CPU time")
    text = (
        f"a control group limits CPU time to {limits.cpus:g} of {cores} CPUs, so ranks are throttled; "
        "raise the limit, or bind dlperf to fewer CPUs with taskset"
    )
    return _warning("CPU quota", text)


def check_load(load: float, *, cores: int) -> HealthIssue:
    """Other work on the machine distorts the figures."""
    text = f"load average {load:.1f} on {cores} CPUs"
    if load > _QUIET_LOAD * cores:
        return _warning("load", f"{text}; other work now takes {this_machine_busy()}: stop it first")
    return _ok("load", text)


def check_frequency(*, governor: str | None, turbo: bool | None) -> HealthIssue:
    """A varying frequency gives varying figures."""
    if governor is None:
        return _unknown("frequency", "this machine does not show the CPU frequency governor; its host may")
    extra = "" if turbo is None else f", turbo {'on' if turbo else 'off'}"
    if governor != "performance":
        text = f"governor {governor}{extra}: set it with `cpupower frequency-set -g performance`"
        return _warning("frequency", text)
    return _ok("frequency", f"governor performance{extra}")


def check_memory(available: int, limits: CgroupLimits) -> HealthIssue:
    """How much memory a run may take before something is killed; `available` in bytes."""
    usable, text = available, f"{_gib(available)} available"
    if limits.memory_bytes is not None:
        usable = min(available, limits.memory_bytes)
        text += f", limited to {_gib(limits.memory_bytes)} by a control group"
    if usable < _LITTLE_MEMORY_BYTES:
        return _warning("memory", f"{text}: only small batches will fit")
    return _ok("memory", text)


def check_disk(check: str, folder: Path, *, needed: int) -> HealthIssue:
    """Free space and write permission in `folder`, or in the nearest existing folder above it."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return _bad(check, f"{existing} is not writable: choose another folder")
    free = shutil.disk_usage(existing).free
    text = f"{_gib(free)} free in {existing}"
    if free < needed:
        return _warning(check, f"{text}, up to {_gib(needed)} needed: free some")
    return _ok(check, text)


def check_clock(source: str | None) -> HealthIssue:
    """Iterations are timed with the monotonic clock."""
    if source is None:
        return _unknown("clock", "this machine does not show its clock source")
    if source not in _FAST_CLOCKS:
        return _warning("clock", f"clock source {source} is slow to read")
    return _ok("clock", f"clock source {source}")


def check_uv() -> HealthIssue:
    """Environments are created with uv."""
    try:
        uv = find_uv(lambda _text: None)
    except EnvironmentUnavailable as error:
        return _bad("uv", str(error))
    return _ok("uv", f"{uv.version} ({uv.path})")


def check_gpus(machine: Machine) -> Iterator[HealthIssue]:
    """The devices that CUDA shows on this machine, and other processes on them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not machine.gpus and shutil.which("nvidia-smi") is None:
        yield _ok("GPUs", "no NVIDIA GPU")
    elif not machine.gpus and chosen is not None:
        yield _warning("GPUs", f"CUDA_VISIBLE_DEVICES={chosen} names no GPU of this machine: correct it")
    elif not machine.gpus:
        yield _warning("GPUs", f"nvidia-smi is installed, but CUDA has no GPU; it says: {_driver_answer()}")
    else:
        names = ", ".join(gpu.name for gpu in machine.gpus)
        for gpu in machine.gpus:
            errors = [text for text in (gpu.name, gpu.uuid or "") if text.startswith(("[", "ERR!"))]
            if errors:
                remedy = "reset it, or leave it out with CUDA_VISIBLE_DEVICES"
                yield _warning("GPUs", f"of GPU {gpu.index} nvidia-smi says {errors[0]}: {remedy}")
        yield _ok("GPUs", f"{names}; driver {machine.gpus[0].driver or 'unknown'}")
        users = _gpu_users()
        if any(gpu.mig for gpu in machine.gpus):
            yield _unknown("GPU use", "an instance of a GPU (MIG) does not show who uses it")
        elif users:
            yield _warning("GPU use", f"used by {', '.join(users)}: stop them first")
        else:
            yield _ok("GPU use", "no other process uses the GPUs")


def check_builds(machine: Machine, adapters: Mapping[str, Adapter]) -> Iterator[HealthIssue]:
    """Which frameworks, in their default version, can run on all GPUs of this machine."""
    if machine.gpu is None:
        return
    for adapter in adapters.values():
        version, check = adapter.versions[0], f"{adapter.name} on GPUs"
        try:
            spec = adapter.environment(version, "cuda", gpu=machine.gpu)
        except ValueError as error:
            yield _warning(check, str(error))
            continue
        reason = refusal(spec, machine.gpus, adapter=adapter)
        if reason is not None:
            yield _warning(check, reason)
        elif spec.cuda is not None and machine.gpu.capability is not None:
            yield _ok(check, f"{version} in its build for CUDA {spec.cuda.toolkit}")
        else:
            yield _unknown(check, f"{version}; which GPUs its build can run on is not known")


def check_variables(environment: Mapping[str, str]) -> HealthIssue:
    """Tuning variables that no engine reads because of a typo in the name."""
    wrong = [f"{name} (did you mean {prefix}...?)" for name, prefix in misspelt(environment).items()]
    if wrong:
        return _warning("variables", f"no engine reads {', '.join(wrong)}")
    return _ok("variables", "no misspelt engine variable")


def check_other_dlperf() -> HealthIssue:
    """Two sweeps at once would disturb each other."""
    try:
        with whole_machine(wait=False, say=lambda _text: None):
            return _ok("other dlperf", "no other dlperf is measuring on this machine")
    except AnotherDlperf as error:
        return _warning("other dlperf", f"{error.text}; `dlperf run` waits until it ends")
    except InfrastructureError as error:  # no run could start without the lock
        return _bad("other dlperf", str(error))


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _driver_answer() -> str:
    """What nvidia-smi says of the GPUs, in one line."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return " ".join(f"{done.stdout} {done.stderr}".split()) or "nothing"


def _gpu_users() -> list[str]:
    answer = run_shipped("frameworks.node.gpus", "users", seconds=_TOOL_SECONDS, what="nvidia-smi")
    return [f"process {user}" for user in json.loads(answer)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
