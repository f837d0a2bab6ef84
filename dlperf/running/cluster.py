"""The nodes of a cluster: reached and locked for a sweep, or checked by `dlperf cluster check`."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dlperf.adapters.base import Adapter
from dlperf.errors import InfrastructureError, UserError
from dlperf.plan.cluster import Cluster, ClusterNode
from dlperf.plan.machine import Gpu, Machine
from dlperf.running.condition import Condition, check_alike, check_condition, check_interface
from dlperf.running.health import HealthIssue, Level, check_builds
from dlperf.running.slurm import allocation, inside
from dlperf.running.transports.base import NodeLost, each
from dlperf.running.transports.remote import RemoteNode
from dlperf.running.transports.session import Channel, Refusal, errors_of
from dlperf.running.transports.slurm import SlurmNode
from dlperf.running.transports.ssh import SshNode

_POLL_SECONDS = 1.0
_SHOWN = 3  # nodes that one message names; `dlperf cluster check` names all
_ROUND_TRIPS = 9
_LITTLE_DISK_BYTES, _NO_DISK_BYTES = 10 << 30, 100 << 20
# Of a second: logs of different nodes are compared by eye. Nothing that is measured depends on it.
_CLOCK_SECONDS = 1.0
_LINK_SECONDS, _LINK_LIMIT_SECONDS = 1, 20.0


@contextmanager
def reached(cluster: Cluster, *, say: Callable[[str], None]) -> Iterator[tuple[RemoteNode, ...]]:
    """The nodes, connected if possible; `trouble` of the others says why not.

    UserError if the ssh configuration cannot be followed, or two nodes are the same machine.
    """
    nodes = _nodes_of_job(cluster, say=say) if cluster.slurm is not None else _ssh_nodes(cluster, say=say)
    try:
        each(nodes, _reach)
        yield nodes
    finally:
        each(nodes, RemoteNode.close)


def _ssh_nodes(cluster: Cluster, *, say: Callable[[str], None]) -> tuple[RemoteNode, ...]:
    def node(spec: ClusterNode) -> RemoteNode:
        return SshNode(spec, cluster=cluster.path, say=say)

    nodes = tuple(each(cluster.nodes, node))
    _must_differ(nodes, cluster)
    return nodes


def _nodes_of_job(cluster: Cluster, *, say: Callable[[str], None]) -> tuple[RemoteNode, ...]:
    """The nodes of the job that this process runs in, as many as the cluster has."""
    if not inside():
        raise UserError(
            f"{cluster.path}: its nodes are those of a job of Slurm, and this is none; run this command "
            f"in one, such as by salloc --nodes={len(cluster.nodes)}"
        )
    given = allocation()
    if len(given.addresses) < len(cluster.nodes):
        raise UserError(
            f"{cluster.path}: nodes: {len(cluster.nodes)}, but this command is in job {given.job}, which has "
            f"{len(given.addresses)}; without SLURM_JOB_ID (env -u SLURM_JOB_ID) it submits a job of its own"
        )
    return tuple(
        SlurmNode(
            # The folder may be shared by the nodes, and each keeps its runs there.
            spec.model_copy(
                update={"name": name, "address": address, "folder": f"{spec.folder.rstrip('/')}/{name}"}
            ),
            job=given.job,
            address=address,
            features=given.features[name],
            container=cluster.container,
            cluster=cluster.path,
            say=say,
        )
        for spec, (name, address) in zip(cluster.nodes, given.addresses.items(), strict=False)
    )


@contextmanager
def held(
    cluster: Cluster, *, wait: bool, say: Callable[[str], None], limit_seconds: float | None = None
) -> Iterator[tuple[RemoteNode, ...]]:
    """The nodes as `reached` gives them; no other dlperf measures on them meanwhile.

    Without `limit_seconds`, another dlperf is waited for until its end; with it, a node that is still in use
    then is left to it. UserError as from `reached`; InfrastructureError where no node can be used, or `wait`
    is False and another dlperf measures on one.
    """
    deadline = math.inf if limit_seconds is None else time.monotonic() + limit_seconds
    with reached(cluster, say=say) as nodes:
        for node in nodes:
            if node.trouble is None:
                with suppress(NodeLost):  # its trouble says so
                    node.must_suit()
        _require_one(nodes, cluster)
        # All sweeps take the nodes in one order, so that no two wait for each other.
        for node in sorted(nodes, key=lambda node: (node.target.host, node.target.port)):
            with suppress(NodeLost):  # its trouble says so
                _hold(node, wait=wait, deadline=deadline, say=say)
        _require_one(nodes, cluster)
        yield nodes


def _require_one(nodes: tuple[RemoteNode, ...], cluster: Cluster) -> None:
    if all(node.trouble is not None for node in nodes):
        lines = "; ".join(f"{node.name}: {node.trouble}" for node in nodes[:_SHOWN])
        more = f"; and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
        raise InfrastructureError(f"no node of {cluster.path} can be used ({lines}{more})")


def _reach(node: RemoteNode) -> None:
    with suppress(NodeLost):  # its trouble says so
        node.reach()


def _hold(node: RemoteNode, *, wait: bool, deadline: float, say: Callable[[str], None]) -> None:
    told = None
    while (holder := node.hold()) is not None:
        text = f"another dlperf measures on {node.name} ({holder})"
        if not wait:
            raise InfrastructureError(f"{text}; try again later, or leave --no-wait out to wait")
        if holder != told:
            say(f"{text}; waiting for its end")
            told = holder
        if time.monotonic() > deadline:
            node.set_aside(f"another dlperf measures there: {holder}")
        time.sleep(_POLL_SECONDS)


def _must_differ(nodes: tuple[RemoteNode, ...], cluster: Cluster) -> None:
    seen: dict[object, str] = {}
    for node, spec in zip(nodes, cluster.nodes, strict=True):
        place = (node.target.host, node.target.port, spec.prefix)
        if place in seen:
            raise UserError(
                f"{cluster.path}: {seen[place]!r} and {node.name!r} are the same machine, {node.target}; "
                "remove one"
            )
        seen[place] = node.name


@dataclass(kw_only=True)
class Checkup:
    """The state of one node; None is unknown."""

    node: str
    place: str  # where ssh connects to, such as bench@10.0.0.11:2222
    findings: list[HealthIssue] = field(default_factory=list)
    round_trip_ms: float | None = None  # median over the open connection
    clock_seconds: float | None = None  # how far its clock is ahead of ours
    python: str | None = None  # version of the Python that runs dlperf's own programs
    cores: int | None = None
    free_bytes: int | None = None  # on the disk of the working folder
    environments: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()  # name and free memory (MiB)
    link_gbit: float | None = None  # to the first node of the cluster

    def note(self, check: str, text: str, *, level: Level = Level.OK) -> None:
        """Add a finding."""
        self.findings.append(HealthIssue(check=check, level=level, text=text))

    @property
    def is_bad(self) -> bool:
        """Whether something would break a sweep."""
        return any(finding.level is Level.BAD for finding in self.findings)


def check_nodes(
    nodes: Sequence[RemoteNode], specs: Sequence[ClusterNode], *, adapters: Mapping[str, Adapter]
) -> list[Checkup]:
    """Check the nodes, then the links between them."""
    conditions: dict[str, Condition] = {}

    def check(pair: tuple[RemoteNode, ClusterNode]) -> Checkup:
        return _checkup(*pair, adapters=adapters, conditions=conditions)

    found = each(list(zip(nodes, specs, strict=True)), check)
    by_name = {checkup.node: checkup for checkup in found}
    for name, issue in check_alike(conditions):
        by_name[name].findings.append(issue)
    reached = [(node, checkup) for node, checkup in zip(nodes, found, strict=True) if node.trouble is None]
    for node, checkup in reached[1:]:
        _check_link(reached[0][0], node, checkup)
    if len(nodes) > 1:
        for node, spec in zip(nodes, specs, strict=True):
            if node.name in conditions and spec.interface is None:
                place, device = node.target.host, spec.device
                issue = check_interface(conditions[node.name], reached_at=place, device=device)
                by_name[node.name].findings.append(issue)
    return found


def _checkup(
    node: RemoteNode,
    spec: ClusterNode,
    *,
    adapters: Mapping[str, Adapter],
    conditions: dict[str, Condition],
) -> Checkup:
    """The checks of one node; what it says of itself is added to `conditions`."""
    checkup = Checkup(node=node.name, place=str(node.target))
    if node.trouble is not None:
        checkup.note("connection", node.trouble, level=Level.BAD)
        return checkup
    try:
        _measure_times(node, checkup)
        condition = node.ask("condition")
    except NodeLost as lost:
        checkup.note("connection", str(lost), level=Level.BAD)
    except Refusal as refusal:
        checkup.note("working folder", f"{spec.work}: {refusal}", level=Level.BAD)
    else:
        _read_condition(checkup, condition, spec)
        conditions[node.name] = Condition.model_validate_json(json.dumps(condition["machine"]))
        checkup.findings += check_condition(conditions[node.name])
        if spec.device == "cuda":
            _read_gpus(checkup, condition, spec, adapters=adapters)
        if spec.interface is not None and not node.has_interface:
            text = (
                f"there is no {spec.interface} with an IPv4 address; `ip -4 addr` there shows what there is"
            )
            checkup.note("interface", text, level=Level.BAD)
    return checkup


def _measure_times(node: RemoteNode, checkup: Checkup) -> None:
    trips = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        node.free_port()
        trips.append(time.perf_counter() - started)
    checkup.round_trip_ms = round(statistics.median(trips) * 1000, 2)
    checkup.note("connection", f"round trip {checkup.round_trip_ms:g} ms, host key known")
    checkup.clock_seconds = round(node.clock().ahead_seconds, 3) + 0.0  # no -0
    if abs(checkup.clock_seconds) > _CLOCK_SECONDS:
        text = (
            f"{checkup.clock_seconds:+.1f} s from ours: times in logs cannot be compared; run ntpd or chrony"
        )
        checkup.note("clock", text, level=Level.WARNING)


def _read_condition(checkup: Checkup, condition: dict[str, Any], spec: ClusterNode) -> None:
    facts = condition["facts"]
    checkup.python, checkup.cores = condition["python"], facts["cores"]
    checkup.free_bytes = condition["free_bytes"]
    checkup.environments = tuple(condition["environments"])
    checkup.gpus = tuple(
        gpu["name"] + (f" ({free} MiB free)" if free is not None else "")
        for gpu, free in zip(condition["gpus"], condition["gpus_free_mib"], strict=True)
    )
    if facts["cores"] < spec.cores:
        text = (
            f"the cluster file says {spec.cores}, the node has {facts['cores']}; put cores: {facts['cores']}"
        )
        checkup.note("cores", text, level=Level.BAD)
    if checkup.free_bytes < _LITTLE_DISK_BYTES:
        level = Level.BAD if checkup.free_bytes < _NO_DISK_BYTES else Level.WARNING
        text = f"{checkup.free_bytes / 2**30:.1f} GiB free in {spec.work}; an environment may take 10 GiB"
        checkup.note("disk", text, level=level)
    if facts["load"] > facts["cores"] / 4:
        text = f"load average {facts['load']} on {facts['cores']} CPUs: something else runs there"
        checkup.note("load", text, level=Level.WARNING)
    if condition["uv"] is None and spec.environments == "make":
        checkup.note("uv", "not installed there; dlperf brings its own")
    if condition["holder"] is not None:
        text = f"one measures there now ({condition['holder']}); a sweep waits until it ends"
        checkup.note("other dlperf", text, level=Level.WARNING)
    if condition["left_processes"]:
        pids = " ".join(map(str, condition["left_processes"]))
        text = f"processes of a run are left: {pids}; `dlperf cluster clean` ends them"
        checkup.note("left over", text, level=Level.WARNING)


def _read_gpus(
    checkup: Checkup, condition: dict[str, Any], spec: ClusterNode, *, adapters: Mapping[str, Adapter]
) -> None:
    gpus = tuple(Gpu.model_validate(gpu) for gpu in condition["gpus"])
    reason = spec.lacking(gpus)
    if reason is not None:
        checkup.note("GPUs", reason, level=Level.BAD)
    checkup.findings += check_builds(Machine(cores=spec.cores, gpus=gpus[: spec.devices]), adapters)
    if condition["gpu_processes"]:
        text = f"used by {'; '.join(condition['gpu_processes'])}: stop them first"
        checkup.note("GPU use", text, level=Level.WARNING)


def _check_link(server: RemoteNode, client: RemoteNode, checkup: Checkup) -> None:
    """Measure the link to the first node with iperf3, where both have it."""
    try:
        tools = [node.ask("condition")["iperf3"] for node in (server, client)]
        if not all(tools):
            checkup.note("link", "not measured: iperf3 is missing")
            return
        port = str(server.free_port())
        # sshd does not end what it has started when its channel is closed.
        limit = str(int(2 * _LINK_LIMIT_SECONDS))
        options = f"-s -1 -p {port} --forceflush -B".split()
        serving = server.start(["timeout", limit, tools[0], *options, server.address])
        try:
            _until(serving, b"listening")
            options = f"-p {port} -t {_LINK_SECONDS} -J --connect-timeout 5000".split()
            asking = client.start([tools[1], "-c", server.address, *options])
            asking.settimeout(_LINK_LIMIT_SECONDS)
            answer = json.loads(b"".join(iter(lambda: asking.recv(1 << 16), b"")))
            bits = answer["end"]["sum_received"]["bits_per_second"]
            checkup.link_gbit = round(bits / 1e9, 2)
        finally:
            serving.close()
    except (NodeLost, OSError, ValueError, KeyError) as error:
        text = (
            f"{client.name} does not reach {server.name} at {server.address}: {error or type(error).__name__}"
        )
        checkup.note("link", f"{text}; see engine_address and interface", level=Level.BAD)


def _until(channel: Channel, text: bytes) -> None:
    channel.settimeout(_LINK_LIMIT_SECONDS)
    said = b""
    while text not in said:
        part = channel.recv(1 << 12)
        if not part:
            raise OSError(errors_of(channel) or "iperf3 ended early")
        said += part
