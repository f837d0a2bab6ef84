"""`dlperf cluster measure` on hosts with real links: what is slow is named, what is equal is not."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster_lab import ClusterLab

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def measured(lab: ClusterLab, python: Path, *, code: int) -> dict[str, Any]:
    """They share this machine, so that one measures at a time."""
    lab.write_cluster(interface="eth0", devices=1, cores=1)
    options = ("--parallel-nodes", "1", "--repeats", "4", "--seconds", "0.2", "--disk", "8MiB")
    done = lab.dlperf("cluster", "measure", "lab", *options, "--python", str(python), "--json")
    assert code == done.returncode, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


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


def test_equal_hosts_are_not_named(lab: ClusterLab, engine_python: Callable[[str], Path]) -> None:
    with ExitStack() as held:
        for host in lab.net.hosts:
            held.enter_context(host.with_cpu_time())
        content = measured(lab, engine_python("pytorch"), code=0)
    assert content["tests"] > 30
    assert all(all(one["values"]) for one in content["measurement"]["series"])
