"""The tests of this folder run OneFlow, some in several ranks."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engines import Engine

from dlperf.adapters.base import Launch
from dlperf.adapters.oneflow import ADAPTER
from dlperf.plan.case import Case
from dlperf.running.places import free_port, local_places
from dlperf.shipped import shipped_root
from frameworks.common.align import outputs_name
from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LIMIT_SECONDS = 300
_STEPS = 3


@pytest.fixture
def engine() -> Engine:
    quiet = {"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"}  # as the adapter sets it
    return Engine(name="oneflow", version="0.9.0", threads=2, environment=quiet)


@pytest.fixture
def parallel_case(case_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a case of several devices; fields of the case and of its workload can be set."""

    def write(name: str, *, devices: int = 2, workload: dict[str, Any] | None = None, **changes: Any) -> Path:
        content = json.loads(case_file(batch_size=changes.pop("batch_size", 4)).read_text())
        content.update({"topology": {"nodes": 1, "devices_per_node": devices}, "num_classes": 51})
        content.update({"threads_per_device": 1, **changes})
        # As `dlperf align` sets them: small steps, and a decay that shows.
        content["workload"]["optimizer"].update(weight_decay=50.0)
        content["workload"]["schedule"].update(learning_rate=2e-5, steps=[2], scales=[0.1])
        content["workload"].update(workload or {})
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def start_ranks(
    engine_python: Callable[[str], Path], tmp_path: Path
) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start `python ARGUMENTS` once a rank, with the adapter's environment; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(case_file: Path, *arguments: str | Path) -> list[subprocess.Popen[str]]:
        case = Case.model_validate_json(case_file.read_text())
        launch = Launch(
            case=case,
            case_file=case_file,
            code=shipped_root(),
            python=engine_python("oneflow"),
            places=local_places(case, port=free_port()),
        )
        for command in ADAPTER.rank_commands(launch):
            process = subprocess.Popen(
                [command.argv[0], *map(str, arguments)],
                env={**os.environ, **command.env},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return started[-len(launch.places) :]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once a rank of the case; the standard output of each."""

    def run(case_file: Path, *arguments: str | Path) -> list[str]:
        processes = start_ranks(case_file, *arguments)
        deadline = time.monotonic() + _LIMIT_SECONDS
        outputs = []
        for process in processes:
            out, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            assert 0 == process.returncode, errors
            outputs.append(out)
        return outputs

    return run


@pytest.fixture
def align(run_ranks: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[dict[str, np.ndarray]]]:
    """Run the alignment program on a case: the arrays of each rank."""

    def run(case_file: Path, inputs: Path | None = None) -> list[dict[str, np.ndarray]]:
        case = read_case(str(case_file))
        if inputs is None:
            inputs = tmp_path / f"{case_file.stem}.inputs.npz"
            np.savez(inputs, **align_inputs(case, _STEPS))
        outputs = str(tmp_path / f"{case_file.stem}.npz")
        run_ranks(case_file, "-m", "frameworks.oneflow.align", case_file, inputs, outputs)
        found = []
        for rank in range(case.world_size):
            with np.load(outputs_name(outputs, rank)) as arrays:
                found.append(dict(arrays))
        return found

    return run
