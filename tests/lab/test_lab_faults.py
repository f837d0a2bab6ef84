"""What breaks in a cluster, broken for real: what is stored and said, how soon, what is left behind."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from cluster_lab import FOLDER, LONG, WORK
from processes import PROMISED_SECONDS, until, until_line
from sweep_lab import launch_default

from dlperf.running.transports.session import LOSS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_lab import ClusterLab
    from netlab import Host

# For a busy machine, where docs/reliability.md promises no bound.
SLACK_SECONDS = 5.0


@pytest.fixture
def node(lab: ClusterLab) -> Iterator[Host]:
    """A host that the test breaks; repaired afterwards."""
    host = lab.net.hosts[0]
    yield host
    if host.process is None:
        host.power_on()
    host.link(up=True)
    if not host._answers():
        host.start_sshd()


def write_two(lab: ClusterLab, **keys: Any) -> None:
    """A run that is slow the first time, while the file `trouble` exists, and a quick one."""
    slow = {"step_seconds": 0.3, "fault": "hang", "fault_step": 3, "fault_while": str(lab.trouble)}
    lab.write(
        order="sequential",
        options=slow,
        include=[{"batch_size_per_device": 3, "options": {"numpy": {"fault": "none", "step_seconds": 0.0}}}],
        **keys,
    )


def statuses(lab: ClusterLab) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Status and nodes by batch size."""
    return {result.case.batch_size_per_device: (result.status.value, result.nodes) for result in lab.stored()}


@pytest.mark.parametrize("how", ["powered off", "cable pulled", "sshd killed"])
def test_a_lost_node_is_told_in_time_and_its_run_goes_elsewhere(
    lab: ClusterLab, node: Host, how: str
) -> None:
    lab.write_cluster(hosts=2)
    write_two(lab)
    process = lab.start()
    lab.until_step(node)
    before = time.monotonic()
    {
        "powered off": node.poweroff,
        "cable pulled": lambda: node.link(up=False),
        "sshd killed": node.kill_sshd,
    }[how]()
    until_line(process, "lost_node: a node was lost: node0: ")
    seconds = time.monotonic() - before
    promised = SLACK_SECONDS + (PROMISED_SECONDS if how == "sshd killed" else LOSS_SECONDS)
    assert seconds < promised
    lab.trouble.unlink()
    if how != "powered off":
        limit = max(SLACK_SECONDS, promised + before - time.monotonic())
        until(lambda: not lab.left_on(node), limit=limit, what="the lease ends the tree")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert {2: ("ok", ("node1",)), 3: ("ok", ("node1",))} == statuses(lab)


def test_a_supervisor_that_stands_still_on_a_node_is_killed_after_the_limit(lab: ClusterLab) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1)
    lab.patch("import dlperf.running.run as run\nrun.OVERTIME_SECONDS = 2.0\n")
    lab.write(options={"step_seconds": 0.3}, measure=LONG, limits={"time": 12, "stall": 100})
    process = lab.start()
    lab.until_step(host)
    host.run("kill", "-STOP", *host.processes("DLPERF_RUN="))
    _, errors = process.communicate()
    assert process.returncode == 3, errors
    (result,) = lab.stored()
    assert result.status == "timeout"
    assert "its supervisor stood still and was killed 2 s after the limit" in (result.reason or "")
    assert lab.left_on(host) == []


