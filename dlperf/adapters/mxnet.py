"""MXNet: hybridized Gluon, Horovod between processes. docs/engines/mxnet.md has what a user should know."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from dlperf.adapters.base import (
    FIRST_DRIVERS,
    CudaBuild,
    EnvironmentSpec,
    Launch,
    NvccUse,
    RankCommand,
    RankPlacement,
    SourceBuild,
    SourceEdit,
    data_refusal,
    require_known,
    train_commands,
)
from dlperf.model import Model
from dlperf.plan.case import Case, DeviceKind
from dlperf.plan.machine import Gpu

# Version -> the CPythons whose wheel was seen to train, best first.
_PYTHONS = {
    "1.9.1": ("3.10", "3.11", "3.9", "3.8"),
    "1.9.0": ("3.9", "3.8"),
    "1.8.0.post0": ("3.9", "3.8"),
}
_EVERY_PYTHON = tuple(f"3.{minor}" for minor in range(8, 15))  # that a build of the user's may be for
_DATA_FORM: Final = "recordio"
_TOO_OLD = ("1.7.0.post1", "1.6.0")  # wheels for CPython 3.7 and older

# MXNet names no upper bounds. It needs numpy.bool, which 1.24 dropped; the rest is the newest for Python 3.8.
_PINS = (
    "numpy==1.23.5",
    "requests==2.32.3",
    "certifi==2024.8.30",
    "charset-normalizer==3.4.0",
    "idna==3.10",
    "urllib3==2.2.3",
    "graphviz==0.8.4",
)

# The CUDA build links these libraries and brings none of them; libcuda.so.1 is the driver's.
_CUDA_DISTRIBUTION = "mxnet-cu112"  # every version has it, and links the same libraries
_CUDA_BUILD = CudaBuild(
    toolkit="11.2", capabilities=("5.0", "6.0", "7.0", "8.0", "8.6"), driver=FIRST_DRIVERS["11"]
)
_CUDA_LIBRARIES = {
    "cublas": "nvidia-cublas-cu11==11.11.3.6",
    "cuda_nvrtc": "nvidia-cuda-nvrtc-cu11==11.8.89",
    "cuda_runtime": "nvidia-cuda-runtime-cu11==11.8.89",
    "cudnn": "nvidia-cudnn-cu11==8.9.6.50",
    "cufft": "nvidia-cufft-cu11==10.9.0.58",
    "curand": "nvidia-curand-cu11==10.3.0.86",
    "cusolver": "nvidia-cusolver-cu11==11.4.1.48",
    "cusparse": "nvidia-cusparse-cu11==11.7.5.86",
    "nccl": "nvidia-nccl-cu11==2.21.5",
    "nvtx": "nvidia-nvtx-cu11==11.8.86",
}

# Horovod, which several processes need, is published as source alone. Gloo, which comes with it, brings them
# together, so that no MPI is needed.
_HOROVOD = "horovod==0.28.1"
_HOROVOD_PINS = ("cloudpickle==3.1.0", "packaging==24.2", "psutil==6.1.0", "pyyaml==6.0.2")
_HOROVOD_TOOLS = ("setuptools==69.5.1", "wheel==0.45.1", "cmake==3.31.10")
_HOROVOD_SETTINGS = {
    "HOROVOD_WITH_MXNET": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
}
# Horovod opens Gloo's connections of a set of processes at the address that the host's name stands for, often
# 127.0.0.1, and forgets the interface that it was told (HOROVOD_GLOO_IFACE).
_HOROVOD_EDIT = SourceEdit(
    file="horovod/common/gloo/gloo_context.cc",
    before="                                          const std::vector<int>& registered_ranks) {\n",
    after="                                          const std::vector<int>& registered_ranks) {\n"
    "  gloo_iface_ = global_context.gloo_iface_;\n",
)
# Of NCCL, header and library are those that MXNet has loaded, not the system's; HOROVOD_NCCL_HOME would come
# before the other two.
_NCCL = "{site_packages}/nvidia/nccl"
_HOROVOD_CUDA_SETTINGS = {
    "HOROVOD_GPU_OPERATIONS": "NCCL",
    "HOROVOD_NCCL_HOME": _NCCL,
    "HOROVOD_NCCL_INCLUDE": f"{_NCCL}/include",
    "HOROVOD_NCCL_LIB": f"{_NCCL}/lib",
    "HOROVOD_NCCL_LINK": "SHARED",
    "LD_LIBRARY_PATH": ":".join(f"{{site_packages}}/nvidia/{name}/lib" for name in _CUDA_LIBRARIES),
}
_COMPILED = "; Horovod is compiled"
_COMPILERS = dict.fromkeys(("g++", "make"), "Debian, Ubuntu: apt install g++ make")
_NVCC = NvccUse(cuda="11", package="cuda-toolkit-11-8", home="HOROVOD_CUDA_HOME")

# 1.8.0.post0 calls itself 1.8.0; its metadata has the whole version.
_IMPORT_CHECK = """\
import importlib.metadata
import mxnet
mxnet.nd.zeros(1, ctx=mxnet.cpu()).wait_to_read()
found = importlib.metadata.version("mxnet")
{parallel}print(found if found.startswith(mxnet.__version__) else mxnet.__version__)
"""
_HOROVOD_CHECK = """\
import horovod.mxnet
assert horovod.mxnet.gloo_built(), "Horovod was built without Gloo"
"""

# Without the driver's library MXNet for CUDA cannot be imported. The loader still tells whether anything else
# is missing.
_CUDA_IMPORT_CHECK = """\
import glob, importlib.metadata, importlib.util, os, re, subprocess, sys, sysconfig

