"""Cluster files: what they say of each node, every mistake at its place, what a plan makes of them."""

# ruff: noqa: E501 - a message is one line, as it is printed

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dlperf.errors import SourceErrors, UserError
from dlperf.plan.cluster import load_cluster
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Gpu
from dlperf.plan.plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.cluster import Cluster
    from dlperf.plan.plan import Plan

TWO = """\
devices: 2
cores: 16
device: cpu
nodes: [a, {name: b, address: 10.0.0.2, port: 2222, devices: 4}]
"""

V100 = """\
devices: 8
cores: 64
nodes: [a, b]
"""

SWEEP = """\
experiment: quickstart
frameworks: mxnet==1.9.1
topology: [1n1g, 2n2g, 2n4g, 4n1g]
batch_size_per_device: 8
threads_per_device: 2
"""


def cluster(text: str, folder: Path) -> Cluster:
    (folder / "c.yaml").write_text(text)
    return load_cluster("c.yaml", folder=folder)


def problems(text: str, folder: Path) -> list[str]:
    with pytest.raises(SourceErrors) as caught:
        cluster(text, folder)
    return [str(problem) for problem in caught.value.problems]


def test_what_stands_beside_the_nodes_holds_for_each_that_says_nothing_else(tmp_path: Path) -> None:
    text = TWO + "user: bench\nlink: 1 Gbit/s\nenvironment: {A: '1', B: '2'}\n"
    text = text.replace("devices: 4", "devices: 4, environment: {B: '3'}, user: root")
    a, b = cluster(text, tmp_path).nodes
    assert ("a", "a", None, "bench", 2) == (a.name, a.address, a.port, a.user, a.devices)
    assert ("b", "10.0.0.2", 2222, "root", 4) == (b.name, b.address, b.port, b.user, b.devices)
    assert ("1 Gbit/s", "1 Gbit/s") == (a.link, b.link)
    assert {"A": "1", "B": "2"} == a.environment
    assert {"A": "1", "B": "3"} == b.environment
    assert ("python3", "make", ()) == (a.python, a.environments, a.prefix)


def test_the_shipped_examples_are_valid(tmp_path: Path) -> None:
    assert ["gpu1", "gpu2"] == [node.name for node in load_cluster("example", folder=tmp_path).nodes]
    made = load_cluster("slurm", folder=tmp_path)
    assert (2, "gpu") == (len(made.nodes), made.slurm.partition if made.slurm else None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TWO + "adress: x\n", "c.yaml:5:1: unknown key 'adress'; known: port, user, ssh_config, device, devices, gpu, cores, interface, link, folder, environment, python, prefix, environments, transport, nodes, allocate, submit, container, notes"),
        (TWO.replace("port:", "prot:"), "c.yaml:4:41: unknown key 'prot' (did you mean 'port'?)"),
        (TWO.replace("port: 2222", "port: 70000"), "c.yaml:4:47: nodes[1].port: must be less than or equal to 65535, not 70000"),
        (TWO.replace("name: b", "name: a"), "c.yaml:4:12: nodes[1]: node 'a' is listed twice; remove one"),
        (TWO.replace("10.0.0.2, port: 2222", "a"), "c.yaml:4:12: nodes[1]: 'b' is the same machine as 'a'; remove one"),
        (TWO.replace("cores: 16\n", ""), "c.yaml:3:9: nodes[0]: key 'cores' is missing: the number of cores of 'a', here or for all nodes"),
        (TWO.replace("nodes: [a", "nodes: ['-oProxyCommand=x'"), "c.yaml:4:9: nodes[0]: '-oProxyCommand=x' is not a host name, alias or address"),
        ("devices: 1\ncores: 2\n", "c.yaml:1:1: key 'nodes' is missing: a list of host names, or of mappings with 'name'"),
        (TWO + "link: ''\n", "c.yaml:5:7: link: must be one line of 1 to 80 characters"),
        (TWO + "link: |\n  two\n  lines\n", "c.yaml:5:7: link: must be one line of 1 to 80 characters"),
        (TWO.replace("devices: 4", "device: cuda"), "c.yaml:4:12: nodes[1]: node 'a' has device cpu, node 'b' cuda: give each kind its own cluster file"),
        (TWO + "gpu: {name: V100}\n", "c.yaml:5:1: gpu: describes GPUs, and the nodes have device cpu; remove it"),
        (TWO.replace("devices: 4", "gpu: {name: V100}"), "c.yaml:4:53: nodes[1].gpu: describes GPUs, and the node has device cpu; remove it"),
        (V100 + "gpu: {name: V100, capability: 7.25}\n", "c.yaml:4:31: gpu.capability: must be text, not 7.25; put it in quotes"),
        (V100 + "gpu: {name: V100, capability: sm_70}\n", "c.yaml:4:31: gpu.capability: must be like 9.0, not 'sm_70'"),
        (V100 + "gpu: {name: V100, driver: 550.54}\n", "c.yaml:4:27: gpu.driver: must be text, not 550.54; put it in quotes"),
        (V100 + "gpu: {name: V100, driver: new}\n", "c.yaml:4:27: gpu.driver: must be like 550.54.15, not 'new'"),
        (V100 + "gpu: {capability: 7.0}\n", "c.yaml:4:1: gpu: key 'name' is missing"),
        (TWO + "environment: {'A B': x}\n", "c.yaml:5:1: environment: 'A B' is not a variable name"),
    ],
)  # fmt: skip
def test_a_mistake_shows_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in problems(text, tmp_path)


