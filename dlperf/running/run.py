"""One run: write its folder, start it, watch it, store its result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlperf import __version__
from dlperf.adapters.base import Adapter
from dlperf.environments import Environment
from dlperf.errors import InfrastructureError
from dlperf.files import write_atomically, write_document
from dlperf.layout import CASE_NAME, ENVIRONMENT_NAME, LAUNCH_NAME, OUTCOME_NAME, node_file
from dlperf.logs.events import Step, read_events, step_of
from dlperf.plan.case import Case
from dlperf.plan.sweep import Limits
from dlperf.results.schema import Outcome, RunResult, Status, read_outcome
from dlperf.results.store import store_run, write_result
from dlperf.running.launch import LEASE_SECONDS, NodeInfo, NodeLaunch, launch_files
from dlperf.running.provenance import run_environment
from dlperf.running.run_folder import empty_folder, wait_until_deserted
from dlperf.running.supervision import Course, Interrupts, SupervisedRun, combined
from dlperf.running.transports.base import Connection, Node, NodeLost, each


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyNode:
    """A node and the framework's environment on it."""

    node: Node
    environment: Environment


class NodeUnfit(InfrastructureError):
    """A run could not be started on a node, for a reason that says nothing about its case."""

    def __init__(self, node: Node, reason: str) -> None:
        self.node = node
        super().__init__(f"{node.name}: {reason}")


def write_run_folder(
    folder: Path,
    case: Case,
    *,
    adapter: Adapter,
    nodes: Sequence[ReadyNode],
    limits: Limits,
    port: int | None,
) -> None:
    """Write what the run is, what it runs on, and what each supervisor is told.

    Raises:
        NodeUnfit: a node was lost.
    """
    machines = [ready.node for ready in nodes]
    try:
        facts = each(machines, lambda node: node.facts())
        port = port or machines[0].free_port()
    except NodeLost as lost:
        raise NodeUnfit(lost.node, str(lost)) from lost
    node_launches = [
        NodeLaunch(
            site=NodeInfo(cores=node.cores, address=node.address, interface=node.interface),
            python=ready.environment.python,
            case_file=node.case_file(folder),
            code=node.code,
            variables=node.variables,
        )
        for node, ready in zip(machines, nodes, strict=True)
    ]
    launches = launch_files(case, adapter=adapter, node_launches=node_launches, limits=limits, port=port)
    environment = run_environment(
        nodes=facts,
        environment=nodes[0].environment,
        launches=launches,
        variables=machines[0].inherited(),
    )
    write_document(folder / CASE_NAME, case)
    write_document(folder / ENVIRONMENT_NAME, environment)
    for node_rank, launch in enumerate(launches):
        write_document(folder / node_file(LAUNCH_NAME, node_rank=node_rank, nodes=len(nodes)), launch)


def opened(folder: Path, nodes: Sequence[Node]) -> list[Connection]:
    """A supervisor at work on each node, or on none of them.

    Raises:
        NodeUnfit: a node was lost.
        InfrastructureError: a supervisor cannot be started on this machine.
    """
    opened: dict[int, Connection] = {}

    def open_one(place: tuple[int, Node]) -> None:
        node_rank, node = place
        launch = node_file(LAUNCH_NAME, node_rank=node_rank, nodes=len(nodes))
        opened[node_rank] = node.open(folder, launch=launch)

    try:
        each(list(enumerate(nodes)), open_one)
    except BaseException as error:
        for connection in opened.values():
            connection.close()
        if isinstance(error, NodeLost):
            raise NodeUnfit(error.node, str(error)) from error
        raise
    return [opened[node_rank] for node_rank in range(len(nodes))]


def brought_back(folder: Path, nodes: Sequence[Node], *, codes: Sequence[int | None]) -> dict[int, str]:
    """Fetch what each node has; those that were lost, by node rank, and how."""
    lost: dict[int, str] = {}

    def bring_one(place: tuple[int, Node]) -> None:
        node_rank, node = place
        outcome = node_file(OUTCOME_NAME, node_rank=node_rank, nodes=len(nodes))
        if codes[node_rank] is None:
            lost[node_rank] = f"{node.name}: the connection broke while the run went on"
            return
        try:
            node.bring_back(folder, outcome=outcome)
        except NodeLost as error:
            lost[node_rank] = f"{node.name}: {error}"
            return
        found = read_outcome(folder / outcome)
        if node.remote and found is not None and found.reason == "lease_lost":
            lost[node_rank] = f"{node.name}: heard nothing of dlperf for {LEASE_SECONDS:g} s"

    each(list(enumerate(nodes)), bring_one)
    return lost


