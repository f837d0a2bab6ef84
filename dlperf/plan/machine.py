"""The machine that dlperf runs on, as far as a plan depends on it."""

import os
import subprocess
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveInt

from dlperf.model import Model
from dlperf.plan.case import DeviceKind

_NVIDIA_SMI_SECONDS = 20
# Of the container's own group: "QUOTA PERIOD" in microseconds, or "max".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Gpu(Model):
    """One device that CUDA can use: an NVIDIA GPU, or an instance of one (MIG). None: not known."""

    name: str
    capability: str | None = None  # compute capability, such as `9.0`
    driver: str | None = None  # version of the driver, such as `550.54.15`
    memory_bytes: int | None = None


def _capability(gpu: Gpu) -> tuple[int, ...]:
    """To sort by; () where it is not known."""
    return tuple(int(part) for part in gpu.capability.split(".")) if gpu.capability else ()


def _named(value: Any) -> Any:
    """Plans of earlier versions hold the names alone."""
    return {"name": value} if isinstance(value, str) else value


class Machine(Model):
    """Cores that this process may use, and the NVIDIA GPUs that CUDA would show to it, in CUDA's order."""

    cores: PositiveInt
    gpus: tuple[Annotated[Gpu, BeforeValidator(_named)], ...] = ()

    @property
    def device(self) -> DeviceKind:
        """What `device: auto` means here."""
        return "cuda" if self.gpus else "cpu"

    @property
    def gpu(self) -> Gpu | None:
        """What a build must run on: the GPU of the lowest compute capability; None without a GPU."""
        return min(self.gpus, key=_capability, default=None)

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0].name}" if self.gpus else "no NVIDIA GPU"
        return f"{self.cores} CPU core{'s' if self.cores > 1 else ''}, {gpus}"


def detect_machine() -> Machine:
    """Look at this machine: the cores of the affinity mask that the quota fills, the GPUs of nvidia-smi."""
    try:
        gpus = tuple(_ask_nvidia_smi("--query-gpu=name", "--format=csv,noheader"))
    except (OSError, subprocess.SubprocessError):
        gpus = ()  # no driver, or one that does not answer: nothing could train on it
    return Machine(cores=_cores(), gpus=tuple(Gpu(name=name) for name in _visible(gpus)))


def _cores() -> int:
    """A container may see all cores of its host and get the time of a few; more threads would only wait."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def gpu_memory_bytes() -> int | None:
    """Memory of the smallest GPU of this machine; None where there is none, or the driver does not say."""
    try:
        sizes = _ask_nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits")
        return min((int(mebibytes) << 20 for mebibytes in sizes), default=None)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _ask_nvidia_smi(*options: str) -> list[str]:
    """Its answer, one line per GPU."""
    done = subprocess.run(
        ["nvidia-smi", *options], capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _visible(gpus: tuple[str, ...]) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES leaves of them; CUDA stops reading the list at the first -1."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    wanted = [item.strip() for item in listed.split(",")]
    wanted = wanted[: wanted.index("-1")] if "-1" in wanted else [item for item in wanted if item]
    return gpus[: len(wanted)]
