"""Virtual nodes: the whole way from a cluster file to a report, and everything says that it is simulated."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dlperf.plan.cluster_file import Simulation
from dlperf.results.schema import RunResult, Status
from dlperf.running.transports.sim_logs import course_of, true_rate

if TYPE_CHECKING:
    from pathlib import Path

MARK = "SIMULATED by dlperf (transport: sim)"


def sweep(
    folder: Path, *words: str, simulation: dict[str, Any], **keys: Any
) -> subprocess.CompletedProcess[str]:
    content: dict[str, Any] = {
        "experiment": "r100_emore",
        "frameworks": ["mxnet==1.9.1"],
        "topology": ["1n1g", "2n8g"],
        "batch_size_per_device": [32, 64],
        "threads_per_device": 4,
        "measure": {"warmup_iterations": 2, "measured_iterations": 20, "repeats": 2},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(content | keys))
    cluster = {"transport": "sim", "devices": 8, "cores": 64, "simulation": {"nodes": 4} | simulation}
    (folder / "c.yaml").write_text(yaml.safe_dump(cluster))
    return dlperf(folder, "run", "s.yaml", "--cluster", "c.yaml", *words)


def dlperf(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlperf", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def results(folder: Path) -> list[RunResult]:
    files = sorted((folder / "results" / "simulated_s" / "runs").glob("*/r*/result.json"))
    return [RunResult.model_validate_json(file.read_bytes()) for file in files]


def test_a_simulated_sweep_says_so_in_every_file_and_in_its_report(tmp_path: Path) -> None:
    done = sweep(tmp_path, simulation={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SIMULATED: s: 8 of 8 runs: 8 ok")
    assert {Status.OK} == {result.status for result in results(tmp_path)}
    root = tmp_path / "results" / "simulated_s"
    assert json.loads((root / "plan.lock.json").read_text())["cluster"]["simulated"] is True
    for run in (root / "runs").glob("*/r*"):
        assert run.parent.name.startswith("simulated_")
        for path in (path for path in run.rglob("*") if path.is_file()):
            assert "simulated" in path.read_text().lower(), path
        assert (run / "logs" / "rank0.log").read_text().startswith(MARK)
    report = dlperf(tmp_path, "report", "results/simulated_s").stdout
    assert "# Training throughput: SIMULATED: simulated_s" in report
    assert "**SIMULATED.** Every number here was made up" in report
    assert all("SIMULATED" in line for line in report.splitlines() if line.startswith("## r100_emore"))


def test_more_runs_at_once_than_there_are_nodes_are_as_many_as_there_are_nodes(tmp_path: Path) -> None:
    """No run is given up because all nodes were busy when its turn came."""
    words = ("--parallel-nodes", "100000", "--wait-for-nodes", "0s")
    done = sweep(tmp_path, *words, simulation={"nodes": 2}, batch_size_per_device=list(range(1, 13)))
    assert done.returncode == 0, done.stderr
    assert "48 of 48 runs: 48 ok" in done.stdout


def test_simulated_and_measured_results_stand_in_no_report_together(tmp_path: Path) -> None:
    assert sweep(tmp_path, simulation={}).returncode == 0
    run = next((tmp_path / "results" / "simulated_s" / "runs").glob("*/r1"))
    text = (run / "result.json").read_text().replace('"simulated": true', '"simulated": false')
    other = tmp_path / "results" / "measured" / "runs" / "case" / "r1"
    other.mkdir(parents=True)
    (other / "result.json").write_text(text)
    for words in (["report", "results"], ["results", "results"]):
        done = dlperf(tmp_path, *words)
        assert done.returncode == 2
        assert "holds simulated results and" in done.stderr
    assert (
        "published"
        in dlperf(tmp_path, "results", "results/simulated_s", "published:insightface_v100_2021").stderr
    )


def test_a_folder_of_measured_results_takes_no_simulated_ones(tmp_path: Path) -> None:
    assert sweep(tmp_path, simulation={}).returncode == 0
    lock = tmp_path / "results" / "simulated_s" / "plan.lock.json"
    text = lock.read_text().replace("simulated_mxnet", "mxnet")
    lock.write_text(text.replace('"simulated": true', '"simulated": false'))
    done = dlperf(tmp_path, "run", "s.yaml", "--cluster", "c.yaml")
    assert done.returncode == 2
    assert "this folder holds results of another plan" in done.stderr


def test_the_same_seed_gives_the_same_logs_and_another_seed_others(tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        assert sweep(tmp_path / name, simulation={"seed": seed}).returncode == 0
        logs = sorted((tmp_path / name / "results").rglob("rank0.log"))
        texts.append([log.read_text() for log in logs])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("oom", Status.OOM),
        ("hang", Status.STALLED),
        ("cut_log", Status.INCOMPLETE),
        ("node_loss", Status.LOST_NODE),
    ],
)
def test_what_goes_wrong_takes_the_way_of_the_real_thing(tmp_path: Path, fault: str, status: Status) -> None:
    done = sweep(tmp_path, "--wait-for-nodes", "0.1s", simulation={fault: 1.0}, topology="2n8g")
    assert done.returncode in {3, 5}
    assert {status} == {result.status for result in results(tmp_path)}
    assert done.returncode == 3 or "for nodes (" in done.stderr


def test_the_runs_scatter_around_the_true_rate_as_told(tmp_path: Path) -> None:
    """So that statistics can be tried on numbers whose truth is known."""
    sweep(
        tmp_path, simulation={"run_noise": 0.05, "step_noise": 0.0}, topology="1n1g", batch_size_per_device=32
    )
    case = results(tmp_path)[0].case
    simulation = Simulation(nodes=4, run_noise=0.05, step_noise=0.0)
    truth = true_rate(case, simulation=simulation)
    rates = []
    for run in range(400):
        course = course_of(case, simulation=simulation, run=f"r{run}", hosts=["sim1"])
        rates.append(32 * len(course.step_seconds) / sum(course.step_seconds))
    mean = sum(rates) / len(rates)
    spread = (sum((rate - mean) ** 2 for rate in rates) / len(rates)) ** 0.5
    assert abs(mean / truth - 1) < 0.01
    assert abs(spread / truth - 0.05) < 0.01
