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
    INCOMPLETE = "incomplete"
    UNSTEADY = "unsteady"
    DISTURBED = "disturbed"
    INSUFFICIENT = "insufficient"
    UNSUPPORTED = "unsupported"
    NOT_MEASURED = "not_measured"


FAILED = frozenset(Status) - {Status.OK, Status.UNSUPPORTED, Status.NOT_MEASURED}


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
    accepted_steps: int = Field(ge=0, le=LARGEST_COUNT)
    dropped_steps: int = Field(ge=0, le=LARGEST_COUNT)
    step_seconds_median: float = Field(ge=0, le=LARGEST)
    step_seconds_p95: float = Field(ge=0, le=LARGEST)
    loss_first: float | None
    loss_last: float | None
    # Peaks of memory (`PEAKS`), each the largest over the ranks. The first is of older runs alone; the others
    # are not written where they were not measured.
    peak_memory_bytes: int | None = Field(ge=0, le=LARGEST_COUNT)
    peak_anonymous_bytes: _Peak = None
    peak_device_bytes: _Peak = None
    peak_allocated_bytes: _Peak = None
    peak_reserved_bytes: _Peak = None

    @property
    def peaks(self) -> dict[str, int]:
        """The peaks of memory that were measured, by the names of `PEAKS`."""
        return _peaks(self)


class Steadiness(Model):
    """Where a run reached its steady state; dlperf/statistics/changepoint.py says how that is found."""

    shape: Literal["flat", "warm-up", "slowdown", "drifting", "none"]
    first_step: int | None  # of the steady state; None without one
    pauses: int
    pause_seconds: float  # total; not counted in any rate


class Interference(Model):
    """How much of the ranks' CPU time other work took; dlperf/results/interference.py has the formulas.

    Shares from 0 to 1, of the measured window of the rank that was disturbed most.
    """

    share: float
    waited: float  # of the time in which the rank's threads were ready to run
    others: float  # of the work on the rank's CPUs
    stolen: float  # by other virtual machines
    crowd: float = 0.0  # of the time of all CPUs of the machine, used by others
    warmup_share: float | None = None  # the share of the warm-up window; None without one


class GpuInterference(Model):
    """What disturbed the GPUs of a run, as nvidia-smi said at the end of its measured window."""

    processes: int  # of others, on the GPU that had most
    throttled_by: tuple[str, ...] = ()  # reasons why clocks were low, over all GPUs


class Engine(Model):
    """What the training program reported about itself and its model."""

    facts: dict[str, bool | int | float | str] = Field(
        default_factory=dict
    )  # versions, threads, device; flat
    network_parameters: int | None = None
    classifier_parameters: int | None = None
    training_flops_per_sample: int | None = None
    matmul_flops_per_second: float | None = None  # of a large float32 product in this engine on this device
    # Seconds of a profiled step by part, of rank 0; behind the measured steps, its parts not overlapping.
    phase_seconds: dict[str, float] = Field(default_factory=dict)


class Imported(Model):
    """The origin of a run whose log another program wrote; `import.json` of its run folder."""

    schema_version: Literal[2] = 2
    source: str  # the file, as it was named when it was imported; of a member of an archive both, with a `!`
    sha256: str  # of the file, or of the member
    log: str  # where the original lies in the run folder, such as `logs/imported.log`
    dialect: str
    method: str  # of the figure: `samples/seconds` or `dlperf-2021`
    run: int = 0  # which of the runs appended in the file, from 0
    lines: tuple[int, int] | None = None  # the first and last line with a record of the run; None: no record
    warmup_iterations: int = 0  # left out at the beginning by the method `samples/seconds`
    not_known: tuple[str, ...] = ()  # fields of the case that hold a placeholder

    @field_validator("schema_version", mode="before")
    @classmethod
    def _is_not_the_first(cls, version: object) -> object:
        if version == 1:
            raise ValueError("imported by an older dlperf; remove the run folder and import the log again")
        return version


