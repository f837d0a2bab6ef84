"""Whether the nodes of a cluster compute the same: each trains a framework's steps alone, on one device.

Every node makes the same weights and batches itself, trains on them, and prints a fingerprint of each array
(`frameworks/common/align.py`), so that no arrays travel. On CPUs, nodes of one hardware must agree in every
bit. Nodes of different hardware, and GPUs, which may add in another order each time, must agree within the
bounds of an alignment: the norms, and the products with a fixed vector, relative to the norm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field

from dlperf.align.arrays import Flaw
from dlperf.align.certificate import Tolerance, grouped, listed
from dlperf.align.compare import GRADIENT_FLOOR
from dlperf.align.participants import Framework, Settings, probe_case
from dlperf.align.programs import alignment_commands, failure_of
from dlperf.errors import EnvironmentUnavailable, InfrastructureError
from dlperf.layout import LAUNCH_NAME, OUTCOME_NAME, log_name
from dlperf.logs.endings import read_outcome
from dlperf.logs.events import finite, read_events
from dlperf.logs.text import read_lines
from dlperf.model import Model
from dlperf.plan.case import Case, Workload
from dlperf.running.supervision import Interrupts
from dlperf.running.transports.base import Connection, Node, NodeLost, each
from dlperf.running.unmeasured import wait_for_ends, write_launch
from dlperf.version import __version__
from dlperf.wording import plural

_MAJORITY: Final = 2  # nodes
_MOST_ARRAYS: Final = 100_000


class Fingerprint(NamedTuple):
    """Of one array; without numbers where they are not finite."""

    sha256: str
    norm: float | None
    projection: float | None


Fingerprints = Mapping[str, Fingerprint]  # by the array's name, in the order of the computation


class NodeOutputs(NamedTuple):
    """What a node computed with a framework."""

    node: str
    hardware: str  # with the engine's version: nodes of one kind must agree in every bit
    arrays: Fingerprints


class NodeDifference(Model):
    """Nodes that differ from the others."""

    nodes: tuple[str, ...]
    """Their names."""
    first: str
    """The first array that differs, in the order of the computation."""
    differing: int
    """Number of arrays that differ."""
    arrays: int
    """Number of arrays."""
    difference: float | None
    """The largest relative difference of norm or projection; null: one is not finite."""


class FrameworkEquality(Model):
    """The nodes compared in one framework."""

    framework: str
    """Such as `pytorch==2.13.0`."""
    agree: tuple[str, ...]
    """The nodes of the largest group that agrees."""
    has_majority: bool
    """Whether these are more than any other group; without a majority nobody is named."""
    differ: tuple[NodeDifference, ...] = ()
    """The other nodes, by what they computed."""
    absent: Annotated[dict[str, str], Field(default_factory=dict)]
    """Nodes that computed nothing, and why."""

    @property
    def passed(self) -> bool:
        """Whether every node computed, and the same."""
        return not self.differ and not self.absent


class NodeEquality(Model):
    """`equality.json`: whether the nodes of a cluster compute the same."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that compared."""
    created_at: str
    """When, ISO 8601 in UTC."""
    cluster: str
    """Name of the cluster."""
    nodes: dict[str, str]
    """The hardware of each node, by name."""
    case: Case
    """What was trained, with the first framework."""
    tolerance: Tolerance
    """Bounds for nodes of different hardware, and for GPUs."""
    frameworks: tuple[FrameworkEquality, ...]
    """The comparison of each framework."""
    passed: bool
    """Whether all nodes computed the same in every framework."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAlignment:
    """What to compare and how; `folder` takes the files of the runs."""

    workload: Workload
    frameworks: Sequence[Framework]
    cluster: str
    nodes: Sequence[Node]
    settings: Settings
    tolerance: Tolerance
    time_limit_seconds: float
    folder: Path
    interrupts: Interrupts
    say: Callable[[str], None]
    _hardware: dict[str, str] = field(default_factory=dict)

    def result(self) -> NodeEquality:
        """Run every framework on all nodes at once, one after the other, and compare.

        Interrupted after a signal.
        """
        compared = tuple(self._framework(framework) for framework in self.frameworks)
        return NodeEquality(
            dlperf_version=__version__,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            cluster=self.cluster,
            nodes=self._hardware,
            case=self._case(self.frameworks[0]),
            tolerance=self.tolerance,
            frameworks=compared,
            passed=all(one.passed for one in compared),
        )

    def _case(self, framework: Framework) -> Case:
        version = framework.name.partition("==")[2]
        return probe_case(
            self.workload, framework=framework.adapter.name, version=version, settings=self.settings
        )

    def _framework(self, framework: Framework) -> FrameworkEquality:
        case = self._case(framework)
        self.say(
            f"{framework.name}: {plural(self.settings.steps, 'step')} on {plural(len(self.nodes), 'node')}"
        )
        absent: dict[str, str] = {}
        reason = framework.adapter.unsupported(case)
        if reason is not None:
            absent = {node.name: f"unsupported: {reason}" for node in self.nodes}
        launched: list[tuple[Node, Path, str]] = []
        prepared = each(self.nodes, lambda node: self._prepared(node, framework, case))
        for node, ready in zip(self.nodes, prepared, strict=True):
            if isinstance(ready, str):
                absent.setdefault(node.name, ready)
            elif node.name not in absent:
                launched.append((node, *ready))
        outputs = []
        for (node, _, hardware), arrays in zip(
            launched, self._run([one[:2] for one in launched]), strict=True
        ):
            if isinstance(arrays, str):
                absent[node.name] = arrays
            else:
                outputs.append(NodeOutputs(node.name, hardware, arrays))
        for name, why in absent.items():
            self.say(f"{framework.name}: {name}: {why}")
        return compare_nodes(
            framework.name, outputs, absent=absent, device=case.device, tolerance=self.tolerance
        )

    def _prepared(self, node: Node, framework: Framework, case: Case) -> tuple[Path, str] | str:
        """The run's folder on this machine and the node's kind; or why it cannot compute."""
        folder = self.folder / case.case_id / node.name
        try:
            if node.trouble is not None:
                return node.trouble
            environment = node.environment(framework.spec, python=framework.python)
            facts = node.facts()
            port = node.free_port()
        except (EnvironmentUnavailable, NodeLost) as error:
            return str(error)
        try:
            write_launch(
                folder,
                case,
                adapter=framework.adapter,
                node=node.placed(folder, python=environment.python),
                port=port,
                commands=lambda training: alignment_commands(training, ()),
                time_limit_seconds=self.time_limit_seconds,
            )
        except Flaw as flaw:
            return str(flaw)
        kind = (facts.cpu, *facts.accelerators, facts.driver, environment.manifest.version)
        self._hardware[node.name] = facts.hardware
        return folder, "; ".join(str(part) for part in kind if part is not None)

    def _run(self, launched: Sequence[tuple[Node, Path]]) -> list[Fingerprints | str]:
        """What each node printed; or why it computed nothing."""
        with self.interrupts.shielded():
            opened = each(launched, _opened) if launched else []
            connections = [one for one in opened if not isinstance(one, str)]
            wait_for_ends(connections, self.time_limit_seconds, self.interrupts)
            found = [
                one if isinstance(one, str) else _collected(node, folder)
                for (node, folder), one in zip(launched, opened, strict=True)
            ]
        self.interrupts.check()
        return found


def _opened(launched: tuple[Node, Path]) -> Connection | str:
    node, folder = launched
    try:
        return node.open(folder, launch=LAUNCH_NAME)
    except InfrastructureError as error:
        return str(error)


def _collected(node: Node, folder: Path) -> Fingerprints | str:
    try:
        node.bring_back(folder, outcome=OUTCOME_NAME)
    except InfrastructureError as error:
        return str(error)
    outcome = read_outcome(folder / OUTCOME_NAME)
    if outcome is None:
        return "its supervisor left no outcome"
    if outcome.reason != "completed":
        return failure_of(outcome, folder)
    arrays = read_fingerprints(folder / log_name(0))
    return arrays or "its program succeeded but printed no fingerprints"


def read_fingerprints(log: Path) -> Fingerprints:
    """The fingerprints in the log of a rank, in their order; the log may hold anything."""
    found: dict[str, Fingerprint] = {}
    for event in read_events(read_lines(log)):
        name, value = event.metadata.get("name"), event.value
        if event.key != "fingerprint" or not isinstance(name, str) or not isinstance(value, dict):
            continue
        if len(found) < _MOST_ARRAYS:
            numbers = finite(value.get("norm")), finite(value.get("projection"))
            found[name] = Fingerprint(str(value.get("sha256")), *numbers)
    return found


def compare_nodes(
    framework: str,
    outputs: Sequence[NodeOutputs],
    *,
    absent: Mapping[str, str],
    device: str,
    tolerance: Tolerance,
) -> FrameworkEquality:
    """The nodes in groups that agree; those outside the largest are named, if it is the only largest."""

    def differences(one: NodeOutputs, other: NodeOutputs) -> dict[str, float | None]:
        exact = device == "cpu" and one.hardware == other.hardware
        return differing(one.arrays, other.arrays, tolerance=None if exact else tolerance)

    groups = grouped(outputs, lambda one, other: not differences(one, other))
    if not groups:
        return FrameworkEquality(framework=framework, agree=(), has_majority=False, absent=dict(absent))
    largest, *others = groups
    found = []
    for group in others:
        apart = next(apart for one in largest for other in group if (apart := differences(other, one)))
        sizes = list(apart.values())
        known = [size for size in sizes if size is not None]
        found.append(
            NodeDifference(
                nodes=tuple(one.node for one in group),
                first=next(iter(apart)),
                differing=len(apart),
                arrays=len(largest[0].arrays),
                difference=max(known) if len(known) == len(sizes) else None,
            )
        )
    return FrameworkEquality(
        framework=framework,
        agree=tuple(one.node for one in largest),
        has_majority=not others or (len(largest) >= _MAJORITY and len(others[0]) < len(largest)),
        differ=tuple(found),
        absent=dict(absent),
    )


def differing(
    one: Fingerprints, other: Fingerprints, *, tolerance: Tolerance | None
) -> dict[str, float | None]:
    """The arrays that differ, in order, and by how much; None where that is no number.

    Without a tolerance every bit counts.
    """
    gradients = [print_.norm or 0.0 for name, print_ in other.items() if name.startswith("gradient_norm/")]
    floor = GRADIENT_FLOOR * math.hypot(*gradients)
    found: dict[str, float | None] = {}
    for name in dict.fromkeys((*one, *other)):
        first, second = one.get(name), other.get(name)
        if first == second and first is not None:
            continue
        size = (
            None
            if first is None or second is None
            else _difference(first, second, floor if name.startswith("gradient_norm/") else 0.0)
        )
        if tolerance is None or size is None or size > _bound(name, tolerance):
            found[name] = size
    return found


def _difference(first: Fingerprint, second: Fingerprint, floor: float) -> float | None:
    """The larger difference of norm and projection, relative to the second's norm, at least to `floor`."""
    numbers = (first.norm, second.norm, first.projection, second.projection)
    if None in numbers:
        return None
    norm, norm_, projection, projection_ = (float(number or 0.0) for number in numbers)
    apart = max(abs(norm - norm_), abs(projection - projection_))
    relative = apart / max(norm_, floor, 1e-30)
    return relative if math.isfinite(relative) else None


def _bound(name: str, tolerance: Tolerance) -> float:
    early = name.startswith(("input/", "first_step/")) or name == "embeddings"
    return tolerance.first_step if early else tolerance.after_steps


def lines(result: NodeEquality) -> list[str]:
    """What was found, for people: a line per framework, and one per node that differs."""
    found = []
    for one in result.frameworks:
        if one.passed:
            found.append(f"{one.framework}: {plural(len(one.agree), 'node')} compute the same")
        found += [f"{one.framework}: {_sentence(one, difference)}" for difference in one.differ]
        found += [f"{one.framework}: {node} computed nothing: {why}" for node, why in one.absent.items()]
    return found


def _sentence(one: FrameworkEquality, difference: NodeDifference) -> str:
    names, others = listed(difference.nodes), listed(one.agree)
    how = f"{difference.differing} of {difference.arrays} arrays differ, first {difference.first}"
    if difference.difference is not None:
        how += f", by up to {difference.difference:.0e}"
    if not one.has_majority:
        return f"{names} and {others} differ, and there is no majority: {how}"
    computes = "computes" if len(difference.nodes) == 1 else "compute"
    return f"{names} {computes} something else than {others}: {how}"
