"""JAX: one build for the CPU, one for CUDA 12 and one for CUDA 13."""

from dataclasses import replace
from typing import Final

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
from dlperf.plan.machine import Gpu

_VERSIONS = ("0.10.2", "0.9.2")
_OLDEST = (0, 9)  # of wheels, indexes and interpreters of the user's; frameworks/jax checks it too
_PINS = ("ml-dtypes==0.6.0", "numpy==2.4.6", "opt-einsum==3.4.0", "scipy==1.17.1")
_DATA_FORM: Final = "recordio"
_DECODER = "opencv-python-headless==4.13.0.92"  # of JPEGs of a data set; MXNet and OneFlow have OpenCV within
# XLA compiles a step's kernels for the GPU that it finds. The capabilities are those of JAX's own kernels, of
# which the CUDA 12 build has machine code from 5.0 on; JAX asks for 5.2 there and for 7.5 with CUDA 13.
_CUDA_BUILDS = {
    "12": CudaBuild(
        toolkit="12.9",
        capabilities=("6.0", "7.0", "8.0", "9.0", "10.0", "12.0"),
        ptx="12.0",
        driver=FIRST_DRIVERS["12"],
    ),
    "13": CudaBuild(
        toolkit="13",
        capabilities=("7.5", "8.0", "9.0", "10.0", "11.0", "12.0"),
        ptx="12.0",
        driver=FIRST_DRIVERS["13"],
    ),
}
# What jax[cuda12] and jax[cuda13] leave open. cuDNN 9.10 is the last with code for GPUs before 7.5.
_CUDA_LIBRARIES = {
    "12": (
        "nvidia-cublas-cu12==12.9.3.13",
        "nvidia-cuda-cccl-cu12==12.9.27",
        "nvidia-cuda-cupti-cu12==12.9.79",
        "nvidia-cuda-nvcc-cu12==12.9.86",
        "nvidia-cuda-nvrtc-cu12==12.9.86",
        "nvidia-cuda-runtime-cu12==12.9.79",
        "nvidia-cudnn-cu12==9.10.2.21",
        "nvidia-cufft-cu12==11.4.1.4",
        "nvidia-cusolver-cu12==11.7.5.82",
        "nvidia-cusparse-cu12==12.5.10.65",
        "nvidia-nccl-cu12==2.32.3",
        "nvidia-nvjitlink-cu12==12.9.86",
        "nvidia-nvshmem-cu12==3.8.0",
    ),
    "13": (
        "nvidia-cublas==13.10.0.20",
        "nvidia-cuda-cccl==13.3.5.0.6",
        "nvidia-cuda-crt==13.5.37",
        "nvidia-cuda-cupti==13.5.25",
        "nvidia-cuda-nvcc==13.5.37",
        "nvidia-cuda-nvrtc==13.5.37",
        "nvidia-cuda-runtime==13.5.37",
        "nvidia-cudnn-cu13==9.28.1.4",
        "nvidia-cufft==12.5.0.14",
        "nvidia-cusolver==12.4.1.2",
        "nvidia-cusparse==12.9.4.2",
        "nvidia-nccl-cu13==2.32.3",
        "nvidia-nvjitlink==13.5.37",
        "nvidia-nvshmem-cu13==3.8.0",
        "nvidia-nvvm==13.5.37",
    ),
}

_IMPORT_CHECK = "import jax.numpy, jaxlib; print(jax.__version__)"
_BUILD_CHECK = """\
import importlib.util
assert importlib.util.find_spec("jax_cuda{major}_plugin"), "JAX's plugin for CUDA {major} is not installed"
"""
_GPU_CHECK = """\
import jax
for device in jax.devices("cuda"):
    assert jax.device_put(8.0, device) + 8 == 16
"""


class JAXOptions(Model):
    """What a sweep may set under `options: {jax: ...}`."""

    tf32: bool = TF32


class JAXAdapter:
    """frameworks/jax."""

    name = "jax"
    title = "JAX"
    source = None
    inherited_variables = ("JAX_*", "XLA_*")
    alignable = True
    versions = _VERSIONS
    options = JAXOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """JAX and numpy, on cuda in the build for `gpu`; ValueError for a version that is not known."""
        del parallel  # jax.distributed is in the wheel
        require_known(self.name, version, _VERSIONS)
        spec = EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=("3.11", "3.12", "3.13"),
            requirements=(f"jax=={version}", f"jaxlib=={version}", *_PINS, _DECODER),
            import_check=_IMPORT_CHECK,
            notes="about 200 MB to download",
        )
        if device == "cpu":
            return spec
        major = "13" if runs_cuda_13(gpu) else "12"  # which has code for more GPUs, and runs on more drivers
        first, *others = spec.requirements
        return replace(
            spec,
            requirements=(first.replace("jax", f"jax[cuda{major}]", 1), *others, *_CUDA_LIBRARIES[major]),
            build_check=_BUILD_CHECK.format(major=major),
            gpu_check=_GPU_CHECK,
            cuda=_CUDA_BUILDS[major],
            notes=f"about 2.5 GB to download, with the libraries of CUDA {major}",
        )

    def unsupported(self, case: Case) -> str | None:
        """Versions that lack what the programs call, and data sets that they cannot read."""
        too_old = version_refusal(case.version, title=self.title, oldest=_OLDEST)
        return too_old or data_refusal(case, _DATA_FORM)

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per rank."""
        return train_commands(launch, self.name, _variables, form=_DATA_FORM)


def _variables(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    """What JAX reads of the environment; frameworks/jax/settings.py sets the rest by calls."""
    variables = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # one of the user's would save memory in some runs
    if launch.case.device == "cuda":
        # Take memory as it is needed, so that what the process holds at the end is its peak, and up to nearly
        # all: by default three quarters of the device are taken at the start.
        variables |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"}
        if placement.interface:
            variables["NCCL_SOCKET_IFNAME"] = placement.interface
    return variables


ADAPTER = JAXAdapter()
