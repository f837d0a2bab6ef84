"""Run a program of a framework's `programs/` in its environment and read the arrays that it writes.

The conftest of each framework's folder sets the fixture `engine`; tests in this folder are for every engine,
and take it as a parameter.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import Engine
from rank_processes import RankProcesses

from dlperf.files import shipped_root
from dlperf.plan.case import Case, Loss, Measure, Optimizer, Schedule, Topology, Workload


@pytest.fixture
def run_python(engine: Engine, engine_python: Callable[[str], Path], tmp_path: Path) -> Callable[..., str]:
    """Run `python ARGUMENTS` with the engine, its threads set and the training programs on the path."""

    def run(*arguments: str | Path, threads: int = engine.threads) -> str:
        own = {**engine.environment, "PYTHONPATH": str(shipped_root()), "OMP_NUM_THREADS": str(threads)}
        command = [str(engine_python(engine.name)), *map(str, arguments)]
        done = subprocess.run(
            command,
            env={**os.environ, **own},
            cwd=tmp_path,  # OneFlow writes a folder `log` where it is started
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return run


@pytest.fixture
def run_program(
    engine: Engine, run_python: Callable[..., str], tmp_path: Path
) -> Callable[..., dict[str, np.ndarray]]:
    """Run the engine's `programs/NAME.py ARGUMENTS OUTPUTS.npz` and return the arrays of OUTPUTS.npz."""

    def run(name: str, *arguments: str | Path) -> dict[str, np.ndarray]:
        outputs = tmp_path / f"{name}.npz"
        run_python(Path(__file__).parent / engine.name / "programs" / f"{name}.py", *arguments, outputs)
        with np.load(outputs) as arrays:
            return dict(arrays)

    return run


@pytest.fixture
def case_file(engine: Engine, tmp_path: Path) -> Callable[..., Path]:
    """Write a small case and return its path; tests can set what they change."""

    def write(
        network: str = "mobilefacenet",
        head: str = "GDC",
        *,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        dropout: float = 0.0,
        batch_size: int = 4,
        options: dict[str, bool] | None = None,
    ) -> Path:
        workload = Workload.model_validate(
            {
                "experiment": "small",
                "network": network,
                "head": head,
                "embedding_size": 128,
                "dropout": dropout,
                "dataset": "emore",
                "loss": Loss(kind="arcface", m2=0.5),
                "optimizer": optimizer or Optimizer(),
                "schedule": schedule or Schedule(learning_rate=0.01),
            }
        )
        case = Case(
            framework=engine.name,
            version=engine.version,
            workload=workload,
            parallelism="data",
            topology=Topology(nodes=1, devices_per_node=1),
            device="cpu",
            batch_size_per_device=batch_size,
            num_classes=50,
            threads_per_device=engine.threads,
            measure=Measure(warmup_iterations=1, measured_iterations=3),
            options=options or {},
        )
        path = tmp_path / "case.json"
        path.write_text(case.model_dump_json(), encoding="utf-8")
        return path

    return write


@pytest.fixture
def parallel_case(case_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a case of several devices; fields of the case and of its workload can be set."""

    def write(name: str, *, devices: int = 2, workload: dict[str, Any] | None = None, **changes: Any) -> Path:
        content = json.loads(case_file(batch_size=changes.pop("batch_size", 4)).read_text())
        content.update({"topology": {"nodes": 1, "devices_per_node": devices}, "num_classes": 51})
        content.update({"threads_per_device": 1, **changes})  # one thread waits for no other
        # As `dlperf align` sets them: small steps, and a decay that shows.
        content["workload"]["optimizer"].update(weight_decay=50.0)
        content["workload"]["schedule"].update(learning_rate=2e-5, steps=[2], scales=[0.1])
        content["workload"].update(workload or {})
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def rank_processes(tmp_path: Path) -> Iterator[RankProcesses]:
    with RankProcesses(tmp_path) as processes:
        yield processes
