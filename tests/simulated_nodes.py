"""A double of the `Node` protocol: nodes that exist nowhere, on which a run takes no time. For tests only.

No test can have a thousand machines, nor a node that is lost at a given rate. Everything else is the product:
planning, scheduling, the run's folder, reading its logs, the report. What such a run would have printed is
written at once, from a seed: the same seed, case, repeat and nodes give the same logs.

    python tests/simulated_nodes.py SIMULATION run sweep.yaml --cluster nodes.yaml

is `dlperf run sweep.yaml --cluster nodes.yaml` on doubles of the nodes that the cluster file names.
SIMULATION is the JSON of a `Simulation`. The figures are invented and mean nothing.
"""

from __future__ import annotations

import json
import math
import random
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlperf.cli import main
from dlperf.environments import Environment, Manifest
from dlperf.environments.environment import environment_key
from dlperf.layout import CASE_NAME
from dlperf.plan.case import Case
from dlperf.plan.cluster import Cluster, ClusterNode, fits
from dlperf.plan.machine import Gpu
from dlperf.results.schema import Clock, read_environment
from dlperf.results.schema import Node as NodeFacts
from dlperf.running import cluster as real_nodes
from dlperf.running.busy import Busy
from dlperf.running.launch import LaunchFile, NodeLaunch
from dlperf.running.transports.base import NodeLost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dlperf.adapters.base import EnvironmentSpec

