"""PyTorch: one build for the CPU, one for CUDA 12.6 and one for CUDA 13.0."""

from dataclasses import replace
from typing import Final

from pydantic import Field

from dlperf.adapters.base import (
    FIRST_DRIVERS,
    TF32,
    CudaBuild,
    EnvironmentSpec,
    Launch,
    RankCommand,
    RankPlacement,
    data_refusal,
    require_known,
    runs_cuda_13,
    train_commands,
    version_refusal,
)
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu, version_key

_VERSIONS = ("2.13.0",)
_OLDEST = (2, 9)  # of wheels, indexes and interpreters of the user's; frameworks/pytorch checks it too
_NUMPY = "numpy==2.4.6"
_DATA_FORM: Final = "recordio"
_DECODER = "opencv-python-headless==4.13.0.92"  # of JPEGs of a data set; MXNet and OneFlow have OpenCV within
# By uv's name of the backend; capabilities of cu126 as in PyTorch's RELEASE.md, "CUDA Support Matrix".
_CUDA_BUILDS = {
    "cu126": CudaBuild(
        toolkit="12.6",
        capabilities=("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0"),
        driver=FIRST_DRIVERS["12"],
    ),
    "cu130": CudaBuild(
        toolkit="13.0",
        capabilities=("7.5", "8.0", "8.6", "9.0", "10.0", "12.0"),
        driver=FIRST_DRIVERS["13"],
    ),
}
_ON_PYPI = "cu130"
_CUDA_13_ALONE = (10, 0)  # no code for these GPUs in the other

_IMPORT_CHECK = "import numpy, torch; print(torch.__version__)"
_CUDA_IMPORT_CHECK = """\
import numpy, torch
assert torch.version.cuda, f"this build of PyTorch, {torch.__version__}, is not for CUDA"
print(torch.__version__)
"""
_BUILD_CHECK = """\
import torch
assert (torch.version.cuda or "").startswith("{toolkit}"), (
    f"this build of PyTorch is for CUDA {{torch.version.cuda}}, not {toolkit}"
)
"""
_GPU_CHECK = """\
import torch
for device in range(torch.cuda.device_count() or 1):
    assert torch.ones(8, device=f"cuda:{device}").add(1).sum().item() == 16
"""


class PyTorchOptions(Model):
    """What a sweep may set under `options: {pytorch: ...}`; what is left out follows the device."""

    channels_last: bool | None = Field(
        default=None,
        description="Keep images and maps in NHWC order. If left out, off for cuda in fp32, else on.",
    )
    compile: bool | None = Field(
        default=None,
        description="Run under torch.compile. If left out, off for cpu, on for cuda from capability 7.0 on.",
    )
    cuda_graphs: bool | None = Field(
        default=None,
        description="With compile on cuda: replay a step's kernels as CUDA graphs. Off if left out.",
    )
    tf32: bool = TF32


class PyTorchAdapter:
    """frameworks/pytorch."""

    name = "pytorch"
    title = "PyTorch"
    source = None
    # torch.compile builds with CC and CXX.
    inherited_variables = ("TORCH_*", "TORCHINDUCTOR_*", "PYTORCH_*", "TRITON_*", "CC", "CXX")
    alignable = True
    versions = _VERSIONS
    options = PyTorchOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """PyTorch and numpy, on cuda in the build for `gpu`; ValueError for a version that is not known."""
        del parallel  # torch.distributed is in the wheel
        require_known(self.name, version, _VERSIONS)
        backend = "cpu" if device == "cpu" else _backend(gpu)
        spec = EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.11", "3.12", "3.13"),
            requirements=(f"torch=={version}", _NUMPY, _DECODER),
            torch_backend=backend,
            import_check=_IMPORT_CHECK,
            notes="about 260 MB to download",
        )
        if device == "cpu":
            return spec
        build = _CUDA_BUILDS[backend]
        return replace(
            spec,
            torch_on_pypi=backend == _ON_PYPI,
            import_check=_CUDA_IMPORT_CHECK,
            build_check=_BUILD_CHECK.format(toolkit=build.toolkit),
            gpu_check=_GPU_CHECK,
            cuda=build,
            notes=f"about 2.5 GB to download, with the libraries of CUDA {build.toolkit}",
        )

    def unsupported(self, case: Case) -> str | None:
        """What the engine refuses, and versions that lack what the programs call."""
        if too_old := version_refusal(case.version, title=self.title, oldest=_OLDEST):
            return too_old
        if case.batch_size_per_device == 1 and case.workload.batch_norm == "batch":
            return (
                "PyTorch's BatchNorm refuses to train on one value a channel: the embedding of a batch of 1"
            )
        return data_refusal(case, _DATA_FORM)

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per rank."""
        return train_commands(launch, self.name, _variables, form=_DATA_FORM)


def _variables(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    variables = _communication(launch, placement)
    if launch.case.device == "cuda":
        # At 1 in the user's environment it would override what the program sets.
        tf32 = PyTorchOptions.model_validate(launch.case.options).tf32
        variables["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1" if tf32 else "0"
    return variables


def _backend(gpu: Gpu | None) -> str:
    """The build for a GPU; where too little is known, the one for more drivers and older GPUs."""
    needs_it = gpu is not None and version_key(gpu.capability) >= _CUDA_13_ALONE
    return "cu130" if needs_it or runs_cuda_13(gpu) else "cu126"


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
