"""`dlperf cluster measure`: devices, disks and links of nodes, measured by one launch as that of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dlperf.adapters.base import Launch, RankCommand
from dlperf.adapters.pytorch import PyTorchAdapter
from dlperf.errors import InfrastructureError
from dlperf.layout import OUTCOME_NAME, log_files, node_file
from dlperf.logs.endings import read_outcome
from dlperf.logs.failures import classify
from dlperf.plan.case import Case, DeviceKind, Loss, Measure, Topology, Workload
from dlperf.plan.sweep import Limits
from dlperf.results.measurement import Measurement, Part, last_repeat, store_measurement
from dlperf.results.run_outcome import log_lines
from dlperf.running.run import NodeUnfit, Progress, ReadyNode, Runner, write_run_folder
from dlperf.running.run_folder import empty_folder
from dlperf.running.supervision import Interrupts
from dlperf.running.transports.base import Node, NodeLost, each
from dlperf.wording import plural

_PROGRAM: Final = "frameworks.measuring.run"
# Of the time that is waited for the end: imports, what a slow link makes of a message, disks that flush.
_LONGER, _START_SECONDS = 5, 600
# Measurements of a device and of the disk in one repeat, and of a link, whose two take half the time each.
_ON_CPU, _ON_GPU, _ON_DISK, _ON_LINK = 3, 5, 3, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to measure; frameworks/measuring/run.py describes the fields."""

    repeats: int
    seconds: float
    parallel_nodes: int
    devices: int
    file_bytes: int
    data: str | None
    first_repeat: int = 1

    def expected_seconds(self, nodes: int, *, device: DeviceKind) -> float:
        """How long it takes on nodes that are idle."""
        at_a_time = min(self.parallel_nodes, nodes)
        of_devices = self.devices * _ON_GPU if device == "cuda" else _ON_CPU
        of_links = nodes * (nodes - 1) / 2 / max(1, at_a_time // 2)
        rounds = -(-nodes // at_a_time) * (of_devices + _ON_DISK) + of_links * _ON_LINK
        return (self.repeats - self.first_repeat + 1) * self.seconds * rounds


class _Measuring(PyTorchAdapter):
    """Starts the program that measures where PyTorch's would train."""

    def __init__(self, task: Task) -> None:
        self._task = json.dumps(asdict(task))

    def rank_commands(self, launch: Launch) -> tuple[RankCommand, ...]:
        """One command per node."""
        argv = (str(launch.python), "-m", _PROGRAM, str(launch.case_file), self._task)
        return tuple(replace(command, argv=argv) for command in super().rank_commands(launch))


def measure_nodes(
    nodes: Sequence[Node],
    task: Task,
    folder: Path,
    *,
    cluster: str,
    device: DeviceKind,
    threads: int,
    python: Path | None,
    lost: Mapping[str, str],
    interrupts: Interrupts,
    progress: Progress,
) -> Measurement:
    """Measure the nodes, with all files in `folder`, and store the measurement there.

    `threads` compute on each node; `python` is the user's own interpreter with PyTorch; `lost` are nodes of
    the cluster that cannot be measured, and why. A node that is lost meanwhile is added to them, and the
    others go on from the repeat in which it was lost.

    EnvironmentUnavailable where a node has none; Interrupted after a signal, with no process left;
    InfrastructureError where every node was lost or the program failed.
    """
    measuring = _Nodes(
        device=device, threads=threads, python=python, interrupts=interrupts, progress=progress
    )
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    there, lost, parts = list(nodes), dict(lost), list[Part]()
    while True:
        part = Part(folder / f"part{len(parts) + 1}" if parts else folder, [node.name for node in there])
        fallen = measuring.measure(there, task, part.folder)
        if log_files(part.folder):
            parts.append(part)
        if not fallen:
            break
        task = replace(task, first_repeat=last_repeat(parts))
        for name, why in fallen.items():
            progress.message(f"{name} is set aside: {why}")
        lost |= fallen
        there = [node for node in there if node.name not in fallen]
        if not there:
            told = "; ".join(f"{name}: {why}" for name, why in lost.items())
            raise InfrastructureError(f"not measured: no node is left ({told})")
        left = plural(len(there), "node")
        progress.message(f"measuring goes on with {left} from repeat {task.first_repeat} of {task.repeats}")
    return store_measurement(
        folder,
        parts=parts,
        cluster=cluster,
        started_at=started_at,
        lost=lost,
        seconds=task.seconds,
        repeats=task.repeats,
        transport="nccl" if device == "cuda" else "gloo",
    )


@dataclass(kw_only=True)
class _Nodes:
    """Measures nodes together, as often as one of them is lost."""

    device: DeviceKind
    threads: int
    python: Path | None
    interrupts: Interrupts
    progress: Progress
    _ready: dict[str, ReadyNode] = field(default_factory=dict)

    def measure(self, nodes: Sequence[Node], task: Task, folder: Path) -> dict[str, str]:
        """Measure the nodes in a run folder; returns those that were lost meanwhile, and why."""
        try:
            return self._measure(nodes, task, folder)
        except (NodeLost, NodeUnfit) as error:
            return {error.node.name: _reason(error.node, str(error))}

    def _measure(self, nodes: Sequence[Node], task: Task, folder: Path) -> dict[str, str]:
        adapter, version = _Measuring(task), PyTorchAdapter.versions[0]

        def prepare(node: Node) -> None:
            if node.name not in self._ready:
                spec = adapter.environment(version, self.device, parallel=len(nodes) > 1, gpu=node.gpu())
                environment = node.environment(spec, python=self.python)
                self._ready[node.name] = ReadyNode(node=node, environment=environment)

        each(nodes, prepare)
        case = _case(version, nodes=len(nodes), device=self.device, threads=self.threads)
        limit = _START_SECONDS + _LONGER * task.expected_seconds(len(nodes), device=self.device)
        limits = Limits(time=limit, stall=limit)  # a node that waits for its turn prints nothing
        empty_folder(folder)
        ready = [self._ready[node.name] for node in nodes]
        write_run_folder(folder, case, adapter=adapter, nodes=ready, limits=limits, port=None)
        runner = Runner(limits=limits, interrupts=self.interrupts, progress=self.progress)
        lost = runner.supervise(folder, nodes)
        for rank in range(len(nodes)):
            if read_outcome(folder / node_file(OUTCOME_NAME, node_rank=rank, nodes=len(nodes))) is None:
                lost.setdefault(rank, "its supervisor ended without an outcome")
        if not lost:
            _must_have_completed(folder)
        return {nodes[rank].name: _reason(nodes[rank], why) for rank, why in lost.items()}


def _reason(node: Node, why: str) -> str:
    return node.trouble or why.removeprefix(f"{node.name}: ")


def _case(version: str, *, nodes: int, device: DeviceKind, threads: int) -> Case:
    """A case of one rank per node, for what places and starts ranks; its network does not matter."""
    workload = Workload(
        experiment="measurement",
        network="mobilefacenet",
        head="GDC",
        embedding_size=128,
        dataset="synthetic",
        loss=Loss(kind="softmax"),
    )
    return Case(
        framework="pytorch",
        version=version,
        workload=workload,
        parallelism="data",
        topology=Topology(nodes=nodes, devices_per_node=1),
        device=device,
        batch_size_per_device=2,
        num_classes=2,
        threads_per_device=threads,
        measure=Measure(telemetry=False),  # a sampler would disturb what is measured
    )


def _must_have_completed(folder: Path) -> None:
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is not None and outcome.reason == "completed":
        return
    failure = None if outcome is None else classify(log_lines(folder), outcome)
    why = failure.evidence.text if failure else outcome and (outcome.detail or outcome.reason)
    raise InfrastructureError(f"not measured: {why or 'no reason known'}; the logs are in {folder / 'logs'}")
