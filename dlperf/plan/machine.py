"""The machine that dlperf runs on, as far as a plan depends on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pydantic import PositiveInt

from dlperf.model import Model
from dlperf.plan.case import DeviceKind

_NVIDIA_SMI_SECONDS = 20
_QUOTA = Path(
    "/sys/fs/cgroup/cpu.max"
)  # of the container's own group: "QUOTA PERIOD" in microseconds, or "max"


class Machine(Model):
    """Cores that this process may use, and the NVIDIA GPUs by product name."""

    cores: PositiveInt
    gpus: tuple[str, ...] = ()

    @property
    def device(self) -> DeviceKind:
        """What `device: auto` means here."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus else "no NVIDIA GPU"
        return f"{self.cores} CPU core{'s' if self.cores > 1 else ''}, {gpus}"


def detect_machine() -> Machine:
    """Look at this machine: the cores of the affinity mask that the quota fills, the GPUs of nvidia-smi."""
    return Machine(cores=_cores(), gpus=_visible(_gpus()))


def _cores() -> int:
    """A container may see all cores of its host and get the time of a few; more threads would only wait."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _gpus() -> tuple[str, ...]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # no shell, fixed words
            command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # no driver, or one that does not answer: nothing could train on it
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def gpu_memory_bytes() -> int | None:
    """Memory of the smallest GPU of this machine; None where there is none, or the driver does not say."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # no shell, fixed words
            command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
        )
        return min((int(line) << 20 for line in done.stdout.split()), default=None)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _visible(gpus: tuple[str, ...]) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES leaves of them; CUDA stops reading the list at the first -1."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    wanted = [item.strip() for item in listed.split(",")]
    wanted = wanted[: wanted.index("-1")] if "-1" in wanted else [item for item in wanted if item]
    return gpus[: len(wanted)]
