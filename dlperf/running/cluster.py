"""The nodes of a cluster for as long as a sweep, or a look at them, takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dlperf.errors import InfrastructureError, UserError
from dlperf.plan.cluster import Cluster, ClusterNode
from dlperf.running.transports.base import NodeLost, each
from dlperf.running.transports.ssh import SshNode

_POLL_SECONDS = 1.0
_SHOWN = 3  # nodes that one message names; `dlperf cluster check` names all


@contextmanager
def reached(cluster: Cluster, *, say: Callable[[str], None]) -> Iterator[tuple[SshNode, ...]]:
    """The nodes, connected where that is possible; `trouble` of the others says why not.

    Raises:
        UserError: the ssh configuration cannot be followed, or makes one machine of two nodes.
    """

    def node(spec: ClusterNode) -> SshNode:
        return SshNode(spec, cluster=cluster.path, say=say)

    nodes = tuple(each(cluster.nodes, node))
    _must_differ(nodes, cluster)
    try:
        each(nodes, _reach)
        yield nodes
    finally:
        each(nodes, SshNode.close)


@contextmanager
def held(cluster: Cluster, *, wait: bool, say: Callable[[str], None]) -> Iterator[tuple[SshNode, ...]]:
    """The nodes as `reached` gives them; no other dlperf measures on them meanwhile.

    Raises:
        UserError: as `reached`.
        InfrastructureError: no node can be reached and has what the cluster file says, or `wait` is False
            and another dlperf measures on one.
    """
    with reached(cluster, say=say) as nodes:
        for node in nodes:
            if node.trouble is None:
                with suppress(NodeLost):  # its trouble says so
                    node.must_suit()
        if all(node.trouble is not None for node in nodes):
            lines = "; ".join(f"{node.name}: {node.trouble}" for node in nodes[:_SHOWN])
            more = f"; and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
            raise InfrastructureError(f"no node of {cluster.path} can be used ({lines}{more})")
        # All sweeps take the nodes in one order, so that no two wait for each other.
        for node in sorted(nodes, key=lambda node: (node.target.host, node.target.port)):
            if node.trouble is None:
                with suppress(NodeLost):  # its trouble says so
                    _hold(node, wait=wait, say=say)
        yield nodes


def _reach(node: SshNode) -> None:
    with suppress(NodeLost):  # its trouble says so
        node.reach()


def _hold(node: SshNode, *, wait: bool, say: Callable[[str], None]) -> None:
    if node.hold():
        return
    if not wait:
        raise InfrastructureError(
            f"another dlperf measures on {node.name}; try again later, or leave --no-wait out to wait"
        )
    say(f"another dlperf measures on {node.name}; waiting for its end")
    while not node.hold():
        time.sleep(_POLL_SECONDS)


def _must_differ(nodes: tuple[SshNode, ...], cluster: Cluster) -> None:
    seen: dict[object, str] = {}
    for node, spec in zip(nodes, cluster.nodes, strict=True):
        place = (node.target.host, node.target.port, spec.prefix)
        if place in seen:
            raise UserError(
                f"{cluster.path}: {seen[place]!r} and {node.name!r} are the same machine, {node.target}; "
                "remove one"
            )
        seen[place] = node.name
