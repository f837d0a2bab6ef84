"""What a virtual run does and prints: rates, noise, drift, and what goes wrong. Pure, from a seed."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.plan.case import Case
    from dlperf.plan.cluster_file import Simulation

_MARK = "SIMULATED by dlperf (transport: sim): there is no such node, and nothing here was measured"
_OUT_OF_MEMORY = (
    "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (simulated)",
    "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory (simulated)",
)
_FRAMEWORK_SPREAD = 0.2  # the fastest framework is at most so much faster than the slowest
_START_SECONDS = 5.0
_LOSS_FLOOR = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a run goes, the same on all of its nodes.

    Attributes:
        step_seconds: of each iteration up to the end or to what goes wrong.
        seconds: of the whole run.
        failed_rank: that runs out of memory.
        hangs: whether nothing is printed any more after the last step.
        cut: share of rank 0's log that is there; None: all of it.
        lost_host: that is lost in the run.
    """

    step_seconds: tuple[float, ...]
    seconds: float
    failed_rank: int | None
    hangs: bool
    cut: float | None
    lost_host: str | None


def course_of(case: Case, *, simulation: Simulation, run: str, hosts: Sequence[str]) -> Course:
    """The course of one run, such as `r1`, of a case on nodes."""
    chance = random.Random(f"{simulation.seed}/{case.content_hash}/{run}/{'/'.join(hosts)}")  # noqa: S311
    rate = true_rate(case, simulation=simulation) * chance.gauss(1.0, simulation.run_noise)
    if any(is_slow(host, simulation) for host in hosts):
        rate *= simulation.slow_factor
    steps = case.measure.warmup_iterations + case.measure.measured_iterations
    typical = case.global_batch_size / rate
    seconds = [
        max(0.1, chance.gauss(1.0, simulation.step_noise)) * typical / (1 + simulation.drift * step / steps)
        for step in range(steps)
    ]
    lost = next((host for host in hosts if chance.random() < simulation.node_loss), None)
    failed = chance.randrange(case.topology.world_size) if chance.random() < simulation.oom else None
    hangs = failed is None and chance.random() < simulation.hang
    reached = chance.randrange(steps) if failed is not None or hangs else steps
    return Course(
        step_seconds=tuple(seconds[:reached]),
        seconds=round(_START_SECONDS + sum(seconds[:reached]), 3),
        failed_rank=failed,
        hangs=hangs,
        cut=chance.random() if chance.random() < simulation.cut_log else None,
        lost_host=lost,
    )


def true_rate(case: Case, *, simulation: Simulation) -> float:
    """Samples a second that the case's runs scatter around: what statistics should find again."""
    own = random.Random(f"{simulation.seed}/{case.framework}=={case.version}").random()  # noqa: S311
    devices = case.topology.world_size
    scaled: float = devices * simulation.scaling ** math.log2(devices)
    return simulation.samples_per_sec * (1 + _FRAMEWORK_SPREAD * (own - 0.5)) * scaled


def is_slow(host: str, simulation: Simulation) -> bool:
    """Whether a node is one of the slow ones."""
    return random.Random(f"{simulation.seed}/{host}").random() < simulation.slow_nodes  # noqa: S311


def rank_log(case: Case, course: Course, *, rank: int) -> str:
    """The log of one rank."""
    lines = list(_lines(case, course, rank=rank))
    text = "".join(f"{line}\n" for line in lines)
    if rank == 0 and course.cut is not None:
        return text[: max(len(_MARK) + 1, int(len(text) * course.cut))]
    return text


def _lines(case: Case, course: Course, *, rank: int) -> Iterator[str]:
    yield _MARK
    yield _event(rank, "init_start", None)
    facts = {"name": case.framework, "version": case.version, "simulated": True, "device": "SIMULATED"}
    yield _event(rank, "framework", facts)
    yield _event(rank, "global_batch_size", case.global_batch_size)
    yield _event(rank, "init_stop", None)
    yield _event(rank, "run_start", None)
    if rank == 0:
        for step, seconds in enumerate(course.step_seconds):
            kind = "warmup" if step < case.measure.warmup_iterations else "train"
            loss = _LOSS_FLOOR + 10 * math.exp(-step / 50)
            value = {"throughput": case.global_batch_size / seconds, "seconds": seconds, "loss": loss}
            yield _event(rank, "tracked_stats", value, step=step, samples=case.global_batch_size, kind=kind)
    if course.failed_rank == rank:
        yield "Traceback (most recent call last):"
        yield _OUT_OF_MEMORY[case.device == "cpu"]
    elif course.failed_rank is None and not course.hangs:
        yield _event(rank, "run_stop", None, status="success")
        yield _event(rank, "peak_memory_bytes", 1 << 30, source="simulated")


def _event(rank: int, key: str, value: Any, **metadata: Any) -> str:
    content = {
        "namespace": "dlperf",
        "time_ms": 0,
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": {"rank": rank, "simulated": True, **metadata},
    }
    return ":::MLLOG " + json.dumps(content)
