"""The machine that dlperf runs on, as far as a plan depends on it."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveInt

from dlperf.files import run_shipped
from dlperf.model import Model
from dlperf.plan.case import DeviceKind
from dlperf.wording import plural

_GPUS_SECONDS = 120.0  # a driver in trouble answers late, or not at all
# Of the container's own group: "QUOTA PERIOD" in microseconds, or "max".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Gpu(Model):
    """One device that CUDA can use: an NVIDIA GPU, or an instance of one (MIG). None: not known."""

    name: str
    """Model name, as nvidia-smi says it."""
    capability: str | None = None
    """Compute capability, such as `9.0`; null: not known."""
    driver: str | None = None
    """Version of the driver, such as `550.54.15`; null: not known."""
    memory_bytes: int | None = None
    """Memory in bytes; null: not known."""
    uuid: str | None = None
    """The device's own UUID; null: not known."""
    index: int | None = None
    """Number of the GPU, as nvidia-smi counts from 0; null: not known."""
    mig: bool = False
    """Whether it is an instance of a GPU (MIG), which has no way to any other device."""


def version_key(version: str | None) -> tuple[int, ...]:
    """To compare capabilities and drivers, such as `9.0` and `550.54.15`; () where it is not known."""
    return tuple(int(part) for part in version.split(".")) if version else ()


def _named(value: Any) -> Any:
    """Plans of earlier versions hold the names alone."""
    return {"name": value} if isinstance(value, str) else value


def least_of(gpus: Sequence[Gpu]) -> Gpu | None:
    """What a build must run on to run on all of them: of everything the least, as far as it is known."""
    if not gpus:
        return None
    known = sorted((gpu for gpu in gpus if gpu.capability), key=lambda gpu: version_key(gpu.capability))
    drivers = sorted((gpu.driver for gpu in gpus if gpu.driver), key=version_key)
    return Gpu(
        name=(known or gpus)[0].name,
        capability=known[0].capability if known else None,
        driver=drivers[0] if drivers else None,
        memory_bytes=min((gpu.memory_bytes for gpu in gpus if gpu.memory_bytes), default=None),
    )


class Machine(Model):
    """Cores that this process may use, and the NVIDIA GPUs that CUDA would show to it, in CUDA's order."""

    cores: PositiveInt
    """CPU cores that ranks may use."""
    gpus: tuple[Annotated[Gpu, BeforeValidator(_named)], ...] = ()
    """The GPUs, in CUDA's order; empty: none."""

    @property
    def device(self) -> DeviceKind:
        """What `device: auto` means here."""
        return "cuda" if self.gpus else "cpu"

    @property
    def gpu(self) -> Gpu | None:
        """What a build must run on: the GPU of the lowest compute capability; None without a GPU."""
        return min(self.gpus, key=lambda gpu: version_key(gpu.capability), default=None)

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory of the smallest GPU; None without a GPU, or where it is not known."""
        sizes = [gpu.memory_bytes for gpu in self.gpus if gpu.memory_bytes is not None]
        return min(sizes) if sizes and len(sizes) == len(self.gpus) else None

    def __str__(self) -> str:
        names = [gpu.name for gpu in self.gpus]
        gpus = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        return f"{plural(self.cores, 'CPU core')}, {gpus or 'no NVIDIA GPU'}"


def detect_machine() -> Machine:
    """Look at this machine: the cores of the affinity mask that the quota fills, the GPUs that CUDA shows.

    InfrastructureError where the program that asks the driver fails.
    """
    return Machine(cores=_cores(), gpus=_gpus())


def _gpus() -> tuple[Gpu, ...]:
    """As every node of a cluster describes its own; no GPU without a driver that answers."""
    if shutil.which("nvidia-smi") is None:
        return ()
    answer = run_shipped("frameworks.node.gpus", seconds=_GPUS_SECONDS, what="nvidia-smi")
    return tuple(Gpu.model_validate(device) for device in json.loads(answer))


def _cores() -> int:
    """A container may see all cores of its host and get the time of a few; more threads would only wait."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