def test_nothing_is_left_of_a_run_whose_supervisor_stood_still_when_dlperf_was_killed(
    lab: ClusterLab,
) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1)
    lab.patch(launch_default("silence_seconds", 2.0))
    lab.write(options={"step_seconds": 0.3}, measure=LONG)
    process = lab.start()
    lab.until_step(host)
    supervisors = [
        pid
        for pid in host.processes("DLPERF_RUN=")
        if b"frameworks.node" in host.path(f"/proc/{pid}/cmdline").read_bytes()
        or b"exec(base64" in host.path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    host.run("kill", "-STOP", max(supervisors))  # the worker; its guard is older
    process.kill()
    until(lambda: not lab.left_on(host), limit=2 + PROMISED_SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize("sessions", [1, 2])
def test_an_sshd_that_allows_few_sessions_per_connection_is_served_with_more_connections(
    lab: ClusterLab, node: Host, sessions: int
) -> None:
    config = node.folder / "sshd_config"
    before = config.read_text()
    lab.write_cluster(hosts=1)
    lab.write()
    try:
        config.write_text(f"{before}MaxSessions {sessions}\n")
        node.kill_sshd()
        node.start_sshd()
        checked = lab.dlperf("cluster", "check", "lab")
        assert "bad      node0: connection" not in checked.stdout, checked.stderr  # its disk is small
        done = lab.run()
        assert done.returncode == 0, done.stderr
        assert lab.logged("run_stop")
    finally:
        config.write_text(before)
        node.kill_sshd()
        node.start_sshd()


def test_a_case_of_two_nodes_ends_on_both_when_one_is_lost(lab: ClusterLab, node: Host) -> None:
    """The node that is left is not waited for: its ranks are killed at once. The sweep waits, and goes on."""
    other = lab.net.hosts[1]
    lab.write_cluster(hosts=2)
    write_two(lab, topology="2n1g")
    process = lab.start()
    lab.until_step(other)
    node.kill_sshd()
    before = time.monotonic()
    errors = "".join(until_line(process, "lost_node"))
    until(lambda: not lab.left_on(other), limit=PROMISED_SECONDS + SLACK_SECONDS)
    assert time.monotonic() - before < PROMISED_SECONDS + SLACK_SECONDS
    lab.trouble.unlink()
    node.start_sshd()
    until_line(process, "node0 is back")
    process.communicate()
    assert "node0 is set aside: lost: the connection broke" in errors
    assert process.returncode == 0
    assert {2: ("ok", ("node0", "node1")), 3: ("ok", ("node0", "node1"))} == statuses(lab)


def test_a_node_that_answers_and_starts_nothing_is_given_up(lab: ClusterLab) -> None:
    """It would be taken back and set aside for ever, however long the sweep waits for nodes."""
    broken = 'case "$*" in *DLPERF_RUN=*) exit 5;; esac; exec "$@"'
    lab.write_cluster(hosts=1, prefix=["sh", "-c", broken, "sh"])
    lab.write()
    done = lab.run("--wait-for-nodes", "1h")
    assert done.returncode == 5
    assert done.stderr.count("node0 is set aside: ") == 3
    assert done.stderr.count("node0 is back") == 2
    assert "1 run is waiting for nodes (node0: " in done.stderr


def test_without_a_node_the_sweep_ends_with_what_is_done_and_goes_on_later(
    lab: ClusterLab, node: Host
) -> None:
    lab.write_cluster(hosts=1)
    write_two(lab)
    process = lab.start("--wait-for-nodes", "1s")
    lab.until_step(node)
    node.kill_sshd()
    _, errors = process.communicate()
    assert process.returncode == 5
    assert "2 runs are waiting for nodes (node0: " in errors
    assert {2: ("lost_node", ("node0",))} == statuses(lab)
    lab.trouble.unlink()
    node.start_sshd()
    assert lab.run().returncode == 0
    assert {2: ("ok", ("node0",)), 3: ("ok", ("node0",))} == statuses(lab)


def test_nobody_can_be_reached(lab: ClusterLab, node: Host) -> None:
    lab.write_cluster(hosts=1)
    lab.write()
    node.kill_sshd()
    done = lab.run()
    assert done.returncode == 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dlperf:")]
    assert "no node of clusters/lab.yaml can be used (node0: root@" in line
    assert "cannot be reached: Connection refused" in line
    assert lab.stored() == []


def test_a_rank_that_is_killed_ends_the_other_nodes_at_once(lab: ClusterLab) -> None:
    fault = {"fault": "kill", "fault_rank": 1, "fault_step": 2, "step_seconds": 0.2}
    lab.write(
        topology="2n1g",
        options=fault,
        include=[{"topology": "1n1g", "options": {"numpy": {"fault": "none"}}}],
    )
    done = lab.run()
    assert done.returncode == 3
    by_topology = {str(result.case.topology): result for result in lab.stored()}
    assert by_topology["1n1g"].status == "ok"
    failed = by_topology["2n1g"]
    assert failed.status in {"crash", "killed"}
    assert "rank 1" in failed.reason
    assert failed.seconds < 30
    assert failed.nodes == ("node0", "node1")


def test_a_training_that_hangs_on_one_node_is_stalled(lab: ClusterLab) -> None:
    fault = {"fault": "hang", "fault_rank": 1, "fault_step": 2}
    lab.write(topology="2n1g", options=fault, limits={"stall": 3, "time": 60})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status == "stalled"


def test_a_full_disk_on_the_node_sets_it_aside(lab: ClusterLab, node: Host) -> None:
    """Before the start: the run goes to another node."""
    lab.write_cluster(hosts=2)
    lab.write()
    assert lab.run().returncode == 0  # the code is there
    full = node.path("/root/disk/full")
    try:
        with pytest.raises(OSError, match="No space left"):
            full.write_bytes(bytes(80 << 20))
        lab.write(batch_size_per_device=3)
        done = lab.run("--results", "results/tiny2")
    finally:
        full.unlink()
    assert done.returncode == 0, done.stderr
    assert "node0 is set aside: node0: the supervisor failed: " in done.stderr
    assert "No space left on device" in done.stderr
    assert '"node1"' in next((lab.folder / "results" / "tiny2").rglob("result.json")).read_text()


def test_a_disk_that_fills_up_on_the_node_ends_the_run_with_the_file_named(lab: ClusterLab) -> None:
    lab.write(
        options={"fault": "flood", "fault_step": 2},
        include=[{"batch_size_per_device": 3, "options": {"numpy": {"fault": "none"}}}],
    )
    done = lab.run()
    assert done.returncode == 3
    assert {2: "incomplete", 3: "ok"} == {batch: status for batch, (status, _) in statuses(lab).items()}
    (failed,) = [result for result in lab.stored() if result.status == "incomplete"]
    assert "No space left on device: 'logs/rank0.log'" in failed.reason


def test_a_full_disk_here_keeps_what_is_done_and_the_sweep_goes_on_later(lab: ClusterLab) -> None:
    """The log of the second run does not fit when it is brought here."""
    small = lab.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "dlperf-test", str(small)], check=True)
    try:
        flood = {"fault": "flood", "fault_step": 2, "fault_while": str(lab.trouble)}
        lab.write(order="sequential", include=[{"batch_size_per_device": 3, "options": {"numpy": flood}}])
        done = lab.run("--results", str(small / "tiny"))
        assert done.returncode == 5
        assert "No space left on device; completed runs are kept" in done.stderr
        assert len(list(small.rglob("result.json"))) == 1
        lab.trouble.unlink()
        assert lab.run("--results", str(small / "tiny")).returncode == 0
        assert len(list(small.rglob("result.json"))) == 2
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_nothing_is_left_when_dlperf_is_killed_and_the_sweep_goes_on_later(lab: ClusterLab) -> None:
    lab.write(topology="2n1g", options={"fault": "loose", "fault_step": 1, "step_seconds": 0.1}, measure=LONG)
    process = lab.start()
    for host in lab.net.hosts[:2]:
        lab.until_step(host, 3)
    process.kill()
    process.wait()
    for host in lab.net.hosts[:2]:
        until(lambda host=host: not lab.left_on(host), limit=PROMISED_SECONDS + SLACK_SECONDS)
    assert lab.stored() == []
    lab.write(topology="2n1g", measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1})
    done = lab.run("--results", "results/again")
    assert done.returncode == 0, done.stderr


