"""The one interface between dlperf and a framework. The shipped adapters use nothing else.

An adapter is pure: it says which environment a version needs, whether the engine can run a case at all, and
which processes a case consists of. It starts nothing. Register one under the entry-point group
`dlperf.adapters`; docs/adding-a-framework.md walks through it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import BaseModel, Field

from dlperf.plan.case import Case, DataForm, DeviceKind
from dlperf.plan.machine import Gpu, version_key
from dlperf.wording import plural

# Every library that may have its own thread pool; by default the engines choose different counts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEdit:
    """A patch of a source: in `file`, `after` replaces `before`, which occurs there once."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSource:
    """Where an original training program comes from: a folder or a git repository that a sweep names."""

    engine: str  # name of the framework with the same engine whose own loop stands beside it in reports
    url: str  # of the repository, for messages
    folders: tuple[str, ...]  # of the checkout, that the program needs; the rest is neither hashed nor copied
    commits: tuple[str, ...]  # that are known to run; others run with a note


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramProcess:
    """A process of an original program, or the launcher that the program brings."""

    argv: tuple[str, ...]
    env: dict[str, str]
    folder: str = "."  # that it starts in, below the working folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An original training program on one node, run in a copy of its source.

    frameworks/original/ makes the copy (`Launch.work`), applies `edits` and prints them as a diff, writes
    `files`, starts `processes`, turns the throughput lines of their output into events, and ends the program
    when there are enough: programs that train for epochs need no end of their own.
    """

    processes: tuple[ProgramProcess, ...]
    dialect: str  # of the lines with the throughput: a name of `dlperf list dialects`
    iterations_per_line: int
    distribution: str  # the package of the engine, whose version is recorded
    data_form: DataForm | None = None  # that it reads of the case's data set; None: it reads none
    edits: tuple[SourceEdit, ...] = ()
    files: dict[str, str] = field(default_factory=dict)  # path below the working folder -> text


@dataclass(frozen=True, slots=True, kw_only=True)
class NvccUse:
    """NVIDIA's compiler compiles parts of a package."""

    cuda: str  # the major version of CUDA that it must be of, such as `11`
    package: str  # that holds the toolkit, for messages, such as `cuda-toolkit-11-8`
    home: str  # variable that tells the build the toolkit's folder; the user may set it


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBuild:
    """A package without a wheel: compiled once against the requirements; its wheel is kept and reused."""

    requirement: str  # exact, such as `horovod==0.28.1`
    tools: tuple[str, ...]  # exact requirements of the build only
    # Of the environment's requirements those that have no part in the build: environments that differ in
    # them alone share the wheel.
    without: tuple[str, ...] = ()
    edits: tuple[SourceEdit, ...] = ()
    # Environment variables of the build, with `{site_packages}` replaced; the user's other variables that
    # begin with the package's name do not reach it.
    settings: dict[str, str] = field(default_factory=dict)
    # What must be on PATH -> how to install it, such as `apt install g++`.
    programs: dict[str, str] = field(default_factory=dict)
    nvcc: NvccUse | None = None
    # Symbolic link to make among the requirements, with `{site_packages}` -> where it points: linkers look
    # for libnccl.so, and wheels hold libnccl.so.2 alone.
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelFile:
    """The user's own wheel on this machine, and its hash when the plan was made."""

    path: str
    sha256: str


