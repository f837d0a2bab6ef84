"""Run a program of `programs/` in OneFlow's own environment and read the arrays that it writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dlperf.plan.case import Case, Loss, Measure, Optimizer, Schedule, Topology, Workload
from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = Path(__file__).parent / "programs"
THREADS = 2
QUIET = {"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"}  # as the adapter sets it


@pytest.fixture
def run_python(engine_python: Callable[[str], Path]) -> Callable[..., str]:
    """Run `python ARGUMENTS` with OneFlow, its threads set and the training programs on the path."""

    def run(*arguments: str | Path) -> str:
        own = {**QUIET, "PYTHONPATH": str(shipped_root()), "OMP_NUM_THREADS": str(THREADS)}
        command = [str(engine_python("oneflow")), *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, **own}, capture_output=True, text=True, timeout=300, check=False
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return run


@pytest.fixture
def run_program(run_python: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Run `programs/NAME.py ARGUMENTS OUTPUTS.npz` and give the arrays of OUTPUTS.npz."""

    def run(name: str, *arguments: str | Path) -> dict[str, np.ndarray]:
        outputs = tmp_path / f"{name}.npz"
        run_python(PROGRAMS / f"{name}.py", *arguments, outputs)
        with np.load(outputs) as arrays:
            return dict(arrays)

    return run


@pytest.fixture
def case_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a small case and give its path; network, head, optimizer, schedule and dropout can be set."""

    def write(
        network: str = "mobilefacenet",
        head: str = "GDC",
        *,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        dropout: float = 0.0,
        warmup_iterations: int = 1,
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
            framework="oneflow",
            version="0.9.0",
            workload=workload,
            parallelism="data",
            topology=Topology(nodes=1, devices_per_node=1),
            device="cpu",
            batch_size_per_device=4,
            num_classes=50,
            threads_per_device=THREADS,
            measure=Measure(warmup_iterations=warmup_iterations, measured_iterations=3),
        )
        path = tmp_path / "case.json"
        path.write_text(case.model_dump_json(), encoding="utf-8")
        return path

    return write