def test_a_dlperf_that_stood_still_makes_the_run_again(lab: ClusterLab) -> None:
    """The lease ends the run on the node; dlperf finds that out when it goes on."""
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1)
    write_two(lab)
    process = lab.start()
    lab.until_step(host)
    process.send_signal(signal.SIGSTOP)
    until(lambda: not lab.left_on(host), limit=LOSS_SECONDS + SLACK_SECONDS)
    lab.trouble.unlink()
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "lost_node" in errors
    assert {"ok"} == {status for status, _ in statuses(lab).values()}


def test_a_clock_that_jumps_changes_no_time_that_is_measured(lab: ClusterLab) -> None:
    """dlperf's wall clock goes back an hour. The machine's is not ours to set, so `time.time` is replaced."""
    lab.patch(
        "import time\nreal, start = time.time, time.monotonic()\n"
        "time.time = lambda: real() - (3600 if time.monotonic() - start > 2 else 0)\n"
    )
    lab.write(
        options={"step_seconds": 0.5},
        measure={"warmup_iterations": 1, "measured_iterations": 5, "repeats": 1},
    )
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert 3 < result.seconds < 60
    assert 0.5 <= result.figures.step_seconds_median < 5


def test_a_lock_that_cannot_be_taken_is_told_as_it_is_and_is_not_held(lab: ClusterLab) -> None:
    """The lock is a folder; then a supervisor of a run before is still at work."""
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1, environment={"DLPERF_HOST_LOCK": FOLDER})
    lab.write()
    done = lab.run()
    assert done.returncode == 5
    assert f"can be used (node0: {FOLDER}: not a regular file; set DLPERF_HOST_LOCK" in done.stderr
    assert "another dlperf" not in done.stderr
    lab.write_cluster(hosts=1)
    left = f"{WORK}/runs/left-r1"
    host.run("mkdir", "-p", left)
    host.run("touch", f"{left}/launch.json")
    host.more.append(lab.console(host, "flock", "--no-fork", f"{left}/launch.json", "sleep", "600"))
    until(lambda: host.processes("sleep\x00600"))
    done = lab.run()
    assert done.returncode == 5
    assert f"(node0: {left}: a supervisor is still at work after 30 s)" in done.stderr
    host.run("kill", *host.processes("sleep\x00600"))
    again = lab.run()  # what was refused holds no lock
    assert again.returncode == 0, again.stderr


