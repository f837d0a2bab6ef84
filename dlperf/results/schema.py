"""What dlperf writes down about a run and about a search for a limit. docs/formats.md describes the files."""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from dlperf.files import read_regular
from dlperf.layout import ENVIRONMENT_NAME
from dlperf.model import Model, Retired
from dlperf.plan.case import Case

# The methods of a run's figure: the ordinary one, and that of the 2021 comparison (means of rates).
SAMPLES_PER_SECONDS: Final = "samples/seconds"
METHOD_2021: Final = "dlperf-2021"
# Of what is measured; what is beyond them was never measured, and its square overflows.
LARGEST: Final = 1e30
LARGEST_COUNT: Final = 1 << 62
# Peaks of memory, by the names of their events and fields. They measure different things, so nothing compares
# one with another. docs/results.md describes them.
PEAKS: Final = {
    "peak_anonymous_bytes": "peak anonymous memory",
    "peak_device_bytes": "peak device memory",
    "peak_allocated_bytes": "peak allocated memory",
    "peak_reserved_bytes": "peak reserved memory",
    "peak_memory_bytes": "peak resident memory",
}


class Status(StrEnum):
    """How a run ended."""

    OK = "ok"
    OOM = "oom"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CRASH = "crash"
    KILLED = "killed"
    LOST_NODE = "lost_node"
    PREEMPTED = "preempted"  # with its batch job, as another job took the nodes
    JOB_TIMEOUT = "job_timeout"  # with its batch job, which reached its own time limit
    INCOMPLETE = "incomplete"
    UNSTEADY = "unsteady"
    DISTURBED = "disturbed"
    INSUFFICIENT = "insufficient"
    UNSUPPORTED = "unsupported"
    NOT_MEASURED = "not_measured"
    DATA = "data"  # the data set could not be read to the end of the run


FAILED = frozenset(Status) - {Status.OK, Status.UNSUPPORTED, Status.NOT_MEASURED}
# Of a run that something outside ended or disturbed, which says nothing about its case: it is made again.
MADE_AGAIN = frozenset(
    {Status.NOT_MEASURED, Status.LOST_NODE, Status.PREEMPTED, Status.JOB_TIMEOUT, Status.DISTURBED}
)


_Peak = Annotated[int | None, Field(ge=0, le=LARGEST_COUNT, exclude_if=lambda value: value is None)]


def _peaks(record: Model) -> dict[str, int]:
    sizes = {name: getattr(record, name, None) for name in PEAKS}
    return {name: size for name, size in sizes.items() if size is not None}


class RunFigures(Model):
    """The figures of one run, computed from its log alone.

    By the method `samples/seconds`, samples_per_sec = sum of samples / sum of seconds of the accepted steps.
    Steps are iterations, also where a line of the log covers several.
    """

    samples_per_sec: float = Field(gt=0, le=LARGEST)
    """Samples per second over all devices: the figure."""
    accepted_steps: int = Field(ge=0, le=LARGEST_COUNT)
    """Iterations that count."""
    dropped_steps: int = Field(ge=0, le=LARGEST_COUNT)
    """Iterations that do not count: warm-up, before the steady state, pauses."""
    step_seconds_median: float = Field(ge=0, le=LARGEST)
    """Median of the accepted steps, in seconds."""
    step_seconds_p95: float = Field(ge=0, le=LARGEST)
    """95th percentile of the accepted steps, in seconds."""
    loss_first: float | None
    """The first loss; null: none was logged."""
    loss_last: float | None
    """The last loss; null: none was logged, or one was not finite."""
    # Peaks of memory (`PEAKS`). The first is of older runs alone; the others are not written where they were
    # not measured.
    peak_memory_bytes: int | None = Field(ge=0, le=LARGEST_COUNT)
    """Most resident memory of a rank in bytes, of older runs alone; null: not measured."""
    peak_anonymous_bytes: _Peak = None
    """Most memory that a rank on CPU allocated and used, in bytes; missing: not measured."""
    peak_device_bytes: _Peak = None
    """Most memory that a rank held on its GPU, in bytes; missing: not measured."""
    peak_allocated_bytes: _Peak = None
    """Most GPU memory that a rank's tensors took of the engine, in bytes; missing: not measured."""
    peak_reserved_bytes: _Peak = None
    """Most GPU memory that a rank's engine took of the device, in bytes; missing: not measured."""

    @property
    def peaks(self) -> dict[str, int]:
        """The peaks of memory that were measured, by the names of `PEAKS`."""
        return _peaks(self)


