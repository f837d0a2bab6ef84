"""Which nodes a case gets, and what becomes of nodes that were set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from run_folders import make_case
from simulated_nodes import SimulatedNode, Simulation

from dlperf.plan.case import Topology
from dlperf.plan.cluster import load_cluster
from dlperf.running.scheduler import NodePool

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.case import Case


def pool(folder: Path, *, has_environment: Any = lambda _node, _case: True) -> NodePool:
    (folder / "c.yaml").write_text("device: cpu\ndevices: 2\ncores: 8\nnodes: [sim1, sim2, sim3]\n")
    cluster = load_cluster("c.yaml", folder=folder)
    return NodePool(
        nodes=[SimulatedNode(node, Simulation()) for node in cluster.nodes], has_environment=has_environment
    )


def case(topology: str) -> Case:
    return make_case(topology=Topology.from_text(topology))


def names(nodes: Any) -> list[str]:
    return [node.name for node in nodes]


def test_the_first_free_nodes_are_taken_whole(tmp_path: Path) -> None:
    nodes = pool(tmp_path)
    first = nodes.acquire(case("2n1g"))
    assert names(first) == ["sim1", "sim2"]
    assert nodes.acquire(case("2n1g")) is None
    assert names(nodes.acquire(case("1n1g"))) == ["sim3"]
    nodes.release(first)
    assert names(nodes.acquire(case("1n2g"))) == ["sim1"]


def test_a_case_that_no_node_fits_gets_none(tmp_path: Path) -> None:
    nodes = pool(tmp_path)
    assert not nodes.can_serve(case("1n4g"))
    assert not nodes.lacks_environment(case("1n4g"))
    assert not nodes.can_serve(case("4n1g"))


def test_a_node_set_aside_gets_nothing_until_it_is_back(tmp_path: Path) -> None:
    nodes = pool(tmp_path)
    lost = nodes.nodes[0]
    nodes.set_aside(lost, "lost: no sign of life")
    assert nodes.unusable == {"sim1": "lost: no sign of life"}
    assert names(nodes.acquire(case("1n1g"))) == ["sim2"]
    assert not nodes.can_serve(case("3n1g"))
    nodes.take_back(lost)
    assert nodes.can_serve(case("3n1g"))


def test_nodes_without_the_environment_are_told_from_nodes_that_are_not_there(tmp_path: Path) -> None:
    nodes = pool(tmp_path, has_environment=lambda node, _case: node.name == "sim2")
    assert names(nodes.acquire(case("1n1g"))) == ["sim2"]
    assert nodes.lacks_environment(case("2n1g"))
    nodes.set_aside(nodes.nodes[0], "lost")
    nodes.set_aside(nodes.nodes[2], "lost")
    assert not nodes.lacks_environment(case("2n1g"))
