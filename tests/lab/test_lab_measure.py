"""`dlperf cluster measure` on hosts with real links: what is slow is named, what is equal is not."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from cluster_lab import WORK
from processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cluster_lab import ClusterLab
    from netlab import Host

pytestmark = [pytest.mark.slow, pytest.mark.engine]


# Of three processes that import PyTorch at once, on a busy machine.
LIMIT_SECONDS = 300.0


def measured(lab: ClusterLab, python: Path, *, code: int) -> dict[str, Any]:
    """They share this machine, so that one measures at a time."""
    lab.write_cluster(interface="eth0", devices=1, cores=1)
    options = ("--parallel-nodes", "1", "--repeats", "4", "--seconds", "0.2", "--disk", "8MiB")
    done = lab.dlperf("cluster", "measure", "lab", *options, "--python", str(python), "--json")
    assert code == done.returncode, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.mark.quiet
def test_a_slow_host_a_slow_link_and_a_cut_link_are_named(
    lab: ClusterLab, engine_python: Callable[[str], Path]
) -> None:
    first, second, third, slow = lab.net.hosts
    with ExitStack() as held:
        for host in lab.net.hosts:
            held.enter_context(host.with_cpu_time(0.5 if host is slow else None))
        for host, other in ((first, second), (second, first)):
            host.shape_to(other, "100mbit")
            held.callback(host.shape, None)
        second.run("ip", "route", "add", "blackhole", f"{third.ip}/32")
        held.callback(second.run, "ip", "route", "del", "blackhole", f"{third.ip}/32")
        content = measured(lab, engine_python("pytorch"), code=1)
    texts = [finding["text"] for finding in content["findings"]]
    assert any(text.startswith("node node3: matrix rate fp32 ") for text in texts), texts
    assert any(text.startswith("link node0 to node1: bandwidth 9") for text in texts), texts
    assert any(text.startswith("link node1 to node2: latency could not be") for text in texts), texts
    assert all("node3" in text or "node1" in text for text in texts), texts


@pytest.mark.quiet
def test_equal_hosts_are_not_named(lab: ClusterLab, engine_python: Callable[[str], Path]) -> None:
    with ExitStack() as held:
        for host in lab.net.hosts:
            held.enter_context(host.with_cpu_time())
        content = measured(lab, engine_python("pytorch"), code=0)
    assert content["tests"] > 30
    assert all(all(one["values"]) for one in content["measurement"]["series"])


@pytest.fixture
def mended(lab: ClusterLab) -> Iterator[None]:
    """What a test breaks is repaired afterwards."""
    yield
    for host in lab.net.hosts:
        host.link(up=True)
        if not host._answers():
            host.start_sshd()


def kill_attendant(host: Host) -> None:
    """What answers dlperf on the node, and not the run beside it."""
    of_runs = host.processes("DLPERF_RUN=")
    host.run("kill", "-9", *(pid for pid in host.processes(WORK) if pid not in of_runs))


def kill_run(host: Host) -> None:
    host.run("kill", "-9", *host.processes("DLPERF_RUN="))


BREAK: dict[str, Callable[[Host], None]] = {
    "sshd killed": lambda host: host.kill_sshd(),
    "cable pulled": lambda host: host.link(up=False),
    "attendant killed": kill_attendant,
    "run killed": kill_run,
}


@pytest.mark.usefixtures("mended")
@pytest.mark.parametrize(
    ("how", "number", "why"),
    [
        ("sshd killed", 0, "lost: the connection broke"),
        ("attendant killed", 1, "lost: the connection broke"),
        ("run killed", 1, "its supervisor ended without an outcome"),
        ("cable pulled", 2, "lost: no sign of life for 9.5 s"),
    ],
)
def test_a_node_that_is_lost_while_it_measures_is_set_aside_and_the_others_go_on(
    lab: ClusterLab, engine_python: Callable[[str], Path], how: str, number: int, why: str
) -> None:
    """Rank 0 too, whose process holds what the others meet at."""
    lab.write_cluster(hosts=3, interface="eth0", devices=1, cores=1)
    words = ["cluster", "measure", "lab", "--parallel-nodes", "1", "--repeats", "3", "--seconds", "0.1"]
    words += ["--disk", "8MiB", "--python", str(engine_python("pytorch")), "--results", "out", "--json"]
    process = lab.popen(*words)
    lost = lab.net.hosts[number]
    lab.until_logged(lost, '"repeat": 2, "device"', limit=LIMIT_SECONDS)  # after the links
    BREAK[how](lost)
    output, errors = process.communicate()
    content = json.loads(output)
    assert process.returncode == (1 if content["findings"] else 3), errors  # they share this machine
    measurement, others = content["measurement"], {"node0", "node1", "node2"} - {lost.name}
    assert {lost.name: why} == measurement["lost"]
    assert f"{lost.name} is set aside: {why}" in errors
    assert "measuring goes on with 2 nodes from repeat 2 of 3" in errors
    assert others == {node["name"] for node in measurement["nodes"]}
    series = measurement["series"]
    assert all(all(one["values"]) and {one["node"], one["peer"] or one["node"]} <= others for one in series)
    assert {"matrix_fp32", "disk_write", "link_bandwidth"} < {one["metric"] for one in series}
    told = f"node {lost.name}: not measured, nor its links: {why}"
    assert [told] == [one["text"] for one in content["missing"]]
    assert (
        told in lab.dlperf("report", "out", "--out", "page.md").stdout + (lab.folder / "page.md").read_text()
    )


@pytest.mark.usefixtures("mended")
def test_a_measurement_whose_only_node_is_lost_is_none(
    lab: ClusterLab, engine_python: Callable[[str], Path]
) -> None:
    lab.write_cluster(hosts=1, devices=1, cores=1)
    process = lab.popen(
        *("cluster", "measure", "lab", "--results", "out", "--python", str(engine_python("pytorch")))
    )
    until(lambda: lab.net.hosts[0].processes("DLPERF_RUN="), limit=LIMIT_SECONDS, what="it starts")
    lab.net.hosts[0].kill_sshd()
    _, errors = process.communicate()
    assert process.returncode == 5
    assert "not measured: no node is left (node0: lost: the connection broke)" in errors
    assert not (lab.folder / "out" / "measurement.json").exists()