SLURM = """\
transport: slurm
nodes: 2
devices: 8
cores: 64
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SLURM.replace("nodes: 2", "nodes: [a]"), "c.yaml:2:1: nodes: with slurm 'nodes' is how many nodes the job takes, such as 2"),
        (SLURM.replace("nodes: 2\n", ""), "c.yaml:1:1: with slurm 'nodes' is how many nodes the job takes, such as 2"),
        (SLURM.replace("transport: slurm\n", ""), "c.yaml:1:8: nodes: must be a list of host names, or of mappings with 'name'; a number goes with slurm"),
        (TWO + "submit: {time: 4h}\n", "c.yaml:5:1: submit: belongs to 'transport: slurm'"),
        (TWO + "container: {runtime: pyxis, image: x}\n", "c.yaml:5:1: container: belongs to 'transport: slurm'"),
        (SLURM + "port: 22\n", "c.yaml:5:7: port: belongs to 'transport: ssh'"),
        (SLURM + "prefix: [x]\n", "c.yaml:5:1: prefix: belongs to 'transport: ssh'"),
        (SLURM.replace("cores: 64\n", ""), "c.yaml:1:1: key 'cores' is missing: the number of cores of each node"),
        (SLURM + "submit: {time: 2m}\n", "c.yaml:5:16: submit.time: must be longer than 120 s: in the last 120 s of a job no run starts"),
        (SLURM + "submit: {extra: [-x]}\n", "c.yaml:5:18: submit.extra[0]: must be like --reservation=tests, not '-x'"),
        (SLURM + "submit: {parallel_jobs: 2}\n", "c.yaml:5:25: submit.parallel_jobs: belongs to 'allocate: per_cell'; otherwise there is one job"),
        (SLURM + "allocate: each\n", "c.yaml:5:11: allocate: must be one of held, per_cell, not text 'each'"),
        (TWO + "allocate: per_cell\n", "c.yaml:5:11: allocate: belongs to 'transport: slurm'"),
        (SLURM + "submit: {contnue: true}\n", "c.yaml:5:10: unknown key 'contnue' (did you mean 'continue'?)"),
        (SLURM + "container: {runtime: docker, image: x}\n", "c.yaml:5:22: container.runtime: must be one of pyxis, apptainer, not text 'docker'"),
        (SLURM + "device: cpu\ngpu: {name: V100}\n", "c.yaml:6:1: gpu: describes GPUs, and the nodes have device cpu; remove it"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_for_slurm_shows_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    assert [problem] == problems(text, tmp_path)


def test_the_nodes_of_slurm_have_no_names_yet_and_environments_on_shared_storage(tmp_path: Path) -> None:
    made = cluster(SLURM + "submit: {partition: gpu, continue: true}\n", tmp_path)
    assert [("node1", "shared", 8), ("node2", "shared", 8)] == [
        (node.name, node.environments, node.devices) for node in made.nodes
    ]
    assert made.slurm is not None
    assert made.slurm.continue_


@pytest.mark.parametrize("key", ["password", "passphrase", "Password", "secret"])
def test_a_password_is_refused_without_being_shown(key: str, tmp_path: Path) -> None:
    (problem,) = problems(TWO.replace("port: 2222", f"{key}: hunter2"), tmp_path)
    assert problem == (
        f"c.yaml:4:41: nodes[1].{key}: do not put secrets into a file; use a key with ssh-agent, "
        "or IdentityFile in ~/.ssh/config"
    )


def test_a_cluster_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown cluster 'exampel' \\(did you mean 'example'\\?\\)"):
        load_cluster("exampel", folder=tmp_path)


def planned(text: str, folder: Path, adapters: Any) -> Plan:
    (folder / "s.yaml").write_text(SWEEP)
    found = cluster(text, folder)
    sweep = load_sweep("s.yaml", adapters=adapters, folder=folder)
    return make_plan(sweep, adapters=adapters, machine=found.weakest, cluster=found)


def test_a_plan_for_a_cluster_says_what_the_cluster_lacks(tmp_path: Path, adapters: Any) -> None:
    plan = planned(TWO, tmp_path, adapters)
    reasons = {str(item.case.topology): item.reason for item in plan.cases}
    assert reasons == {
        "1n1g": None,
        "2n2g": None,
        "2n4g": "needs 2 nodes with 4 cpu devices and 8 cores each; cluster c has 1",
        "4n1g": "needs 4 nodes; cluster c has 2",
    }
    assert plan.cluster is not None
    assert ("a", "b") == plan.cluster.nodes


@pytest.mark.parametrize("capability", ["7.0", "'7.0'", "7"])
def test_a_file_may_say_what_the_gpus_are(capability: str, tmp_path: Path) -> None:
    text = V100 + f"gpu: {{name: V100, capability: {capability}, driver: 535.183.01, memory: 16GiB}}\n"
    found = cluster(text, tmp_path)
    gpu = Gpu(name="V100", capability="7.0", driver="535.183.01", memory_bytes=16 << 30)
    assert (gpu,) * 8 == found.nodes[0].machine.gpus == found.weakest.gpus


def test_the_weakest_node_has_of_everything_the_least(tmp_path: Path) -> None:
    text = """\