_NOWHERE = Path("/simulated")
_MARK = "SIMULATED by a test of dlperf: there is no such node, and nothing here was measured"
_OUT_OF_MEMORY = {
    "cuda": "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "cpu": "RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
}
_SAMPLES_PER_SECOND = 100.0  # per device
_STEP_NOISE = 0.02  # standard deviation of the seconds of a step over their mean
_SLOW_FACTOR = 0.8
_START_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What happens on the nodes. Each is a probability per run; `node_loss` is per node and run."""

    seed: int = 0
    gpus: dict[str, dict[str, str]] = field(default_factory=dict)  # by node, what its Gpu has
    slow_nodes: float = 0.0  # share of the nodes
    oom: float = 0.0
    hang: float = 0.0
    cut_log: float = 0.0
    node_loss: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """How a run goes, the same on all of its nodes.

    Attributes:
        step_seconds: of each iteration up to the end or to what goes wrong.
        seconds: of the whole run.
        failed_rank: the rank that runs out of memory.
        hangs: whether nothing is printed any more after the last step.
        cut: share of rank 0's log that is there; None: all of it.
        lost_host: the node that is lost in the run.
    """

    step_seconds: tuple[float, ...]
    seconds: float
    failed_rank: int | None
    hangs: bool
    cut: float | None
    lost_host: str | None


def fate_of(case: Case, *, simulation: Simulation, run: str, hosts: Sequence[str]) -> Fate:
    """The fate of one run, such as `r1`, of a case on nodes."""
    chance = random.Random(f"{simulation.seed}/{case.content_hash}/{run}/{'/'.join(hosts)}")  # noqa: S311
    rate = _SAMPLES_PER_SECOND * case.topology.world_size
    slow = (random.Random(f"{simulation.seed}/{host}").random() for host in hosts)  # noqa: S311
    if any(one < simulation.slow_nodes for one in slow):
        rate *= _SLOW_FACTOR
    steps = case.measure.warmup_iterations + case.measure.measured_iterations
    typical = case.global_batch_size / rate
    seconds = [max(0.1, chance.gauss(1.0, _STEP_NOISE)) * typical for _ in range(steps)]
    lost = next((host for host in hosts if chance.random() < simulation.node_loss), None)
    failed = chance.randrange(case.topology.world_size) if chance.random() < simulation.oom else None
    hangs = failed is None and chance.random() < simulation.hang
    reached = chance.randrange(steps) if failed is not None or hangs else steps
    return Fate(
        step_seconds=tuple(seconds[:reached]),
        seconds=round(_START_SECONDS + sum(seconds[:reached]), 3),
        failed_rank=failed,
        hangs=hangs,
        cut=chance.random() if chance.random() < simulation.cut_log else None,
        lost_host=lost,
    )


def rank_log(case: Case, fate: Fate, *, rank: int) -> str:
    """The log of one rank."""
    text = "".join(f"{line}\n" for line in _lines(case, fate, rank=rank))
    if rank == 0 and fate.cut is not None:
        return text[: max(len(_MARK) + 1, int(len(text) * fate.cut))]
    return text


def _lines(case: Case, fate: Fate, *, rank: int) -> Iterator[str]:
    yield _MARK
    yield _event(rank, "init_start", None)
    yield _event(rank, "framework", {"name": case.framework, "version": case.version, "device": "SIMULATED"})
    yield _event(rank, "global_batch_size", case.global_batch_size)
    yield _event(rank, "init_stop", None)
    yield _event(rank, "run_start", None)
    if rank == 0:
        for step, seconds in enumerate(fate.step_seconds):
            kind = "warmup" if step < case.measure.warmup_iterations else "train"
            loss = 0.5 + 10 * math.exp(-step / 50)
            value = {"throughput": case.global_batch_size / seconds, "seconds": seconds, "loss": loss}
            yield _event(rank, "tracked_stats", value, step=step, samples=case.global_batch_size, kind=kind)
    if fate.failed_rank == rank:
        yield "Traceback (most recent call last):"
        yield _OUT_OF_MEMORY[case.device]
    elif fate.failed_rank is None and not fate.hangs:
        yield _event(rank, "run_stop", None, status="success")
        yield _event(rank, "peak_anonymous_bytes", 1 << 30)


def _event(rank: int, key: str, value: Any, **metadata: Any) -> str:
    content = {
        "namespace": "dlperf",
        "time_ms": 0,
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": {"rank": rank, **metadata},
    }
    return ":::MLLOG " + json.dumps(content)


class SimulatedConnection:
    """A supervisor that has ended already; `said` is all that it said, none of it where its node was lost."""

    removal_command = "true"

    def __init__(self, said: bytes, *, code: int | None) -> None:
        self._said, self._code = said, code

    def receive(self) -> bytes:
        said, self._said = self._said, b""
        return said

    def send(self, data: bytes) -> None:
        """Nobody listens."""

    def exit_code(self) -> int | None:
        return self._code

    def complaint(self) -> str:
        return ""

    def hang_up(self) -> None: ...

    def close(self) -> None: ...


class SimulatedNode:
    """One node that does not exist."""

    remote = True

    def __init__(self, spec: ClusterNode, simulation: Simulation) -> None:
        self._spec, self._simulation = spec, simulation
        self.name = spec.name
        self.trouble: str | None = None

    def connect(self) -> None:
        """A node that was lost comes back at once."""
        self.trouble = None

    def fits(self, case: Case) -> bool:
        return fits(self._spec, case, oversubscribe=True)

    def placed(self, folder: Path, *, python: Path) -> NodeLaunch:
        return NodeLaunch(
            cores={cpu: (0, cpu) for cpu in range(self._spec.cores)},
            address="simulated",
            interface=None,
            python=python,
            case_file=_NOWHERE / folder.parent.name / folder.name / CASE_NAME,
            code=_NOWHERE,
        )

    def facts(self) -> NodeFacts:
        gpus = ("SIMULATED GPU",) * self._spec.devices if self._spec.device == "cuda" else ()
        return NodeFacts(
            host=self.name,
            cpu="SIMULATED CPU",
            cores=self._spec.cores,
            accelerators=gpus,
            link=self._spec.link,
        )

    def gpu(self) -> Gpu | None:
        real = self._simulation.gpus.get(self.name)
        return Gpu(name="SIMULATED GPU", **real) if real else self._spec.machine.gpu

    def busy(self) -> Busy:
        return Busy(share=0.0, cpus=self._spec.cores)

    def clock(self) -> Clock:
        return Clock(ahead_seconds=0.0, uncertainty_seconds=0.0)

    def inherited(self, own: Iterable[str]) -> dict[str, str]:
        del own
        return {}

    def free_port(self) -> int:
        return 1

    def environment(self, spec: EnvironmentSpec, *, python: Path | None) -> Environment:
        """Nothing is installed."""
        del python
        manifest = Manifest(
            key=environment_key(spec),
            spec=spec,
            version=spec.version,
            python_version="simulated",
            packages={},
            installer="simulated",
            created_at="simulated",
        )
        root = _NOWHERE / manifest.key
        return Environment(root=root, python=root / "bin" / "python", manifest=manifest, lock=None)

    def source(self, packed: Path) -> Path:
        """Nothing is copied."""
        return packed

    def open(self, folder: Path, *, launch: str) -> SimulatedConnection:
        """Write the logs of this node's ranks."""
        if self.trouble is not None:
            raise NodeLost(self, self.trouble)
        told = LaunchFile.model_validate_json((folder / launch).read_bytes())
        case = Case.model_validate_json((folder / CASE_NAME).read_bytes())
        around = read_environment(folder)
        hosts = [node.host for node in around.nodes] if around is not None else [self.name]
        fate = fate_of(case, simulation=self._simulation, run=folder.name, hosts=hosts)
        if self.name == fate.lost_host:
            self.trouble = "lost: simulated"
            return SimulatedConnection(b"", code=None)
        (folder / "logs").mkdir(exist_ok=True)
        for rank in told.ranks:
            (folder / rank.log).write_text(rank_log(case, fate, rank=rank.rank), encoding="utf-8")
        outcome = _outcome(told, fate, host=self.name)
        name = launch.replace("launch", "outcome", 1)
        (folder / name).write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
        events = [{"event": "rank_exit", **end} for end in outcome["ranks"] if end["exit_code"]]
        events.append({"event": "finished", "outcome": outcome})
        said = "".join(json.dumps(event) + "\n" for event in events)
        return SimulatedConnection(said.encode(), code=0 if outcome["reason"] == "completed" else 1)

    def bring_back(self, folder: Path, *, outcome: str) -> None:
        """Everything is here already."""