class Steadiness(Model):
    """Where a run reached its steady state; `dlperf docs statistics` says how that is found."""

    shape: Literal["flat", "warm-up", "slowdown", "drifting", "none"]
    """How the steps went: all alike (`flat`), faster at the end (`warm-up`), slower at the end (`slowdown`),
    moving all the way (`drifting`), or back and forth (`none`)."""
    first_step: int | None
    """First step of the steady state; null without one."""
    pauses: int
    """Number of pauses."""
    pause_seconds: float
    """Seconds of all pauses, which no rate counts."""


class Interference(Model):
    """How much of the ranks' CPU time other work took; `dlperf docs statistics` has the formulas.

    Shares from 0 to 1, of the measured window of the rank that was disturbed most.
    """

    share: float
    """Share of the rank's CPU time that other work took, which `measure.max_interference` bounds."""
    waited: float
    """Share of the time in which the rank's threads were ready to run and had no CPU."""
    others: float
    """Share of the work on the rank's CPUs that was not the run's."""
    stolen: float
    """Share of the rank's busy CPUs that other virtual machines took."""
    crowd: float = 0.0
    """Share of the time of all CPUs of the machine that other work used."""
    warmup_share: float | None = None
    """As `share`, of the warm-up; null without one."""


_Number = Annotated[float | None, Field(ge=0, le=LARGEST, exclude_if=lambda value: value is None)]
_Count = Annotated[int | None, Field(ge=0, le=LARGEST_COUNT, exclude_if=lambda value: value is None)]


class Telemetry(Model):
    """What the nodes and their devices did in the measured window, from `telemetry.csv`.

    `dlperf docs acceptance` describes each. What is missing was not measured or does not exist there.
    """

    gpus: int = Field(default=0, ge=0, le=LARGEST_COUNT)
    """Number of GPUs with samples in the window, over all nodes."""
    sm_mhz: _Number = None
    """Median clock of the GPUs' multiprocessors, in MHz: the median over the GPUs."""
    sm_mhz_least: _Number = None
    """The same of the GPU with the lowest."""
    memory_mhz: _Number = None
    """Median clock of the GPUs' memory, in MHz: the median over the GPUs."""
    power_watts: _Number = None
    """Mean power of all GPUs together, in watts."""
    joules_per_1000_samples: _Number = None
    """Energy of all GPUs for 1000 samples, in joules."""
    celsius: _Number = None
    """Highest temperature of a GPU."""
    utilization: _Number = None
    """Share of the time in which a GPU had work, as nvidia-smi says: the median over the GPUs."""
    memory_bytes: _Number = None
    """Most memory in use on a GPU, of all its processes."""
    throttled: _Number = None
    """Share of the samples in which a GPU's clocks were held back, of the GPU with most."""
    throttled_by: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    """Why they were, over all GPUs, the most frequent first."""
    pcie_generation: _Count = None
    """Generation of the PCIe link of the GPU with the lowest."""
    pcie_width: _Count = None
    """Lanes of the PCIe link of the GPU with the fewest."""
    other_processes: _Count = None
    """Processes of others on the GPU that had most."""
    ecc_uncorrected: _Count = None
    """Uncorrected memory errors during the run, over all GPUs."""
    remapped_rows: _Count = None
    """Rows of memory remapped for uncorrectable errors during the run, over all GPUs."""
    cpu_mhz: _Number = None
    """Median clock of the ranks' CPUs, in MHz, of the node with the lowest."""
    waited: _Number = None
    """Share of the time in which the ranks' threads were ready and had no CPU, of the node with most."""
    stolen: _Number = None
    """Share of the ranks' busy CPUs that other virtual machines took, of the node with most."""
    pressure_memory: _Number = None
    """Share of the time in which some task waited for memory, of the node with most."""
    pressure_io: _Number = None
    """Share of the time in which some task waited for a disk, of the node with most."""
    sent_bytes_per_step: _Number = None
    """Bytes that the node with most sent per iteration through its interface, headers included."""
    theory_bytes_per_step: _Number = None
    """Bytes that must leave a node per iteration by arithmetic."""
    disk_bytes_per_second: _Number = None
    """Bytes per second read from the disks that hold the data set, over all nodes, by anyone."""
    missing: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    """What the samples lack, one line each."""


class DataReading(Model):
    """How the ranks read their data set; `dlperf docs statistics` has the formulas."""

    form: str | None = None
    """The form that was read, such as `recordio`; null: not known."""
    file_system: str | None = None
    """The type of the file system that holds the files, such as `ext4`; null: not known."""
    resident_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the bytes that the run reads that lay in the page cache before its first step; null: not
    known."""
    wait_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the measured time that the rank that waited most waited for batches; null: not measured."""
    bytes_per_second: float | None = Field(default=None, ge=0, le=LARGEST)
    """Bytes per second that all ranks read by system calls while they measured; null: not known."""
    storage_bytes_per_second: float | None = Field(default=None, ge=0, le=LARGEST)
    """Of these, those that came from storage and not from the page cache; null: not known."""


