"""A user who is not root, and nodes behind a prefix that is another program."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from cluster_lab import LONG
from netlab import USER, USER_ID
from processes import PROMISED_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_lab import ClusterLab
    from netlab import Host

HOME = f"/home/{USER}"
# What `docker exec -i NAME` does: a process in the namespaces of another, whose standard streams are ours.
CONTAINER = "container-of-the-test"


@pytest.fixture
def container(lab: ClusterLab) -> Iterator[list[str]]:
    """The prefix of a container on node0: another file system, other processes, another host name."""
    host = lab.net.hosts[0]
    inside = (
        f"hostname box; mount -t tmpfs own /root/disk; : {CONTAINER}; while :; do sleep 1 & wait $!; done"
    )
    client = lab.console(
        host,
        "unshare",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "sh",
        "-c",
        inside,
    )
    until(lambda: _first_process(host), what="the container is up")
    yield ["nsenter", "--target", str(_first_process(host)), "--mount", "--uts", "--pid", "--"]
    client.kill()
    client.wait()


def _first_process(host: Host) -> int | None:
    """The container's process 1 as the host counts, once its host name is set; its parent is the client."""
    for pid in host.processes(CONTAINER):
        name = host.run("nsenter", "--target", str(pid), "--uts", "hostname", check=False).strip()
        if name == "box":
            return pid
    return None


def test_a_user_who_is_not_root_needs_nothing_but_a_folder(lab: ClusterLab) -> None:
    """Run, interruption, check and cleaning, all in the user's home."""
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=2, user=USER, folder=HOME)
    lab.write(topology="2n1g", options={"print_variables": "HOME USER"})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert ("ok", ("node0", "node1")) == (result.status.value, result.nodes)
    assert lab.logged(f"HOME is {HOME}, of {len(HOME)} characters")
    checked = lab.dlperf("cluster", "check", "lab")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{USER}@{host.ip}" in checked.stdout
    lab.write(options={"fault": "loose", "fault_step": 1, "step_seconds": 0.3}, measure=LONG)
    process = lab.start("--results", "results/long")
    until(lambda: host.processes("DLPERF_RUN="), what="the run is at work")
    process.kill()
    until(lambda: not lab.left_on(host), limit=PROMISED_SECONDS + 5)
    cleaned = lab.dlperf("cluster", "clean", "lab", "--everything")
    assert cleaned.returncode == 0, cleaned.stderr
    assert [] == list(host.path(f"{HOME}/dlperf-node").iterdir())
    assert USER_ID == host.path(f"{HOME}/dlperf-node").stat().st_uid


def test_a_folder_that_the_user_may_not_write_is_told(lab: ClusterLab) -> None:
    lab.write_cluster(hosts=1, user=USER, folder="/root")
    lab.write()
    done = lab.run()
    assert done.returncode == 5
    assert (
        "the working folder cannot be made: [Errno 13] Permission denied: '/root/dlperf-node" in done.stderr
    )


def test_a_run_in_a_container_leaves_nothing_there(lab: ClusterLab, container: list[str]) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1, prefix=container)
    lab.write()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (folder,) = lab.run_folders()
    assert ["box"] == [node["host"] for node in lab.environment_of(folder)["nodes"]]
    lab.write(options={"fault": "loose", "fault_step": 1, "step_seconds": 0.3}, measure=LONG)
    process = lab.start("--results", "results/long")
    until(lambda: len(host.processes("DLPERF_RUN=")) > 2, what="the run is at work in the container")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert lab.left_on(host) == []


def test_a_container_loses_its_client_and_the_lease_ends_the_run(
    lab: ClusterLab, container: list[str]
) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1, prefix=container)
    lab.write(options={"fault": "loose", "fault_step": 1, "step_seconds": 0.3}, measure=LONG)
    process = lab.start()
    until(lambda: len(host.processes("DLPERF_RUN=")) > 2, what="the run is at work in the container")
    process.kill()
    until(lambda: not lab.left_on(host), limit=PROMISED_SECONDS + 5)