def test_two_dlperf_on_one_node_are_kept_apart_and_a_dead_one_holds_nothing(lab: ClusterLab) -> None:
    host = lab.net.hosts[0]
    lab.write_cluster(hosts=1)
    write_two(lab)
    first = lab.start()
    lab.until_step(host)
    second = lab.run("--results", "results/second", "--no-wait")
    assert second.returncode == 5
    assert "another dlperf measures on node0 (process " in second.stderr
    assert "; try again later" in second.stderr
    refused = lab.dlperf("cluster", "clean", "lab")
    assert refused.returncode == 5
    assert "another dlperf measures on this node (process " in refused.stderr
    assert "; nothing was touched" in refused.stderr
    limited = lab.run("--results", "results/limited", "--wait-for-nodes", "1s")
    assert limited.returncode == 5
    assert (
        "no node of clusters/lab.yaml can be used (node0: another dlperf measures there: " in limited.stderr
    )
    lab.write_cluster(hosts=2)
    lab.write()
    elsewhere = lab.run("--results", "results/elsewhere", "--wait-for-nodes", "1s")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "node0 is set aside: another dlperf measures there: " in elsewhere.stderr
    lab.write_cluster(hosts=1)
    write_two(lab)
    first.kill()
    lab.trouble.unlink()
    third = lab.run("--results", "results/third")
    assert third.returncode == 0, third.stderr


@pytest.mark.parametrize(
    ("lock", "why"),
    [
        ("/", "/: not a regular file; set DLPERF_HOST_LOCK to another file"),
        ("/proc/no/lock", "/proc/no/lock: No such file or directory; set DLPERF_HOST_LOCK to another file"),
    ],
)
def test_a_lock_that_cannot_be_taken_is_told_as_it_is_and_waited_for_no_longer_than_asked(
    lab: ClusterLab, lock: str, why: str
) -> None:
    lab.write_cluster(hosts=1, environment={"DLPERF_HOST_LOCK": lock})
    lab.write()
    started = time.monotonic()
    done = lab.run("--wait-for-nodes", "1s")
    assert 5 == done.returncode
    assert why in done.stderr
    assert "another dlperf" not in done.stderr
    assert time.monotonic() - started < LOSS_SECONDS + SLACK_SECONDS


def test_a_node_that_cannot_be_locked_is_set_aside(lab: ClusterLab) -> None:
    lab.write_cluster(
        nodes=[
            {"name": lab.net.hosts[0].name, "environment": {"DLPERF_HOST_LOCK": "/"}},
            lab.net.hosts[1].name,
        ]
    )
    lab.write()
    done = lab.run()
    assert 0 == done.returncode, done.stderr
    assert f"{lab.net.hosts[0].name} is set aside: /: not a regular file" in done.stderr
    assert [(lab.net.hosts[1].name,)] == [result.nodes for result in lab.stored()]
