"""OneFlow: one nn.Graph over all devices. docs/engines/oneflow.md says what a user should know."""

from typing import Final, Literal

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
    train_commands,
)
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

# Version -> the CPythons whose wheel was seen to train, best first.
_PYTHONS = {"0.9.0": ("3.10", "3.9", "3.8"), "0.8.0": ("3.8",)}
_DATA_FORM: Final = "ofrecord"
_STUBS = ("0.7.0", "0.6.0")

# OneFlow names lower bounds alone. Its generated code needs this protobuf; the rest is new, and runs on 3.8.
_PINS = (
    "protobuf==3.20.3",
    "certifi==2024.8.30",
    "charset-normalizer==3.4.0",
    "idna==3.10",
    "markdown-it-py==3.0.0",
    "mdurl==0.1.2",
    "pillow==10.4.0",
    "pygments==2.18.0",
    "requests==2.32.3",
    "rich==13.9.4",
    "tqdm==4.67.1",
    "typing-extensions==4.12.2",
    "urllib3==2.2.3",
)
# The newest that every Python of the version has, and that the version bears.
_NUMPY = {"0.9.0": "numpy==1.24.4", "0.8.0": "numpy==1.23.5"}
# The wheel of 0.9.0 links both, on the CPU too, and finds them by its own run path. 0.8.0 brings cuDNN 7.
_CUDA_LIBRARIES = {"0.9.0": ("nvidia-cudnn-cu11==8.5.0.96", "nvidia-cublas-cu11==11.10.3.66"), "0.8.0": ()}
# Of liboneflow in the wheels. On a GPU that it has no code for the engine warns, and may hang. 0.8.0 itself
# has PTX of 7.5, but its cuDNN 7.6 has none for many kernels.
_CUDA_BUILDS = {
    "0.9.0": CudaBuild(
        toolkit="11.7",
        capabilities=("6.0", "6.1", "7.0", "7.5", "8.0", "8.6"),
        driver=FIRST_DRIVERS["11"],
    ),
    "0.8.0": CudaBuild(
        toolkit="10.2", capabilities=("6.0", "6.1", "7.0", "7.5"), driver=FIRST_DRIVERS["10.2"]
    ),
}
_NOTES = {
    "0.9.0": "about 2.1 GB to download: the wheel (965 MB) needs cuDNN and cuBLAS (1.2 GB) on CPU too",
    "0.8.0": "about 850 MB to download; the one wheel serves CPU and CUDA",
}

_GPU_CHECK = """\
import oneflow
assert oneflow.ones(8, device="cuda").add(1).sum().item() == 16
"""

# What the engine says where a case of this precision is trained on the CPU.
_CPU_REFUSALS = {
    "fp16": "its CPU operators have no fp16 kernels, and enable_amp silently trains in fp32",
    "bf16": "its CPU operators have no bf16 kernels, and enable_amp silently trains in fp32",
}


# As frameworks/common/case.py has it; OneFlow's own is two hours.
_COLLECTIVE_SECONDS = 120


class OneFlowOptions(Model):
    """What a sweep may set under `options: {oneflow: ...}`."""

    openblas_core: Literal["best", "detected"] = Field(
        default="best",
        description="Kernels of OneFlow's own OpenBLAS on cpu: the best that the processor can run, or those "
        "that this old OpenBLAS detects, which for newer processors are less than half as fast.",
    )
    tf32: bool = TF32


class OneFlowAdapter:
    """The adapter for OneFlow 0.8 and 0.9."""

    name = "oneflow"
    title = "OneFlow"
    source = None
    inherited_variables = ("ONEFLOW_*",)
    alignable = True
    versions = tuple(_PYTHONS)
    options = OneFlowOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """What must be installed, the same in every case; ValueError where `version` cannot run."""
        del parallel, gpu
        if version in _STUBS:
            raise ValueError(
                f"oneflow {version} on PyPI is a stub without the library; "
                f"known versions: {', '.join(_PYTHONS)}"
            )
        require_known(self.name, version, _PYTHONS)
        return EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=_PYTHONS[version],
            requirements=(f"oneflow=={version}", _NUMPY[version], *_PINS, *_CUDA_LIBRARIES[version]),
            import_check="import oneflow; oneflow.ones(1).numpy(); print(oneflow.__version__)",
            gpu_check=_GPU_CHECK if device == "cuda" else None,
            cuda=None if device == "cpu" else _CUDA_BUILDS[version],
            notes=_NOTES[version],
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        if case.device == "cpu" and case.precision in _CPU_REFUSALS:
            return f"OneFlow trains fp32 alone on CPU: {_CPU_REFUSALS[case.precision]}"
        if case.version.partition("+")[0] == "0.8.0" and case.precision == "bf16":
            return "OneFlow 0.8.0 has mixed precision in fp16 alone; bf16 came with 0.9.0"
        if case.gradient_dtype != "float32":
            return (
                "OneFlow's graph adds up the gradients of float32 parameters in float32; leave out "
                f"gradient_dtype: {case.gradient_dtype}"
            )
        devices = case.topology.world_size
        aligned = -(-case.num_classes // devices) * devices
        if case.device == "cuda" and case.parallelism == "partial_fc" and case.num_classes != aligned:
            return (
                "OneFlow's sampler of Partial FC maps labels wrongly where devices hold different numbers of "
                f"classes; take a num_classes that {devices} divides, such as {aligned}"
            )
        return data_refusal(case, _DATA_FORM)

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per rank."""
        return train_commands(launch, self.name, _variables, form=_DATA_FORM)


def _variables(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    options = OneFlowOptions.model_validate(launch.case.options)
    return {
        **(_meeting(launch, placement) if launch.case.topology.world_size > 1 else {}),
        "DLPERF_ONEFLOW_OPENBLAS_CORE": options.openblas_core,  # frameworks/oneflow/__init__.py
        "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION": "1" if options.tf32 else "0",
        # OneFlow's defaults: products of 16 bits are added up in float32.
        "ONEFLOW_MATMUL_ALLOW_HALF_PRECISION_ACCUMULATION": "0",
        "ONEFLOW_CONV_ALLOW_HALF_PRECISION_ACCUMULATION": "0",
        "GLOG_logtostderr": "1",  # else OneFlow makes a folder `log` where it runs
        "GLOG_minloglevel": "1",  # warnings, such as of a GPU that the wheel has no code for
    }


def _meeting(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    """How OneFlow finds the other ranks, when it is imported, and how long it waits for one."""
    return {
        "MASTER_ADDR": placement.master_address,
        "MASTER_PORT": str(placement.master_port),
        "WORLD_SIZE": str(launch.case.topology.world_size),
        "RANK": str(placement.rank),
        "LOCAL_RANK": str(placement.local_rank),
        "ONEFLOW_TIMEOUT_SECONDS": str(_COLLECTIVE_SECONDS),
        **({"NCCL_SOCKET_IFNAME": placement.interface} if placement.interface else {}),
    }


ADAPTER = OneFlowAdapter()