class RankTimes(Model):
    """Which rank the others waited for; `dlperf docs statistics` has the formulas."""

    slowest_rank: int
    """The rank whose own part of a step was the longest in most steps."""
    host: str | None
    """Host name of its node; null: not known."""
    excess: float
    """How much longer its own part took than the median of the others, 0.1 for 10 %; median over steps."""
    slowest_in: int
    """In how many of `steps` its own part was the longest."""
    steps: int
    """Measured steps that were compared, or stretches of them in a long run."""
    steps_per_value: int = 1
    """Steps of a stretch."""
    is_straggler: bool
    """Whether it is slower than equal ranks are by chance."""
    compute_seconds: tuple[float, ...]
    """Seconds of a step in which each rank did its own work, median over the steps, by rank."""
    exchange_shares: tuple[float, ...]
    """Share of the time in which each rank sent, received or waited for others, by rank."""


class Engine(Model):
    """What the training program reported about itself and its model."""

    facts: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Versions, threads, device and whatever else the program says of itself, by name."""
    network_parameters: int | None = None
    """Number of parameters of the network without the classifier; null: not known."""
    classifier_parameters: int | None = None
    """Number of parameters of the classifier; null: not known."""
    training_flops_per_sample: int | None = None
    """FLOPs to train one sample, by arithmetic; null: not known."""
    matmul_flops_per_second: float | None = None
    """FLOP/s of a large float32 matrix product in this engine on this device; null: not measured."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    """Seconds of a profiled step of rank 0 by part; it comes behind the measured steps, and its parts do not
    overlap."""


class Imported(Model):
    """The origin of a run whose log another program wrote; `import.json` of its run folder."""

    schema_version: Literal[2] = 2
    """Version of this format."""
    source: str
    """The file, as it was named when it was imported; of a member of an archive both, with `!` between."""
    sha256: str
    """SHA-256 of the file, or of the member, in hexadecimal digits."""
    log: str
    """Where the original lies in the run folder, such as `logs/imported.log`."""
    dialect: str
    """Name of the log's dialect; `dlperf list dialects` shows all."""
    method: str
    """How the figure was computed: `samples/seconds`, or `dlperf-2021`, a mean of rates."""
    run: int = 0
    """Which of the runs appended in the file, from 0."""
    lines: tuple[int, int] | None = None
    """First and last line with a record of the run; null: no record."""
    warmup_iterations: int = 0
    """Iterations that the method `samples/seconds` leaves out at the beginning."""
    not_known: tuple[str, ...] = ()
    """Fields of the case that hold a placeholder, because the log does not say them."""

    @field_validator("schema_version", mode="before")
    @classmethod
    def _is_not_the_first(cls, version: object) -> object:
        if version == 1:
            raise ValueError("imported by an older dlperf; remove the run folder and import the log again")
        return version


