"""Ctrl-C while a run is at work on a node: once, twice, three times."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING

from cluster_lab import LONG
from processes import until, until_line
from sweep_lab import ENDLESS_GRACE

if TYPE_CHECKING:
    import subprocess

    from cluster_lab import ClusterLab

# Beside a grandchild in a session of its own that ignores SIGTERM.
ENDLESS = {"step_seconds": 0.3, "fault": "loose", "fault_step": 1}


def at_work(lab: ClusterLab) -> subprocess.Popen[str]:
    lab.write_cluster(hosts=1)
    lab.write(options=ENDLESS, measure=LONG)
    process = lab.start()
    lab.until_step(lab.net.hosts[0], 2)
    return process


def test_the_first_ends_the_run_on_the_node(lab: ClusterLab) -> None:
    process = at_work(lab)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopping the run and its processes" in errors
    assert lab.left_on(lab.net.hosts[0]) == []
    assert lab.stored() == []


def test_the_second_kills_at_once_on_the_node(lab: ClusterLab) -> None:
    lab.patch(ENDLESS_GRACE)
    process = at_work(lab)
    process.send_signal(signal.SIGINT)
    until_line(process, "repeat to kill them at once")
    process.send_signal(signal.SIGINT)
    until_line(process, "repeat to exit without waiting")
    assert process.wait() == 130
    assert lab.left_on(lab.net.hosts[0]) == []
    assert lab.stored() == []


def test_the_third_leaves_and_says_a_command_that_ends_what_is_left(lab: ClusterLab) -> None:
    """The supervisor does not answer: all that the run has started there is stopped."""
    host = lab.net.hosts[0]
    process = at_work(lab)
    host.run("kill", "-STOP", *host.processes("DLPERF_RUN="))
    for words in ("repeat to kill them", "repeat to exit"):
        process.send_signal(signal.SIGINT)
        until_line(process, words)
    process.send_signal(signal.SIGINT)
    line = until_line(process, "end them with: ")[-1]
    assert process.wait() == 130
    assert lab.left_on(host) != []
    command = shlex.split(line.partition("end them with: ")[2])
    assert command == ["dlperf", "cluster", "clean", "clusters/lab.yaml", "--node", "node0"]
    done = lab.dlperf(*command[1:])
    assert done.returncode == 0, done.stderr
    assert "1 folder removed" in done.stdout
    until(lambda: not lab.left_on(host))
