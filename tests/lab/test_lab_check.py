"""`dlperf cluster check` and `clean`."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from cluster_lab import WORK
from processes import until

if TYPE_CHECKING:
    from cluster_lab import ClusterLab


def test_good_nodes_are_measured(lab: ClusterLab) -> None:
    lab.write_cluster(folder="/root/work")
    done = lab.dlperf("cluster", "check", "lab", "--json")
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)
    assert [node["node"] for node in nodes] == ["node0", "node1", "node2", "node3"]
    for node in nodes:
        assert node["place"].startswith("root@10.77.")
        assert 0 < node["round_trip_ms"] < 5000
        assert abs(node["clock_seconds"]) < 5
        assert node["python"] == ".".join(map(str, sys.version_info[:3]))
        assert node["free_bytes"] > 100 << 20
        assert node["gpus"] == []
    if shutil.which("iperf3"):
        assert [node["link_gbit"] is not None for node in nodes] == [False, True, True, True]
        assert all(node["link_gbit"] > 0.01 for node in nodes[1:])


def test_what_would_break_a_sweep_is_told_with_exit_code_5(lab: ClusterLab) -> None:
    nodes = [
        {"name": "node0", "cores": 1000},
        {"name": "node1"},
        {"name": "node2", "folder": "/proc"},
        {"name": "node3", "interface": "ib9"},
        {"name": "nowhere", "address": lab.net.hosts[0].ip, "port": 2222},
    ]
    lab.write_cluster(nodes=nodes)
    done = lab.dlperf("cluster", "check", "lab")
    assert done.returncode == 5
    lines = done.stdout.splitlines()
    assert any("bad      node0: cores: the cluster file says 1000, the node has" in line for line in lines)
    assert any(
        line.startswith("bad      node2: connection: ") and "/proc/dlperf-node" in line for line in lines
    )
    assert any("bad      node3: interface: there is no ib9 with an IPv4 address" in line for line in lines)
    assert any(line.startswith("bad      nowhere: connection: ") for line in lines)
    assert lines[0].split()[:2] == ["node", "ssh"]


def test_gpus_that_are_missing_are_told(lab: ClusterLab) -> None:
    lab.write_cluster(nodes=[{"name": "node1", "device": "cuda", "devices": 8}])
    done = lab.dlperf("cluster", "check", "lab")
    assert done.returncode == 5
    assert "bad      node1: GPUs: the cluster file says 8 GPUs, CUDA shows none" in done.stdout.splitlines()


def test_clean_ends_what_a_run_left_and_nothing_else(lab: ClusterLab) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1)
    lab.write()
    assert lab.run().returncode == 0
    host.run("mkdir", "-p", f"{WORK}/runs/left-r1")
    # What a run left that lost everybody, one of another work folder, and one without any mark.
    left, another = f"DLPERF_RUN={WORK}/runs/left-r1", f"DLPERF_RUN={WORK}2/runs/left-r1"
    host.more.append(lab.console(host, "env", left, "sleep", "600"))
    host.more.append(lab.console(host, "env", another, "sleep", "602"))
    host.more.append(lab.console(host, "sleep", "601"))
    until(lambda: all(host.processes(words) for words in (left, another, "601")))
    warned = lab.dlperf("cluster", "check", "lab")
    assert "node0: left over: processes of a run are left: " in warned.stdout
    done = lab.dlperf("cluster", "clean", "lab", "--node", "node0")
    assert done.returncode == 0, done.stderr
    assert "1 folder removed" in done.stdout
    assert host.processes(left) == []
    assert len(host.processes("601")) == len(host.processes("602")) == 1
    host.run("kill", *host.processes(another))
    assert host.path(f"{WORK}/code").is_dir()
    done = lab.dlperf("cluster", "clean", "lab", "--node", "node0", "--everything", "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert ("node0", None, []) == (told["node"], told["error"], told["killed"])
    assert f"{WORK}/code" in told["removed"]
    assert not host.path(f"{WORK}/code").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--node", "node00"], "--node: unknown node 'node00' (did you mean 'node0'?)"),
        (["lab2"], "Got unexpected extra argument (lab2)"),
    ],
)
def test_wrong_words_are_told(lab: ClusterLab, words: list[str], message: str) -> None:
    done = lab.dlperf("cluster", "clean", "lab", *words)
    assert done.returncode == 2
    assert message in done.stderr
