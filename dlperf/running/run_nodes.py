"""The nodes of one run: what they are told, their supervisors, what they have when it is over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlperf.errors import InfrastructureError
from dlperf.results.outcome import read_outcome
from dlperf.results.store import write_atomically
from dlperf.running.course import Course, combined
from dlperf.running.launch_file import LEASE_SECONDS
from dlperf.running.places import Site
from dlperf.running.preparation import Seat, launch_files
from dlperf.running.provenance import run_environment
from dlperf.running.run_folder import CASE_NAME, ENVIRONMENT_NAME, LAUNCH_NAME, OUTCOME_NAME, node_file
from dlperf.running.transports.base import NodeLost, each

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.environments import Environment
    from dlperf.model import Model
    from dlperf.plan.case import Case
    from dlperf.plan.sweep_file import Limits
    from dlperf.running.transports.base import Connection, Node


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


def write_model(path: Path, content: Model) -> None:
    """Write a file of the run folder as JSON, whole or not at all."""
    write_atomically(path, (content.model_dump_json(indent=1) + "\n").encode())


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
    seats = [
        Seat(
            site=Site(cores=node.cores, address=node.address, interface=node.interface),
            python=ready.environment.python,
            case_file=node.case_file(folder),
            code=node.code,
            variables=node.variables,
        )
        for node, ready in zip(machines, nodes, strict=True)
    ]
    launches = launch_files(case, adapter=adapter, seats=seats, limits=limits, port=port)
    environment = run_environment(
        nodes=facts,
        environment=nodes[0].environment,
        launches=launches,
        variables=machines[0].inherited(),
    )
    write_model(folder / CASE_NAME, case)
    write_model(folder / ENVIRONMENT_NAME, environment)
    for node_rank, launch in enumerate(launches):
        write_model(folder / node_file(LAUNCH_NAME, node_rank=node_rank, nodes=len(nodes)), launch)


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
