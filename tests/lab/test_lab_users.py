"""A user who is not root, and nodes behind a prefix that is another program."""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
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
BOX = "box"


@pytest.fixture(params=["namespaces", "podman"])
def container(lab: ClusterLab, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The prefix of a container on node0: another file system, other processes, another host name."""
    host = lab.net.hosts[0]
    with {"namespaces": in_namespaces, "podman": in_podman}[request.param](lab, host) as prefix:
        yield prefix


@contextmanager
def in_namespaces(lab: ClusterLab, host: Host) -> Iterator[list[str]]:
    """What `docker exec -i NAME` does: a process in the namespaces of another, with our standard streams."""
    inside = f"hostname {BOX}; mount -t tmpfs own /root/disk; while :; do sleep 1 & wait $!; done"
    make = "unshare --mount --uts --pid --fork --kill-child=KILL --mount-proc sh -c"
    client = lab.console(host, *make.split(), inside)

    def first_process() -> int | None:
        for pid in host.processes(inside):
            name = host.run("nsenter", "--target", str(pid), "--uts", "hostname", check=False)
            if name.strip() == BOX:
                return pid
        return None

    until(first_process, what="the container is up")
    yield ["nsenter", "--target", str(first_process()), "--mount", "--uts", "--pid", "--"]
    client.kill()
    client.wait()


@contextmanager
def in_podman(lab: ClusterLab, host: Host) -> Iterator[list[str]]:
    """A container of podman, made of this machine's own files: no image is fetched."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    del lab
    root = "/root/container"
    podman = f"podman --root {root}/store --runroot {root}/run --storage-driver vfs --cgroup-manager cgroupfs"
    folders = " ".join(
        f"{root}/files/{name}" for name in ("root/disk", "etc", "proc", "sys", "dev", "run", "tmp")
    )
    seen = {Path("/usr"), *host.kept}
    mounts = " ".join(f"-v {path}:{path}" for path in sorted(seen))
    links = "; ".join(f"ln -sfn usr/{name} {root}/files/{name}" for name in ("bin", "lib", "lib64", "sbin"))
    # crun refuses a system with both versions of cgroups mounted; this is the host's own mount table.
    host.run("sh", "-c", "umount /sys/fs/cgroup/unified 2>/dev/null || true")
    host.run("sh", "-c", f"mkdir -p {folders}; {links}; cp /etc/passwd /etc/group {root}/files/etc")
    kinds = "--cgroups disabled --network host --security-opt seccomp=unconfined"
    words = f"{podman} run --detach --name {BOX} --hostname {BOX} --uts private {kinds} {mounts}"
    try:
        host.run(*f"{words} --rootfs {root}/files sleep 100000".split())
        yield [*podman.split(), "exec", "-i", BOX]
    finally:
        host.run(*f"{podman} rm --force --time 0 {BOX}".split(), check=False)


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
    until(lambda: not lab.left_on(host), limit=PROMISED_SECONDS + 10)
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
    assert [BOX] == [node["host"] for node in lab.environment_of(folder)["nodes"]]
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
    until(lambda: not lab.left_on(host), limit=PROMISED_SECONDS + 10)
