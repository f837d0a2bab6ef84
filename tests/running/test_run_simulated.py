"""Whole sweeps on doubles of nodes: many at once, and every way in which a node or a run can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import simulated_nodes
import yaml

from dlperf.results.schema import RunResult, Status


def sweep(
    folder: Path, *words: str, nodes: int = 4, simulation: dict[str, Any] | None = None, **keys: Any
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
    cluster = {"devices": 8, "cores": 64, "nodes": [f"sim{number}" for number in range(1, nodes + 1)]}
    (folder / "c.yaml").write_text(yaml.safe_dump(cluster))
    program = [sys.executable, simulated_nodes.__file__, json.dumps(simulation or {})]
    command = [*program, "run", "s.yaml", "--cluster", "c.yaml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def statuses(folder: Path) -> set[Status]:
    files = (folder / "results" / "s" / "runs").glob("*/r*/result.json")
    return {RunResult.model_validate_json(file.read_bytes()).status for file in files}


def test_more_runs_at_once_than_there_are_nodes_are_as_many_as_there_are_nodes(tmp_path: Path) -> None:
    """No run is given up because all nodes were busy when its turn came."""
    words = ("--parallel-nodes", "100000", "--wait-for-nodes", "0s")
    done = sweep(tmp_path, *words, nodes=2, batch_size_per_device=list(range(1, 13)))
    assert done.returncode == 0, done.stderr
    assert "48 of 48 runs: 48 ok" in done.stdout


@pytest.mark.parametrize(
    ("gpus", "build"),
    [
        ([("9.0", "580.65.06"), ("9.0", "590.44.01")], "cu130"),
        ([("9.0", "580.65.06"), ("9.0", "550.54.15")], "cu126"),
        ([("7.0", "580.65.06"), ("9.0", "580.65.06")], "cu126"),
    ],
)
def test_nodes_that_the_cluster_file_does_not_describe_decide_the_build_together(
    tmp_path: Path, gpus: list[tuple[str, str]], build: str
) -> None:
    """Not this machine, and not each node for itself: all ranks of a run have one build."""
    described = {
        f"sim{number}": {"capability": capability, "driver": driver}
        for number, (capability, driver) in enumerate(gpus, 1)
    }
    done = sweep(tmp_path, nodes=2, simulation={"gpus": described}, frameworks=["pytorch==2.13.0"])
    assert done.returncode == 0, done.stderr
    launches = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("launch*.json")]
    pythons = {Path(rank["argv"][0]) for launch in launches for rank in launch["ranks"]}
    (environment,) = {python.parent.parent.name for python in pythons}
    assert environment.startswith(f"pytorch-2.13.0-{build}-")


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
    assert {status} == statuses(tmp_path)
    assert done.returncode == 3 or "for nodes (" in done.stderr
