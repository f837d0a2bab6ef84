"""PyTorch: from PyPI's wheels, one for the CPU and one for CUDA."""

from pydantic import Field

from dlperf.adapters.base import EnvironmentSpec, Launch, RankCommand, RankPlacement, train_commands
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

_VERSIONS = ("2.13.0",)
_NUMPY = "numpy==2.4.6"


class PyTorchOptions(Model):
    """What a sweep may set under `options: {pytorch: ...}`; what is left out follows the device."""

    channels_last: bool | None = Field(
        default=None,
        description="Keep images and maps in NHWC order. If left out, off for cuda in fp32, else on.",
    )
    compile: bool | None = Field(
        default=None, description="Run under torch.compile. Off for cpu, on for cuda, if left out."
    )
    cuda_graphs: bool | None = Field(
        default=None,
        description="With compile on cuda: replay a step's kernels as CUDA graphs. Off if left out.",
    )
    tf32: bool = Field(
        default=False, description="Let CUDA compute float32 products in TF32; off, fp32 is IEEE float32."
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
        gpu: Gpu | None = None,  # noqa: ARG002
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
        """What the engine refuses."""
        if case.batch_size_per_device == 1 and case.workload.batch_norm == "batch":
            return (
                "PyTorch's BatchNorm refuses to train on one value a channel: the embedding of a batch of 1"
            )
        return None

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per rank."""
        return train_commands(launch, self.name, _variables)


def _variables(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    variables = _communication(launch, placement)
    if launch.case.device == "cuda":
        # At 1 in the user's environment it would override what the program sets.
        tf32 = PyTorchOptions.model_validate(launch.case.options).tf32
        variables["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1" if tf32 else "0"
    return variables


def _communication(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    """The interface that the ranks speak over; the time limits stand in the program.

    Left alone gloo takes the one that the host's name resolves to, which may be none.
    """
    topology = launch.case.topology
    if topology.world_size == 1:
        return {}
    interface = placement.interface or ("lo" if topology.nodes == 1 else None)
    if launch.case.device == "cpu":
        return {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    return {"NCCL_SOCKET_IFNAME": placement.interface} if placement.interface else {}


ADAPTER = PyTorchAdapter()