def folder_of(package):
    found = importlib.util.find_spec(package)
    if found is None:
        sys.exit("No module named %r" % package)
    return os.path.dirname(found.origin)

def needed_by(library):
    folders = glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "*", "lib"))
    folders += [folder_of("mxnet"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join(folders))
    text = subprocess.check_output(["ldd", library], env=environment, universal_newlines=True)
    missing = set(re.findall(r"(\\S+) => not found", text)) - {{"libcuda.so.1"}}
    if missing:
        sys.exit("%s needs %s, which this environment lacks" % (library, ", ".join(sorted(missing))))
    return text

for library in glob.glob(os.path.join(folder_of("mxnet"), "libmxnet.so")):
    needed_by(library)
{parallel}packages = importlib.metadata.distributions()
found = [one.version for one in packages if re.match("mxnet([-_]cu[0-9]+)?$", one.metadata["Name"] or "")]
print(found[0] if found else "(no version)")
"""
_CUDA_HOROVOD_CHECK = """\
for library in glob.glob(os.path.join(folder_of("horovod"), "mxnet", "mpi_lib*.so")):
    if "libnccl.so.2" not in needed_by(library):
        sys.exit("Horovod was built without NCCL")
"""
_GPU_CHECK = """\
import mxnet
assert mxnet.nd.ones(8, ctx=mxnet.gpu()).sum().asscalar() == 8
"""
_GPU_HOROVOD_CHECK = """\
assert horovod.mxnet.nccl_built(), "Horovod was built without NCCL"
"""

# The loader reads LD_LIBRARY_PATH when a process starts, so the check starts another one.
_WITH_LIBRARIES = """\
import glob, os, subprocess, sys, sysconfig
libraries = glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "*", "lib"))
libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
environment = dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join(libraries))
code = subprocess.call([sys.executable, "-c", {check!r}], env=environment)
if code:
    sys.exit(code)