def _outcome(told: LaunchFile, fate: Fate, *, host: str) -> dict[str, Any]:
    """What a supervisor would have left."""
    ranks = [rank.rank for rank in told.ranks]
    failed = fate.failed_rank if fate.failed_rank in ranks else None
    ended = fate.hangs or (fate.failed_rank is not None and failed is None)  # by the supervisor
    ends = [
        {
            "rank": rank,
            "exit_code": None if ended or (failed is not None and rank != failed) else int(rank == failed),
            "signal": 9 if ended or (failed is not None and rank != failed) else None,
            "seconds": fate.seconds,
        }
        for rank in ranks
    ]
    reason = "completed"
    if fate.hangs:
        reason = "stall_limit"
    elif failed is not None:
        reason = "rank_failed"
    elif fate.failed_rank is not None:
        reason = "stopped"
    return {
        "schema_version": 1,
        "reason": reason,
        "detail": None,
        "host": host,
        "started_at": "1970-01-01T00:00:00.000+00:00",
        "seconds": fate.seconds,
        "ranks": ends,
        "first_failed_rank": failed,
        "oom_kills": 0,
        "processes_left": [],
    }


def run_dlperf(simulation: Simulation, words: Sequence[str]) -> None:
    """Do what the command `dlperf WORDS` does, with doubles of the nodes of its cluster; exits as it does."""

    @contextmanager
    def held(cluster: Cluster, **_: object) -> Iterator[list[SimulatedNode]]:
        yield [SimulatedNode(spec, simulation) for spec in cluster.nodes]

    real_nodes.held = held
    main(list(words))


if __name__ == "__main__":
    run_dlperf(Simulation(**json.loads(sys.argv[1])), sys.argv[2:])