class RunResult(Model):
    """`result.json`: written atomically, last; a run folder without it holds no result."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that made the result."""
    case: Case
    """What was run."""
    repeat: int = Field(ge=0, lt=10**9)
    """Number of the run, from 1."""
    status: Status
    """How the run ended; `dlperf docs results` describes each."""
    reason: str | None = None
    """One line: why the status is not ok, or what is odd about the run though it is; null: nothing."""
    evidence: str | None = None
    """The log line that shows the reason, such as `logs/rank0.log:17: text`; null: none."""
    started_at: str | None = None
    """When the processes were started, ISO 8601 in UTC; null: not known."""
    seconds: float | None = None
    """Seconds of the whole run, from the start of the processes to their end; null: not known."""
    nodes: tuple[str, ...] = ()
    """Host names, by node rank."""
    figures: RunFigures | None = None
    """What was measured; null exactly where the status is not ok."""
    engine: Engine = Engine()
    """What the training program said of itself and its model."""
    imported: Imported | None = None
    """Where the log comes from; null: the run was made by dlperf."""
    # What follows is not written where it has its default.
    method: Annotated[str, Field(exclude_if=lambda value: value == SAMPLES_PER_SECONDS)] = SAMPLES_PER_SECONDS
    """How the figure was computed from the steps: `samples/seconds`, or `dlperf-2021`, a mean of rates."""
    not_known: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    """Fields of the case that hold a placeholder, because no one knows them."""
    memory_held_by: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """What held the memory budget of the ranks: `cgroup` or `rlimit_data`; missing: they had none."""
    peak_unknown: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """Why a peak of memory was not measured; missing: it was."""
    steadiness: Annotated[Steadiness | None, Field(exclude_if=lambda value: value is None)] = None
    """Where the run reached its steady state; missing: it was too short to say."""
    interference: Annotated[Interference | None, Field(exclude_if=lambda value: value is None)] = None
    """What other work took of the ranks' CPU time; missing: not measured."""
    telemetry: Annotated[Telemetry | None, Field(exclude_if=lambda value: value is None)] = None
    """What the nodes and their devices did meanwhile; missing: not sampled, or the run has no such window."""
    reading: Annotated[DataReading | None, Field(exclude_if=lambda value: value is None)] = None
    """How the ranks read their data set; missing: nothing was measured, or the images are synthetic."""
    rank_times: Annotated[RankTimes | None, Field(exclude_if=lambda value: value is None)] = None
    """Which rank the others waited for; missing: not measured, or there is one rank."""
    energy: Retired = None
    gpu_interference: Retired = None

    @model_validator(mode="after")
    def _figures_exactly_when_ok(self) -> Self:
        if (self.figures is not None) != (self.status is Status.OK):
            raise ValueError(f"status {self.status} and figures do not go together")
        return self

    @model_validator(mode="after")
    def _has_a_possible_case(self) -> Self:
        case = self.case
        if max(case.global_batch_size, case.num_classes, case.threads_per_device) > LARGEST_COUNT:
            raise ValueError("case: a size that no run can have")
        return self


UNKNOWN_HARDWARE = "unknown hardware"
# Readings in a line of hardware. A reboot moves the memory that the kernel leaves by some MiB, which rounding
# makes 1 GiB, and a clock is read a little differently each time.
_READING = re.compile(r"(\d+(?:\.\d+)?) ?(GiB|GHz|MHz)")
_SAME_CLOCK = 0.02
_SAME_MEMORY, _SAME_SMALL_MEMORY = 0.03, 0.15  # the latter up to 1 GiB


def same_hardware(one: str, other: str) -> bool:
    """Whether two lines of hardware mean the same kind of machine, but for readings that differ a little."""
    if one == other:
        return True
    if _READING.sub(r"\2", one) != _READING.sub(r"\2", other):
        return False
    for (left, unit), (right, _) in zip(_READING.findall(one), _READING.findall(other), strict=True):
        smaller, larger = sorted((float(left), float(right)))
        most = _SAME_CLOCK * larger
        if unit == "GiB":
            most = max(min(1.0, _SAME_SMALL_MEMORY * larger), _SAME_MEMORY * larger)
        if larger - smaller > most:
            return False
    return True


def kinds_of_hardware(names: Iterable[str]) -> dict[str, str]:
    """Each line of hardware with the first one, in their order, that means the same kind of machine."""
    kinds: dict[str, str] = {}
    for name in names:
        if name not in kinds:
            kinds[name] = next((kind for kind in kinds.values() if same_hardware(kind, name)), name)
    return kinds


class Node(Model):
    """One node; None where a fact could not be found out."""

    host: str
    """Host name."""
    cpu: str | None = None
    """Model name of the CPU."""
    cores: int | None = None
    """CPU cores that ranks may use."""
    memory_bytes: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    """Memory in bytes."""
    accelerators: tuple[str, ...] = ()
    """Model names of the GPUs, one per device; empty: none."""
    driver: str | None = None
    """Version of the GPUs' driver."""
    system: str | None = None
    """Operating system, such as `Debian GNU/Linux 12 (bookworm)`."""
    kernel: str | None = None
    """Release of the Linux kernel."""
    governor: str | None = None
    """Governor of the CPU's frequency, such as `performance`."""
    turbo: bool | None = None
    """Whether the CPU may exceed its nominal frequency."""
    link: str | None = None
    """Network between the nodes, as the cluster file says; not measured."""
    load: float | None = None
    """Load average of the minute before the run."""
    features: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """Features of the node as Slurm lists them, such as `h100,ib`; missing: none, or no node of Slurm."""

    @cached_property
    def hardware(self) -> str:
        """What decides speed, on one line."""
        cores = f"{self.cores} cores" if self.cores is not None else ""
        memory = f"{self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes is not None else ""
        kinds = dict.fromkeys(self.accelerators)
        devices = ", ".join(f"{self.accelerators.count(kind)} x {kind}" for kind in kinds)
        link = f"link {self.link}" if self.link is not None else ""
        parts = [part for part in (devices, self.cpu or "", cores, memory, link) if part]
        return ", ".join(parts) or UNKNOWN_HARDWARE


