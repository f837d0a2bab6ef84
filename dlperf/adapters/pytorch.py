"""PyTorch: from PyPI's wheels, one for the CPU and one for CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dlperf.adapters.base import EnvironmentSpec, RankCommand
from dlperf.adapters.common import rank_environment, train_argv
from dlperf.model import Model

if TYPE_CHECKING:
    from dlperf.adapters.base import Launch
    from dlperf.plan.case import Case, DeviceKind

_VERSIONS = ("2.13.0",)
_NUMPY = "numpy==2.4.6"


class PyTorchOptions(Model):
    """What a sweep may set under `options: {pytorch: ...}`; what is left out follows the device."""

    channels_last: bool | None = Field(
        default=None, description="Keep images and maps in NHWC order. On for cpu, off for cuda, if left out."
    )
    compile: bool | None = Field(
        default=None, description="Run under torch.compile. Off for cpu, on for cuda, if left out."
    )
    tf32: bool = Field(
        default=False, description="Let CUDA compute float32 products in TF32; off, fp32 means fp32."
    )


class PyTorchAdapter:
    """frameworks/pytorch."""

    name = "pytorch"
    title = "PyTorch"
    versions = _VERSIONS
    options = PyTorchOptions

    def environment(
        self,
        version: str,
        device: DeviceKind,
        *,
        parallel: bool = False,  # noqa: ARG002 - torch.distributed is in the wheel
    ) -> EnvironmentSpec:
        """PyTorch and numpy; ValueError with the known versions for another version."""
        if version not in _VERSIONS:
            raise ValueError(f"pytorch has no version {version!r} here; known: {', '.join(_VERSIONS)}")
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.11", "3.12", "3.13"),
            requirements=(f"torch=={version}", _NUMPY),
            torch_backend="cpu" if device == "cpu" else "auto",
            import_check="import numpy, torch; print(torch.__version__)",
            notes=(
                "about 200 MB to download"
                if device == "cpu"
                else "about 3 GB to download, CUDA libraries included; the CUDA version follows the driver"
            ),
        )

    def unsupported(self, case: Case) -> str | None:
        """What the program in frameworks/pytorch does not do, or the engine refuses."""
        if case.topology.world_size > 1:
            return "more than one device is not built yet for pytorch"
        if case.precision != "fp32":
            return f"precision {case.precision} is not built yet for pytorch"
        if case.parallelism != "data":
            return f"parallelism {case.parallelism} is not built yet for pytorch"
        if case.batch_size_per_device == 1:
            return (
                "PyTorch's BatchNorm refuses to train on one value a channel: the embedding of a batch of 1"
            )
        return None

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One process a place."""
        argv = train_argv(launch, self.name)
        return tuple(RankCommand(argv=argv, env=rank_environment(launch, place)) for place in launch.places)


ADAPTER = PyTorchAdapter()