# The oldest drivers for each major version of CUDA: of one major version every build runs on them (NVIDIA's
# CUDA Compatibility, "Minor Version Compatibility"). Before 11, each toolkit had its own.
FIRST_DRIVERS = {"10.2": "440.33", "11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaBuild:
    """What a build for NVIDIA GPUs can run on; tools/cuda_code.py reads it from a wheel."""

    toolkit: str  # the version of CUDA that it was built with, such as `11.7`
    capabilities: tuple[str, ...]  # compute capabilities with machine code, ascending, such as `8.0`
    ptx: str | None = None  # the capability whose PTX all of it holds, for the driver to compile; None: none
    driver: str | None = None  # the oldest driver that it runs on, such as `450.80.02`


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """Everything that decides what is installed; its content hash names the environment."""

    framework: str
    version: str
    pythons: tuple[str, ...]  # CPython versions that can run it, best first, such as ("3.10", "3.9")
    requirements: tuple[str, ...]  # exact pip requirements, in install order
    # Python source that proves the installation, without a GPU too, and prints the framework's version.
    import_check: str
    # Further source, which prints nothing: of the adapter's own build, not for one of the user's; and of what
    # only a GPU shows. None: nothing further.
    build_check: str | None = None
    gpu_check: str | None = None
    torch_backend: str | None = None  # the build of torch, as uv's --torch-backend calls it, such as `cu126`
    torch_on_pypi: bool = False  # that build is the wheel on PyPI, which mirrors have
    # Environment variables while installing; if empty, pip compiles nothing.
    build_environment: dict[str, str] = field(default_factory=dict)
    builds: tuple[SourceBuild, ...] = ()
    wheel: WheelFile | None = None  # for the requirement of its distribution; never set by an adapter
    index: str | None = None  # URL of the package index of the first requirement; likewise
    find_links: str | None = None  # URL of a page, or absolute path of a folder, with its wheels; likewise
    cuda: CudaBuild | None = None  # what GPUs it can run on; None: a build for the CPU, or not known
    parallel: bool = False  # for messages: whether it is for several devices
    notes: str = ""  # for a person: size of the download, reason of a pin


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlacement:
    """Where one rank of a case runs. Ports and addresses are chosen by dlperf before the launch."""

    rank: int
    local_rank: int
    node_rank: int
    cpus: tuple[int, ...]  # that it is bound to; () leaves it unbound
    master_address: str  # of node 0, as the other nodes reach it
    master_port: int
    interface: str | None = None  # network interface between the nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCommand:
    """A process: an argument list (never a shell line) and what it adds to the environment.

    It drives `devices` devices, nearly always one: the next of `Launch.placements`, all on one node.
    `defaults` are variables that the user's own of the same name replace. `paths` are search paths, which the
    user's own of the same name follow.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    devices: int = 1
    defaults: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    program: Program | None = None  # set by `program_command` alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What an adapter needs to know to start a case."""

    case: Case
    case_file: Path  # where `case.json` lies on the node
    code: Path  # the folder that holds `frameworks/`; it goes on PYTHONPATH
    python: Path  # the interpreter of the framework's environment
    placements: tuple[RankPlacement, ...]

    @property
    def work(self) -> Path:
        """The working folder of an original program: the copy of its source in the run folder."""
        return self.case_file.parent / WORK_FOLDER


# In the run folder.
WORK_FOLDER: Final = "work"
PROGRAM_NAME: Final = "program.json"


class Adapter(Protocol):
    """What every framework provides."""

    @property
    def name(self) -> str:
        """The name in sweep files, such as `mxnet`."""

    @property
    def title(self) -> str:
        """The name as its makers write it, such as `MXNet`."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that `environment` knows, the default first."""

    @property
    def options(self) -> type[BaseModel]:
        """The framework's own options, validated; forbid extra keys."""

    @property
    def source(self) -> ProgramSource | None:
        """Where the original program comes from, which a sweep must name; None: the loop is the adapter's."""

    @property
    def inherited_variables(self) -> tuple[str, ...]:
        """The engine's own variables that ranks inherit of the user's environment, such as `("MXNET_*",)`.

        Shell patterns. What several engines share (`CUDA_*`, `NCCL_*`, `OMP_*`, ...) they inherit anyway.
        """

    @property
    def alignable(self) -> bool:
        """Whether `dlperf align` can compare what it computes; reports say where it cannot."""

    def environment(
        self, version: str, device: DeviceKind, *, parallel: bool = False, gpu: Gpu | None = None
    ) -> EnvironmentSpec:
        """What must be installed; ValueError with the known versions if `version` cannot run.

        Cases of several devices (`parallel`) may need more libraries. On cuda `gpu` is what it must run on,
        where that is known: the build may depend on it. Whether the build can run there, dlperf finds from
        the answer's `cuda`.
        """

    def unsupported(self, case: Case) -> str | None:
        """Why the engine can never run this case; None if it can.

        `case.topology` and `case.data` count too: a program may know one node, or one form of data set.
        """

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """The processes of the case, which drive all of `launch.placements`, in that order."""


# The option `tf32` of most frameworks.
TF32: Any = Field(
    default=False,
    description="Let CUDA compute float32 products in TF32, as some engines do by default; off, fp32 is IEEE "
    "float32.",
)


def require_known(framework: str, version: str, known: Iterable[str]) -> None:
    """ValueError with the known versions where this is none of them."""
    if version not in known:
        raise ValueError(f"{framework} {version} is unknown; known versions: {', '.join(known)}")


def version_refusal(version: str, *, title: str, oldest: tuple[int, int]) -> str | None:
    """Why a shipped program cannot run with a version of the user's; None: it can, or that is not known."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= oldest:
        return None
    return f"the training programs need {title} {oldest[0]}.{oldest[1]} or newer"


def runs_cuda_13(gpu: Gpu | None) -> bool:
    """Whether a GPU is known to run builds for CUDA 13: by its capability, and by its driver."""
    return gpu is not None and version_key(gpu.capability) >= (7, 5) and version_key(gpu.driver) >= (580,)


def train_commands(
    launch: Launch,
    framework: str,
    variables: Callable[[Launch, RankPlacement], dict[str, str]],
    *,
    form: DataForm,
) -> tuple[RankCommand, ...]:
    """One process of `frameworks/<framework>/train.py` per placement, with the adapter's own `variables`.

    Where the case has a data set, which the program reads in that form, another process watches the files.
    """
    module, case_file = f"frameworks.{framework}.train", str(launch.case_file)
    argv: tuple[str, ...] = (str(launch.python), "-m", module, case_file)
    threads: dict[str, str] = {}
    if launch.case.data is not None:
        argv = (str(launch.python), "-m", "frameworks.common.data_watch", module, case_file, form)
        threads = dict.fromkeys(_THREAD_VARIABLES, str(computing_threads(launch.case)))
    return tuple(
        RankCommand(
            argv=argv,
            env={**rank_environment(launch, placement), **threads, **variables(launch, placement)},
        )
        for placement in launch.placements
    )


def computing_threads(case: Case) -> int:
    """CPU threads of a device that compute, where others read; as in frameworks/common/reading.py.

    On a GPU one is left to launch kernels. On CPU a quarter reads, of fewer than 4 threads none: the reader
    then has a thread of its own on the same CPUs.
    """
    if case.data is None:
        return case.threads_per_device
    return 1 if case.device == "cuda" else case.threads_per_device - case.threads_per_device // 4


# Batches that the readers of the shipped programs have ready, as in frameworks/common/reading.py.
PREFETCHED_BATCHES: Final = 4


def data_refusal(case: Case, form: DataForm) -> str | None:
    """Why a shipped program, which reads one form, cannot train on the case's data set; None if it can."""
    data = case.data
    if data is None:
        return None
    if form not in data.forms:
        return f"it reads {form}, which {data.path} lacks: dlperf data convert {data.path} OUT --to {form}"
    if data.classes > case.num_classes:
        return (
            f"{data.name} has labels of {data.classes} classes, the classifier only {case.num_classes}; take "
            f"num_classes: {data.classes} or more"
        )
    if data.images < case.global_batch_size:
        held = plural(data.images, "image")
        return f"{data.name} has {held}, fewer than the {case.global_batch_size} of a batch"
    readers = max(1, case.threads_per_device - computing_threads(case))
    fewest = 2 * max(PREFETCHED_BATCHES, readers)
    if data.read != "memory" and case.measure.measured_iterations <= fewest:
        return (
            f"{case.measure.measured_iterations} measured iterations tell little of reading, of which up to "
            f"{fewest // 2} batches are ready before: take more than {fewest}, or read: memory"
        )
    return None


def program_command(launch: Launch, program: Program) -> RankCommand:
    """One process that runs an original program on all devices of the case, which are on one node."""
    name = launch.case_file.parent / PROGRAM_NAME
    first = launch.placements[0]
    return RankCommand(
        argv=(str(launch.python), "-m", "frameworks.original.run", str(launch.case_file), str(name)),
        env=rank_environment(launch, first),
        devices=len(launch.placements),
        program=program,
    )


def rank_environment(launch: Launch, placement: RankPlacement) -> dict[str, str]:
    """The variables of one rank that are the same for every framework.

    CUDA_VISIBLE_DEVICES stays as the user or a batch system set it; of those devices a rank takes the one of
    its DLPERF_LOCAL_RANK. Its numbers are those of nvidia-smi, which CUDA by default counts in another order.
    """
    threads = str(launch.case.threads_per_device)
    return {
        "PYTHONPATH": str(launch.code),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",  # the home folder's packages do not belong to the environment
        "DLPERF_RANK": str(placement.rank),
        "DLPERF_LOCAL_RANK": str(placement.local_rank),
        "DLPERF_NODE_RANK": str(placement.node_rank),
        "DLPERF_WORLD_SIZE": str(launch.case.topology.world_size),
        "DLPERF_LOCAL_WORLD_SIZE": str(launch.case.topology.devices_per_node),
        "DLPERF_MASTER_ADDRESS": placement.master_address,
        "DLPERF_MASTER_PORT": str(placement.master_port),
        **({"DLPERF_INTERFACE": placement.interface} if placement.interface else {}),
        **({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if launch.case.device == "cuda" else {}),
        **dict.fromkeys(_THREAD_VARIABLES, threads),
        **fp32_environment(launch.case),
    }


TF32_VARIABLE: Final = "NVIDIA_TF32_OVERRIDE"


def fp32_environment(case: Case) -> dict[str, str]:
    """One policy for all frameworks of what CUDA computes float32 products in: docs/workloads.md.

    At 0 NVIDIA's libraries use no TF32, whatever an engine asks of them. No other value is documented; 1
    replaces a 0 that the user may have set, and the engine's own settings hold.
    """
    if case.device != "cuda":
        return {}
    return {TF32_VARIABLE: "1" if case.options.get("tf32") else "0"}