def write_combined(folder: Path, nodes: Sequence[Node], *, course: Course, lost: dict[int, str]) -> None:
    """Make one outcome of all nodes'."""
    names = [
        node_file(OUTCOME_NAME, node_rank=node_rank, nodes=len(nodes)) for node_rank in range(len(nodes))
    ]
    outcomes = [_json_of(folder / name) for name in names]
    content = combined(outcomes, course=course, lost=lost, hosts=[node.name for node in nodes])
    if content is not None:
        write_atomically(folder / OUTCOME_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _json_of(path: Path) -> dict[str, Any] | None:
    """An outcome as it was written; None where there is none, or a damaged one."""
    if read_outcome(path) is None:
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


# One run: write its folder, start it, watch it, store its result.


# The supervisor's exit codes for a launch file that it cannot read and an outcome that it cannot write.
_SUPERVISOR_BROKEN = frozenset({2, 5})
# Ends that say nothing about the case.
_ENDED_FROM_OUTSIDE = frozenset({"lease_lost", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Makes single runs; everything that stays the same from run to run."""

    limits: Limits
    interrupts: Interrupts
    progress: Progress
    port: int | None = None  # where the ranks of a case meet; None: a free one for each run

    def run(
        self, case: Case, *, repeat: int, folder: Path, adapter: Adapter, nodes: Sequence[ReadyNode]
    ) -> RunResult:
        """Run `case` once on `nodes`, by node rank, with everything in `folder`, and store the result there.

        Raises:
            Interrupted: a signal stopped the run; it has no result, and nothing of it is left running.
            NodeUnfit: the run could not be started on a node of a cluster.
            InfrastructureError: this machine, not the case, failed.
        """
        empty_folder(folder)
        write_run_folder(folder, case, adapter=adapter, nodes=nodes, limits=self.limits, port=self.port)
        self.progress.started(case, repeat=repeat)
        machines = [ready.node for ready in nodes]
        with self.interrupts.held():
            connections = opened(folder, machines)
            with SupervisedRun(connections, lease_seconds=LEASE_SECONDS) as run:
                self.interrupts.attach(run)
                course = self._watch(run, connections)
                ends = [(connection.exit_code(), connection.complaint()) for connection in connections]
            lost = brought_back(folder, machines, codes=[code for code, _ in ends])
        if lost or len(nodes) > 1:
            write_combined(folder, machines, course=course, lost=lost)
        outcome = read_outcome(folder / OUTCOME_NAME)
        if outcome is None or outcome.reason != "completed":
            self.interrupts.check()
        for node, (code, complaint) in zip(machines, ends, strict=True):
            _must_be_told(node, outcome, code=code, complaint=complaint)
        return store_run(folder)

    def _watch(self, run: SupervisedRun, connections: Sequence[Connection]) -> Course:
        """Follow the run to its end; trouble on one node ends it on the others at once."""
        course, told = Course(), False
        for heard in run.events():
            self.progress.ticked()
            if heard is None:
                continue
            node, event = heard
            if event is None:
                course.ended(node, code=connections[node].exit_code())
            else:
                course.hear(node, event)
                self._show(event)
            if course.broken is not None and not told:
                run.kill(spare=course.broken)
                told = True
        return course

    def _show(self, event: dict[str, Any]) -> None:
        if event.get("event") == "output":
            for found in read_events([str(event.get("text"))]):
                step = step_of(found)
                if step is not None and found.rank == 0:
                    self.progress.stepped(step)
        elif event.get("event") == "finished" and event["outcome"]["processes_left"]:
            left = " ".join(map(str, event["outcome"]["processes_left"]))
            self.progress.message(
                f"SIGKILL does not end process {left}: it waits in the kernel and may disturb later runs"
            )


def _must_be_told(node: Node, outcome: Outcome | None, *, code: int | None, complaint: str) -> None:
    """Raise InfrastructureError where how the run ended says nothing about its case."""
    if outcome is None and code in _SUPERVISOR_BROKEN:
        reason = f"the supervisor could not do its work: {complaint or f'exit code {code}'}"
        raise NodeUnfit(node, reason) if node.remote else InfrastructureError(reason)
    if outcome is not None and outcome.reason == "lease_lost":
        raise InfrastructureError(
            f"dlperf itself stood still for more than {LEASE_SECONDS:g} s (was it suspended?), so the run "
            "was ended; start again to go on"
        )


def store_unmeasured(case: Case, *, repeat: int, folder: Path, reason: str) -> RunResult:
    """Store that a run could not even be started, and why."""
    empty_folder(folder)
    write_document(folder / CASE_NAME, case)
    result = RunResult(
        dlperf_version=__version__, case=case, repeat=repeat, status=Status.NOT_MEASURED, reason=reason
    )
    write_result(folder, result, steps=())
    return result


def salvaged(folder: Path) -> RunResult | None:
    """The result of a run that had come to its own end when dlperf was killed; None where it had not."""
    wait_until_deserted(folder)
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None or outcome.reason in _ENDED_FROM_OUTSIDE:
        return None
    return store_run(folder)


# What a sweep tells about itself while it runs.


class Progress(Protocol):
    """Shows people how far a sweep is. Every method returns at once."""

    def message(self, text: str) -> None:
        """One line about something that happened."""

    def planned(self, *, total: int, done: int) -> None:
        """Runs in all, and those of them that need not be made again."""

    def started(self, case: Case, *, repeat: int) -> None:
        """A run begins."""

    def stepped(self, step: Step) -> None:
        """Rank 0 of the current run has finished an iteration."""

    def ticked(self) -> None:
        """At least every half second while a run goes on."""

    def ended(self, result: RunResult) -> None:
        """A run has its result, which is stored; one that was never started has one too."""

    def finished(self) -> None:
        """Nothing more comes; what was drawn on the terminal is taken away."""
