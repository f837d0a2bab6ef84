"""Sweeps over ssh: one node, several, in parallel; what is stored, what is said, what is left."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from cluster_lab import WORK

from dlperf.results.telemetry import read_telemetry

if TYPE_CHECKING:
    from cluster_lab import ClusterLab


def test_a_run_on_a_node_is_stored_as_a_run_here(lab: ClusterLab) -> None:
    lab.write()
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert ("ok", ("node0",)) == (result.status.value, result.nodes)
    (folder,) = lab.run_folders()
    assert {path.name for path in folder.iterdir()} - {"telemetry.csv"} == {
        "case.json",
        "environment.json",
        "launch.json",
        "logs",
        "outcome.json",
        "result.json",
        "steps.csv",
    }
    environment = lab.environment_of(folder)
    assert [node["host"] for node in environment["nodes"]] == ["node0"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert [] == list(lab.net.hosts[0].path(f"{WORK}/runs").iterdir())


def test_the_variables_of_a_node_reach_its_ranks_and_their_secrets_no_file(lab: ClusterLab) -> None:
    lab.write_cluster(environment={"NCCL_TEST_MARK": lab.mark, "SOME_TOKEN": "hunter2", "ODD": "a 'b' $HOME"})
    lab.write(options={"print_variables": "SOME_TOKEN ODD"})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert lab.logged("ODD is a 'b' $HOME, of 11 characters")
    assert lab.logged("SOME_TOKEN is of 7 characters")
    written = [path for path in lab.results.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter2" in path.read_bytes()]
    assert "hunter2" not in done.stdout + done.stderr
    (folder,) = lab.run_folders()
    assert lab.environment_of(folder)["variables"]["SOME_TOKEN"] == "(redacted)"  # noqa: S105


def test_a_case_of_three_nodes_trains_as_one(lab: ClusterLab) -> None:
    lab.write(topology="3n2g", measure={"warmup_iterations": 1, "measured_iterations": 12, "repeats": 1})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert ("ok", ("node0", "node1", "node2")) == (result.status.value, result.nodes)
    assert result.figures.loss_last < result.figures.loss_first
    assert 0 <= result.interference.share < 1
    (folder,) = lab.run_folders()
    logs = {path.name for path in (folder / "logs").iterdir()}
    assert logs == {f"rank{rank}.log" for rank in range(6)}
    for node in range(3):
        launch = json.loads((folder / f"launch.node{node}.json").read_text())
        assert [rank["rank"] for rank in launch["ranks"]] == [2 * node, 2 * node + 1]
        variables = launch["ranks"][0]["env"]
        assert variables["DLPERF_NODE_RANK"] == str(node)
        assert variables["DLPERF_MASTER_ADDRESS"] == lab.net.hosts[0].ip
        outcome = json.loads((folder / f"outcome.node{node}.json").read_text())
        assert (f"node{node}", "completed") == (outcome["host"], outcome["reason"])
    sampled = read_telemetry(folder)
    assert list(sampled) == [0, 1, 2]
    for node in sampled.values():
        assert node.series["node", "sent_bytes"][-1][1] > node.series["node", "sent_bytes"][0][1]
    assert result.telemetry is not None
    clocks = lab.environment_of(folder)["clocks"]
    assert 3 == len(clocks)  # of hosts that share this machine's clock
    assert all(abs(clock["ahead_seconds"]) <= clock["uncertainty_seconds"] + 1e-6 for clock in clocks)
    shown = lab.dlperf("show", result.case.case_id, str(lab.results), "--telemetry").stdout
    assert "clocks aligned within " in shown
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["hosts"] == ["node0", "node1", "node2"]
    assert all(seconds > 0 for seconds in outcome["cpu_seconds"])
    assert [rank["rank"] for rank in outcome["ranks"]] == list(range(6))


def test_the_node_that_holds_the_slow_rank_of_several_cases_is_named(lab: ClusterLab) -> None:
    """The second rank of the second host, whose own steps are slow; the other three wait in the exchange."""
    lab.write(
        topology="2n2g",
        batch_size_per_device=[2, 3],
        options={"step_seconds": 0.2, "step_rank": 3},
        measure={"warmup_iterations": 1, "measured_iterations": 10, "repeats": 1},
    )
    done = lab.run()
    assert done.returncode == 0, done.stderr
    results = lab.stored()
    assert 2 == len(results)
    for result in results:
        times = result.rank_times
        assert (3, "node1", 10, True) == (times.slowest_rank, times.host, times.steps, times.is_straggler)
        assert min(times.exchange_shares[:3]) > 0.5 > times.exchange_shares[3]
        shown = " ".join(lab.dlperf("show", result.case.case_id, str(lab.results)).stdout.split())
        assert f"rank 3 on node1: {times.excess:.0%} slower than the median of the others" in shown
    lab.dlperf("report", str(lab.results), "--out", "page.md")
    page = (lab.folder / "page.md").read_text()
    assert "Node node1 held the slowest rank in 2 of 2 cases on several nodes: " in page
    assert "Node node0 held" not in page


def test_a_sweep_takes_one_connection_a_node_and_brings_its_code_once(lab: ClusterLab) -> None:
    logs = [host.folder / "sshd.log" for host in lab.net.hosts]
    before = [log.read_text().count("Accepted publickey") for log in logs]
    lab.write_cluster(hosts=1)
    lab.write(measure={"warmup_iterations": 1, "measured_iterations": 1, "repeats": 3})
    assert lab.run().returncode == 0
    after = [log.read_text().count("Accepted publickey") for log in logs]
    assert [1, 0, 0, 0] == [now - then for now, then in zip(after, before, strict=True)]
    assert len(list(lab.net.hosts[0].path(f"{WORK}/code").iterdir())) == 1


def test_single_node_cases_run_in_parallel_with_parallel_nodes(lab: ClusterLab) -> None:
    """Three runs that last two seconds each, on three nodes."""
    lab.write(
        batch_size_per_device=[2, 3, 4],
        options={"step_seconds": 0.5},
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 1},
    )
    done = lab.run("--parallel-nodes", "3")
    assert done.returncode == 0, done.stderr
    results = lab.stored()
    assert sorted(result.nodes for result in results) == [("node0",), ("node1",), ("node2",)]
    lines = [line for line in done.stderr.splitlines() if " r1: " in line]
    assert [line.endswith("started") for line in lines[:3]] == [True, True, True]
    report = lab.dlperf("report", "results/tiny").stdout
    assert "Which nodes ran what:" in report
    assert any(line.startswith("| node1 ") and "1n1g batch " in line for line in report.splitlines())


def test_a_topology_larger_than_the_cluster_is_told_before_anything_runs(lab: ClusterLab) -> None:
    lab.write(topology=["1n1g", "5n1g"])
    shown = lab.run("--dry-run")
    assert shown.returncode == 0
    assert "needs 5 nodes; cluster lab has 4" in shown.stdout
    assert "# on node0" in shown.stdout
    done = lab.run()
    assert "1 case unavailable: needs 5 nodes; cluster lab has 4" in done.stderr
    assert [str(result.case.topology) for result in lab.stored()] == ["1n1g"]