cores: 64
nodes:
  - {name: a, devices: 8, gpu: {name: A100, capability: 8.0, driver: 550.54.15, memory: 40GiB}}
  - {name: b, devices: 4, gpu: {name: V100, capability: 7.0, driver: 580.65.06, memory: 32GiB}}
  - {name: c, devices: 8, gpu: {name: H200, capability: '10.0', driver: 550.100.1}}
  - {name: d, devices: 8}
"""
    gpu = Gpu(name="V100", capability="7.0", driver="550.54.15", memory_bytes=32 << 30)
    assert (gpu,) * 4 == cluster(text, tmp_path).weakest.gpus


REAL = Gpu(name="Tesla V100-SXM2-16GB", capability="7.0", driver="535.183.01", memory_bytes=16160 << 20)


@pytest.mark.parametrize(
    ("described", "real", "reason"),
    [
        ("name: V100", (REAL, REAL), None),
        ("name: Tesla V100-SXM2-16GB, capability: 7.0, driver: 535.54.03, memory: 16GiB", (REAL, REAL), None),
        ("name: V100", (REAL,), "the cluster file says 2 GPUs, CUDA shows 1"),
        ("name: V100", (), "the cluster file says 2 GPUs, CUDA shows none"),
        ("name: A100", (REAL, REAL), "the cluster file says GPU A100, CUDA shows Tesla V100-SXM2-16GB"),
        (
            "name: V100, capability: 7.5",
            (REAL, REAL),
            "the cluster file says compute capability 7.5, Tesla V100-SXM2-16GB has 7.0",
        ),
        (
            "name: V100, driver: 550.54.15",
            (REAL, REAL),
            "the cluster file says driver 550.54.15, the node has 535.183.01",
        ),
        (
            "name: V100, memory: 32GiB",
            (REAL, REAL),
            "the cluster file says 32GiB per GPU, Tesla V100-SXM2-16GB has 15.8 GiB",
        ),
        ("name: V100, capability: 7.0, driver: 550.54.15", (Gpu(name="Tesla V100"),) * 2, None),
    ],
)
def test_the_real_gpus_are_compared_with_the_file(
    described: str, real: tuple[Gpu, ...], reason: str | None, tmp_path: Path
) -> None:
    text = f"devices: 2\ncores: 8\nnodes: [a]\ngpu: {{{described}}}\n"
    (node,) = cluster(text, tmp_path).nodes
    assert reason == node.lacking(real)
