"""`dlperf cluster check` and `clean`."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from cluster_lab import WORK
from netlab import SMALL, tool
from nvidia_smi import FakeGpu, write_nvidia_smi
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_lab import ClusterLab
    from netlab import Host


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


@pytest.fixture
def troubled(lab: ClusterLab) -> Iterator[Host]:
    """node1 with a small /dev/shm, little locked memory over ssh, and a name that stands for Docker's bridge.

    Only its RDMA device is none: a folder where the kernel lists those.
    """
    host = lab.net.hosts[1]
    hosts = host.folder / "hosts"
    names = hosts.read_text()
    host.run("mount", "-t", "tmpfs", "-o", "size=64m", "shm", "/dev/shm")  # noqa: S108
    host.run("mount", "-t", "tmpfs", "class", "/sys/class")
    host.run("mkdir", "-p", "/sys/class/infiniband/mlx5_0")
    host.run("prlimit", "--pid", host.run("pgrep", "-o", "-x", "sshd").strip(), f"--memlock={64 << 10}:")
    tool("ip", "-n", host.netns, "link", "add", "docker0", "type", "bridge")
    tool("ip", "-n", host.netns, "addr", "add", "172.17.0.1/16", "dev", "docker0")
    tool("ip", "-n", host.netns, "link", "set", "docker0", "up")
    hosts.write_text(f"172.17.0.1 {host.name}\n{names}")
    yield host
    hosts.write_text(names)
    tool("ip", "-n", host.netns, "link", "del", "docker0")
    host.poweroff()
    host.power_on()


def test_what_may_disturb_a_sweep_is_told_as_a_warning(lab: ClusterLab, troubled: Host) -> None:
    """And on the other node nothing: a GPU that differs is named where it does. nvidia-smi is a stand-in."""
    for name, gpu in (
        ("node0", FakeGpu(name="NVIDIA H200")),
        ("node1", FakeGpu(name="NVIDIA H200", state=(("power.limit", "500.00"), ("memory.used", "9000")))),
    ):
        (lab.net.folder / f"smi-{lab.mark}-{name}").mkdir()
        write_nvidia_smi(lab.net.folder / f"smi-{lab.mark}-{name}", gpu)
    folder = lab.net.folder
    lab.write_cluster(
        folder="/root/work",
        device="cuda",
        devices=1,
        nodes=[
            {"name": "node0", "environment": {"PATH": f"{folder}/smi-{lab.mark}-node0:/usr/bin:/bin"}},
            {
                "name": troubled.name,
                "environment": {
                    "PATH": f"{folder}/smi-{lab.mark}-node1",
                    "HOME": f"{folder}/{SMALL}",
                },
            },
        ],
    )
    done = lab.dlperf("cluster", "check", "lab")
    assert done.returncode == 0, done.stderr
    warnings = [line.removeprefix("warning  ") for line in done.stdout.splitlines() if ": " in line]
    for start in (
        "node1: locked memory: up to 0 MiB, and RDMA (mlx5_0) locks what it sends: ",
        "node1: shared memory: 64 MiB of 64 MiB free in /dev/shm, too little for NCCL ",
        f"node1: home: 16 MiB free in {folder}/{SMALL}, where engines keep caches: ",
        "node1: GPU memory: 9000 MiB of GPU 0 are held, and nvidia-smi lists no process ",
        "node1: C compiler: no gcc or clang on PATH, which torch.compile needs: ",
        "node1: power limit: 500 W on GPU 0, 700 W elsewhere: `nvidia-smi -i 0 -pl 700` as root",
        "node1: interface: gloo takes 172.17.0.1, its own name's address, which is on docker0 and ",
    ):
        assert any(line.startswith(start) for line in warnings), (start, done.stdout)
    others = {line.split(": ")[1] for line in warnings if line.startswith("node0: ")}
    # Of this machine, and of frameworks that cannot run on an H200.
    assert {"load", "disk"} >= {check for check in others if not check.endswith(" on GPUs")}


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
