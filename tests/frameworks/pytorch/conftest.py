"""The tests of this folder run PyTorch, some in several ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from engines import Engine

from dlperf.shipped import shipped_root
from frameworks.common.align import outputs_name
from frameworks.common.align_inputs import align_inputs
from frameworks.common.case import read_case

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LIMIT_SECONDS = 300
_STEPS = 3


@pytest.fixture
def engine() -> Engine:
    # One thread waits for no other: on a busy machine two take many times as long.
    return Engine(name="pytorch", version="2.13.0", threads=1)


@pytest.fixture
def parallel_case(case_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a case of several devices; fields of the case and of its workload can be set."""

    def write(name: str, *, devices: int = 2, workload: dict[str, Any] | None = None, **changes: Any) -> Path:
        content = json.loads(case_file(batch_size=changes.pop("batch_size", 4)).read_text())
        content.update({"topology": {"nodes": 1, "devices_per_node": devices}, "num_classes": 51, **changes})
        # As `dlperf align` sets them: small steps, and a decay that shows.
        content["workload"]["optimizer"].update(weight_decay=50.0)
        content["workload"]["schedule"].update(learning_rate=2e-5, steps=[2], scales=[0.1])
        content["workload"].update(workload or {})
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def start_ranks(
    engine: Engine, engine_python: Callable[[str], Path], tmp_path: Path
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once a rank, each with the variables of its place; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, ranks: int, devices: int = 1) -> list[subprocess.Popen[str]]:
        place = {
            "PYTHONPATH": str(shipped_root()),
            "OMP_NUM_THREADS": str(engine.threads),
            "GLOO_SOCKET_IFNAME": "lo",
            "DLPERF_WORLD_SIZE": str(ranks * devices),
            "DLPERF_LOCAL_WORLD_SIZE": str(ranks * devices),
            "DLPERF_DEVICES": str(devices),
            "DLPERF_MASTER_ADDRESS": "127.0.0.1",
            "DLPERF_MASTER_PORT": str(free_port()),
        }
        for rank in range(ranks):
            own = {"DLPERF_RANK": str(rank * devices), "DLPERF_LOCAL_RANK": str(rank * devices)}
            process = subprocess.Popen(
                [str(engine_python(engine.name)), *map(str, arguments)],
                env={**os.environ, **place, **own},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return started[-ranks:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once a rank; the standard output of each."""

    def run(*arguments: str | Path, ranks: int, devices: int = 1) -> list[str]:
        processes = start_ranks(*arguments, ranks=ranks, devices=devices)
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
    """Run the alignment program in `ranks` processes of `devices` devices: the arrays of each process."""

    def run(
        path: Path, *, ranks: int, devices: int = 1, dtype: str = "float32", inputs: Path | None = None
    ) -> list[dict[str, np.ndarray]]:
        if inputs is None:
            inputs = tmp_path / f"{path.stem}.inputs.npz"
            np.savez(inputs, **align_inputs(read_case(str(path)), _STEPS))
        outputs = str(tmp_path / f"{path.stem}.{ranks}.{dtype}.npz")
        run_ranks(
            "-m", "frameworks.pytorch.align", path, inputs, outputs, dtype, ranks=ranks, devices=devices
        )
        found = []
        for rank in range(0, ranks * devices, devices):
            with np.load(outputs_name(outputs, rank)) as arrays:
                found.append(dict(arrays))
        return found

    return run