class RunResult(Model):
    """`result.json`: written atomically, last; a run folder without it holds no result."""

    schema_version: Literal[1] = 1
    dlperf_version: str
    case: Case
    repeat: int = Field(ge=0, lt=10**9)  # counts from 1
    status: Status
    reason: str | None = None  # one line: why it is not ok, or what is odd about it though it is
    evidence: str | None = None  # the log line that shows it, as "logs/rank0.log:17: text"
    started_at: str | None = None  # ISO 8601, UTC
    seconds: float | None = None  # of the whole run, start of the processes to their end
    nodes: tuple[str, ...] = ()  # host names, by node rank
    figures: RunFigures | None = None  # present exactly when status is ok
    engine: Engine = Engine()
    imported: Imported | None = None
    # How the figure was made from the steps; not written where it is the ordinary way.
    method: Annotated[str, Field(exclude_if=lambda value: value == SAMPLES_PER_SECONDS)] = SAMPLES_PER_SECONDS
    # Fields of the case that hold a placeholder, because no one knows them; not written where there are none.
    not_known: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
    # What held the memory budget of the ranks: `cgroup` or `rlimit_data`; not written where there is none.
    memory_held_by: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    # Why a peak of memory was not measured; not written where it was.
    peak_unknown: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    # Of long runs alone; not written where there is none.
    steadiness: Annotated[Steadiness | None, Field(exclude_if=lambda value: value is None)] = None
    # What other work on the machines took; not written where it could not be measured.
    interference: Annotated[Interference | None, Field(exclude_if=lambda value: value is None)] = None
    gpu_interference: Annotated[GpuInterference | None, Field(exclude_if=lambda value: value is None)] = None
    energy: Retired = None

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
    cpu: str | None = None  # model name
    cores: int | None = None  # that this process may use
    memory_bytes: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    accelerators: tuple[str, ...] = ()  # model names, one per device
    driver: str | None = None  # of the accelerators
    system: str | None = None  # such as `Debian GNU/Linux 12 (bookworm)`
    kernel: str | None = None
    governor: str | None = None  # of the CPU's frequency, such as `performance`
    turbo: bool | None = None  # whether the CPU may exceed its nominal frequency
    link: str | None = None  # between the nodes, as the cluster file says; not measured
    load: float | None = None  # load average of the minute before the run

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


class RunEnvironment(Model):
    """Everything around a run that is not its case."""

    schema_version: Literal[1] = 1
    dlperf_version: str
    git_commit: str | None = (
        None  # of dlperf's checkout, `-dirty` appended where files differ; None outside one
    )
    nodes: tuple[Node, ...] = ()  # by node rank
    python: str | None = None  # version in the framework's environment
    packages: dict[str, str] = Field(default_factory=dict)  # name -> version in the framework's environment
    variables: dict[str, str] = Field(default_factory=dict)  # set for the ranks, secrets redacted
    cpus: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # rank -> the cores that it is bound to
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
    full: bool  # of full length: it confirms what short probes found
    attempt: int  # of this value, from 1
    status: Status
    reason: str | None = None
    seconds: float | None = None
    # Where it trained, the largest over the ranks; the first of older runs alone.
    peak_memory_bytes: int | None = None
    peak_anonymous_bytes: _Peak = None
    peak_device_bytes: _Peak = None
    memory_held_by: str | None = None
    folder: str  # from the folder of limit.json

    @property
    def peaks(self) -> dict[str, int]:
        """The peaks of memory that were measured, by the names of `PEAKS`."""
        return _peaks(self)


class MemoryPart(Model):
    """Bytes of one kind of tensor by arithmetic; `formula` says how they are computed."""

    name: str
    bytes: int
    formula: str


class LimitRecord(Model):
    """`limit.json`."""

    schema_version: Literal[1] = 1
    dlperf_version: str
    case: Case  # with its search; holds the value found, else the smallest
    status: LimitStatus
    reason: str  # one line: what was found, or why nothing was
    trains: int | None = None  # the largest value that trained, confirmed where the status is found
    fails: int | None = None  # the smallest value that ran out of memory
    most_probes: int  # upper bound on the number of short probes
    guess: int | None = None  # the limit by the memory model; it decides nothing
    model: tuple[MemoryPart, ...] = ()  # of the memory at `trains`, else at the smallest value
    probes: tuple[ProbeRecord, ...] = ()

    @property
    def model_bytes(self) -> int:
        """The model's sum: tensors of the training alone."""
        return sum(part.bytes for part in self.model)