"""

_CPU_REFUSALS = {
    "fp16": "FP16 gemm on cpu not implemented!",
    "bf16": "could not create a primitive descriptor iterator",
}

# What InsightFace's Partial FC trainer sets (recognition/partial_fc/mxnet/train_memory.py), as far as MXNet
# and Horovod read it and it is not their default. None of it changes what is computed.
_UPSTREAM_TUNING = {
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD": "999",  # operators that the engine runs as one
    "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD": "25",
    "MXNET_OPTIMIZER_AGGREGATION_SIZE": "54",  # arrays that an operator updates
    "MXNET_GPU_COPY_NTHREADS": "1",
}
_UPSTREAM_HOROVOD_TUNING = {
    "HOROVOD_CYCLE_TIME": "0.1",  # milliseconds
    "HOROVOD_FUSION_THRESHOLD": "67108864",
    "HOROVOD_NUM_NCCL_STREAMS": "2",
}


class MXNetOptions(Model):
    """What a sweep may set under `options: {mxnet: ...}`."""

    prelu: Literal["convolution", "broadcast", "native"] | None = Field(
        default=None,
        description="How PReLU multiplies by the slope; left out, a convolution on cpu, a product on cuda. "
        "native is MXNet's own operator, whose gradient of the slope may be wrong.",
    )
    processes: Literal["per_device", "one"] | None = Field(
        default=None,
        description="One process per device, joined by Horovod, or one for all devices of the node, as in "
        "InsightFace's train.py and train_parall.py; left out, per_device.",
    )
    tf32: bool | None = Field(
        default=None,
        description="Let CUDA compute float32 products in TF32, as MXNet does by default; left out, off.",
    )
    tuning: Literal["upstream", "none"] | None = Field(
        default=None,
        description="The engine's environment variables: as InsightFace's trainer sets them, or as they are; "
        "left out, upstream on cuda. Variables of your own win.",
    )
    loss_scale: Annotated[float, Field(gt=0)] | Literal["dynamic"] | None = Field(
        default=None, description="With fp16: MXNet's dynamic loss scale, or one number; left out, dynamic."
    )


class MXNetAdapter:
    """The adapter for MXNet 1.8 and 1.9."""

    name = "mxnet"
    title = "MXNet"
    source = None
    inherited_variables = ("MXNET_*", "HOROVOD_*")
    alignable = True
    versions = tuple(_PYTHONS)
    options = MXNetOptions

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """What must be installed; ValueError with the known versions where `version` cannot run.

        For several devices Horovod comes with it, compiled on this machine.
        """
        del gpu  # one build serves all
        if version in _TOO_OLD:
            raise ValueError(
                f"mxnet {version} needs Python 3.7 and the training programs need 3.8; "
                f"known versions: {', '.join(_PYTHONS)}"
            )
        require_known(self.name, version, _PYTHONS)
        spec = EnvironmentSpec(
            framework=self.name,
            version=version,
            pythons=_PYTHONS[version],
            requirements=(f"mxnet=={version}", *_PINS, *(_HOROVOD_PINS if parallel else ())),
            import_check=_IMPORT_CHECK.format(parallel=_HOROVOD_CHECK if parallel else ""),
            builds=(_horovod(device),) if parallel else (),
            parallel=parallel,
            notes=f"about 250 MB{_COMPILED if parallel else ''}",
        )
        if device == "cpu":
            return spec
        gpu_check = _GPU_CHECK + (_HOROVOD_CHECK + _GPU_HOROVOD_CHECK if parallel else "")
        _, *others = spec.requirements
        return replace(
            spec,
            requirements=(f"{_CUDA_DISTRIBUTION}=={version}", *others, *_CUDA_LIBRARIES.values()),
            import_check=_CUDA_IMPORT_CHECK.format(parallel=_CUDA_HOROVOD_CHECK if parallel else ""),
            gpu_check=_WITH_LIBRARIES.format(check=gpu_check),
            cuda=_CUDA_BUILD,
            notes=f"about 2.4 GB to download, with the CUDA libraries{_COMPILED if parallel else ''}",
        )

    def unsupported(self, case: Case) -> str | None:
        """The reason why this case cannot run; None if it can."""
        if case.device == "cpu" and case.precision in _CPU_REFUSALS:
            return f"MXNet trains fp32 alone on CPU: {_CPU_REFUSALS[case.precision]}"
        if case.precision == "bf16":
            return "MXNet 1.x has no bfloat16 kernels for CUDA, only oneDNN's for the CPU"
        if _one_process(case) and case.topology.nodes > 1:
            return "one process drives the devices of one node alone; leave out the option processes: one"
        if _one_process(case) and case.precision == "fp16" and case.topology.world_size > 1:
            return (
                "MXNet's kvstore adds gradients up in the dtype of each weight, some in float16, some in "
                "float32; leave out the option processes: one"
            )
        return data_refusal(case, _DATA_FORM)

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per rank, or one that drives all devices."""
        commands = tuple(
            replace(command, defaults=_tuning(launch.case), paths=_search_paths(launch))
            for command in train_commands(launch, self.name, _variables, form=_DATA_FORM)
        )
        if not _one_process(launch.case):
            return commands
        devices = len(commands)
        variables = {**commands[0].env, "DLPERF_DEVICES": str(devices)}
        return (replace(commands[0], env=variables, devices=devices),)


def _one_process(case: Case) -> bool:
    return case.options.get("processes") == "one"


def _horovod(device: DeviceKind) -> SourceBuild:
    cuda = device == "cuda"
    return SourceBuild(
        requirement=_HOROVOD,
        tools=_HOROVOD_TOOLS,
        edits=(_HOROVOD_EDIT,),
        settings={**_HOROVOD_SETTINGS, **(_HOROVOD_CUDA_SETTINGS if cuda else {})},
        programs=_COMPILERS,
        nvcc=_NVCC if cuda else None,
        links={f"{_NCCL}/lib/libnccl.so": "libnccl.so.2"} if cuda else {},
    )


# MXNet's defaults, which variables of the user's would change: no float16 in place of float32 or in sums.
_CUDA_ARITHMETIC = {"MXNET_CUDA_TENSOR_OP_MATH_ALLOW_CONVERSION": "0", "MXNET_FC_TRUE_FP16": "0"}


def _variables(launch: Launch, _placement: RankPlacement) -> dict[str, str]:
    # One operator at a time, which has the case's threads to itself.
    return {"MXNET_CPU_WORKER_NTHREADS": "1", **(_CUDA_ARITHMETIC if launch.case.device == "cuda" else {})}


def _tuning(case: Case) -> dict[str, str]:
    if case.options.get("tuning", "upstream" if case.device == "cuda" else "none") == "none":
        return {}
    has_horovod = case.topology.world_size > 1 and not _one_process(case)
    return {**_UPSTREAM_TUNING, **(_UPSTREAM_HOROVOD_TUNING if has_horovod else {})}


def _search_paths(launch: Launch) -> dict[str, str]:
    if launch.case.device != "cuda":
        return {}
    return {"LD_LIBRARY_PATH": ":".join(_library_folders(launch.python, launch.case.version))}


@cache
def _library_folders(python: Path, version: str) -> tuple[str, ...]:
    """Where the CUDA libraries lie; the loader passes over the folders of Pythons that it is not."""
    prefix = python.parent.parent
    pythons = _PYTHONS.get(version, _EVERY_PYTHON)
    sites = [prefix / "lib" / f"python{minor}" / "site-packages" for minor in pythons]
    return tuple(str(site / "nvidia" / library / "lib") for site in sites for library in _CUDA_LIBRARIES)


ADAPTER = MXNetAdapter()
