"""What dlperf writes down about a run. `docs/results.md` describes the folder around it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from dlperf.model import Model, Retired
from dlperf.plan.case import Case

RESULT_SCHEMA_VERSION: Final = 1


class Status(StrEnum):
    """What became of a run. No number stands for one of these."""

    OK = "ok"
    OOM = "oom"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CRASH = "crash"
    KILLED = "killed"
    LOST_NODE = "lost_node"
    INCOMPLETE = "incomplete"
    UNSTEADY = "unsteady"
    INSUFFICIENT = "insufficient"
    UNSUPPORTED = "unsupported"
    NOT_MEASURED = "not_measured"


FAILED = frozenset(
    {
        Status.OOM,
        Status.TIMEOUT,
        Status.STALLED,
        Status.CRASH,
        Status.KILLED,
        Status.LOST_NODE,
        Status.INCOMPLETE,
        Status.UNSTEADY,
        Status.INSUFFICIENT,
    }
)


class RunFigures(Model):
    """The figures of one run, made from its log alone.

    samples_per_sec = sum of samples / sum of seconds over the accepted steps.
    """

    samples_per_sec: float
    accepted_steps: int
    dropped_steps: int
    step_seconds_median: float
    step_seconds_p95: float
    loss_first: float | None
    loss_last: float | None
    peak_memory_bytes: int | None  # the largest over the ranks


class Steadiness(Model):
    """The course of a run's measured iterations; dlperf/results/steady.py says how it is found."""

    shape: Literal["flat", "warm-up", "slowdown", "drifting", "none"]
    first_step: int | None  # where the steady stretch begins; None where there is none
    pauses: int
    pause_seconds: float  # that they took altogether; in no rate


class Engine(Model):
    """What the training program said about itself and its model: its events, as far as they got."""

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
    """Where a result comes from that dlperf did not run; `import.json` of its run folder."""

    schema_version: Literal[1] = 1
    source: str  # the file, as it was named when it was imported
    sha256: str
    dialect: str
    method: str  # how the figure was made from the records, such as `samples/seconds` or `dlperf-2021`
    run: int = 0  # which of the runs appended in the file, from 0
    warmup_iterations: int = 0  # left out at the beginning by the method `samples/seconds`
    not_known: tuple[str, ...] = ()  # what holds a placeholder in the case: nobody could tell


class RunResult(Model):
    """`result.json`: written atomically, last; a run folder without it holds no result."""

    schema_version: Literal[1] = RESULT_SCHEMA_VERSION
    dlperf_version: str
    case: Case
    repeat: int  # counts from 1
    status: Status
    reason: str | None = None  # one line: why it is not ok, or what is odd about it though it is
    evidence: str | None = None  # the log line that shows it, as "logs/rank0.log:17: text"
    started_at: str | None = None  # ISO 8601, UTC
    seconds: float | None = None  # of the whole run, start of the processes to their end
    nodes: tuple[str, ...] = ()  # host names, by node rank
    figures: RunFigures | None = None  # present exactly when status is ok
    engine: Engine = Engine()
    imported: Imported | None = None
    # What held the memory budget of the ranks: `cgroup` or `rlimit_data`; not written where there is none.
    memory_held_by: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    # Of long runs alone; not written where there is none.
    steadiness: Annotated[Steadiness | None, Field(exclude_if=lambda value: value is None)] = None
    energy: Retired = None

    @model_validator(mode="after")
    def _figures_exactly_when_ok(self) -> Self:
        if (self.figures is not None) != (self.status is Status.OK):
            raise ValueError(f"status {self.status} and figures do not go together")
        return self