class Clock(Model):
    """A node's clock when a run began, beside that of the machine where dlperf ran."""

    ahead_seconds: float
    """How far it was ahead, as if the question took as long as the answer."""
    uncertainty_seconds: float = Field(ge=0)
    """Half of the time from the question to the answer: it was ahead by that much more or less, at most."""


class RunEnvironment(Model):
    """Everything around a run that is not its case."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that made the run."""
    git_commit: str | None = None
    """Commit of dlperf's checkout, with `-dirty` where files differ; null outside one."""
    nodes: tuple[Node, ...] = ()
    """The machines, by node rank."""
    clocks: Annotated[tuple[Clock | None, ...], Field(exclude_if=lambda clocks: not any(clocks))] = ()
    """Their clocks, by node rank; null: the machine where dlperf ran; missing: that alone, or not known."""
    python: str | None = None
    """Version of Python in the framework's environment; null: not known."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages in the framework's environment, by name."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that were set for the ranks, secrets redacted."""
    cpus: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Numbers of the CPU cores that each rank was bound to, by rank."""
    simulated: Retired = None

    @cached_property
    def hardware_key(self) -> str:
        """Equal for runs on machines of one kind; host names do not count."""
        return "; ".join(dict.fromkeys(node.hardware for node in self.nodes)) or UNKNOWN_HARDWARE


def read_environment(folder: Path) -> RunEnvironment | None:
    """The environment of a run folder; None if it has none that can be read."""
    try:
        return _parsed(read_regular(f"{folder}/{ENVIRONMENT_NAME}"))
    except (OSError, ValidationError):
        return None


@lru_cache(maxsize=64)
def _parsed(content: bytes) -> RunEnvironment:
    """Cached: most runs of a sweep share one environment."""
    return RunEnvironment.model_validate_json(content)


class LimitStatus(StrEnum):
    """The state of a search."""

    SEARCHING = "searching"
    FOUND = "found"
    NOTHING_TRAINS = "nothing_trains"  # not even the smallest value
    BEYOND_UPPER = "beyond_upper"  # the largest allowed value trains
    BROKEN = "broken"  # a probe failed twice for a reason other than memory


class ProbeRecord(Model):
    """One probe."""

    value: int
    """The value that was tried."""
    full: bool
    """Whether it was of full length, to confirm what short probes found."""
    attempt: int
    """Number of the attempt at this value, from 1."""
    status: Status
    """How the run ended; `dlperf docs results` describes each."""
    reason: str | None = None
    """One line: why the status is not ok; null: nothing."""
    seconds: float | None = None
    """Seconds of the whole run; null: not known."""
    peak_memory_bytes: int | None = None
    """Most resident memory of a rank in bytes, of older runs alone; null: not measured."""
    peak_anonymous_bytes: _Peak = None
    """Most memory that a rank on CPU allocated and used, in bytes; missing: not measured."""
    peak_device_bytes: _Peak = None
    """Most memory that a rank held on its GPU, in bytes; missing: not measured."""
    memory_held_by: str | None = None
    """What held the memory budget of the ranks: `cgroup` or `rlimit_data`; null: they had none."""
    folder: str
    """The run's folder, relative to that of limit.json."""

    @property
    def peaks(self) -> dict[str, int]:
        """The peaks of memory that were measured, by the names of `PEAKS`."""
        return _peaks(self)


class MemoryPart(Model):
    """Bytes of one kind of tensor by arithmetic."""

    name: str
    """The kind of tensor."""
    bytes: int
    """Its bytes on one device."""
    formula: str
    """How they are computed."""


class LimitRecord(Model):
    """`limit.json`."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that searched."""
    case: Case
    """The case with its search; it holds the value found, else the smallest."""
    status: LimitStatus
    """The state of the search."""
    reason: str
    """One line: what was found, or why nothing was."""
    trains: int | None = None
    """The largest value that trained, confirmed where the status is `found`; null: none yet."""
    fails: int | None = None
    """The smallest value that ran out of memory; null: none yet."""
    most_probes: int
    """The most short probes that the search can need."""
    guess: int | None = None
    """The limit by the memory model, which decides nothing; null: not known."""
    model: tuple[MemoryPart, ...] = ()
    """Memory of each device by arithmetic, at `trains`, else at the smallest value."""
    probes: tuple[ProbeRecord, ...] = ()
    """The runs that were made, in their order."""

    @property
    def model_bytes(self) -> int:
        """The model's sum: tensors of the training alone."""
        return sum(part.bytes for part in self.model)
