"""The tests of this folder run MXNet, some in several ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from engines import Engine

from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LIMIT_SECONDS = 300


@pytest.fixture
def engine() -> Engine:
    # One thread waits for no other: on a busy machine two take many times as long.
    return Engine(name="mxnet", version="1.9.1", threads=1)


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


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def start_ranks(
    engine: Engine, engine_python: Callable[[str], Path], tmp_path: Path, free_port: int
) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start `python ARGUMENTS` once a rank, each with the variables of its place; none outlives the test."""
    with ExitStack() as started:

        def start(
            *arguments: str | Path, ranks: int, devices: int = 1, nodes: int = 1, only: int | None = None
        ) -> list[subprocess.Popen[str]]:
            per_node = ranks // nodes
            common = {
                "PYTHONPATH": str(shipped_root()),
                "PYTHONUNBUFFERED": "1",
                "OMP_NUM_THREADS": str(engine.threads),
                "MXNET_CPU_WORKER_NTHREADS": "1",
                "DLPERF_WORLD_SIZE": str(ranks * devices),
                "DLPERF_LOCAL_WORLD_SIZE": str(per_node * devices),
                "DLPERF_DEVICES": str(devices),
                "DLPERF_MASTER_ADDRESS": "127.0.0.1",
                "DLPERF_MASTER_PORT": str(free_port),
                **({"DLPERF_INTERFACE": "lo"} if nodes > 1 else {}),
            }
            processes = []
            for rank in range(ranks) if only is None else [only]:
                place = {
                    "DLPERF_RANK": str(rank * devices),
                    "DLPERF_LOCAL_RANK": str(rank % per_node * devices),
                    "DLPERF_NODE_RANK": str(rank // per_node),
                }
                process = subprocess.Popen(
                    [str(engine_python(engine.name)), *map(str, arguments)],
                    env={**os.environ, **common, **place},
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                started.callback(_end, process)
                processes.append(process)
            return processes

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once a rank; the standard output of each."""

    def run(*arguments: str | Path, ranks: int, devices: int = 1, nodes: int = 1) -> list[str]:
        processes = start_ranks(*arguments, ranks=ranks, devices=devices, nodes=nodes)
        deadline = time.monotonic() + _LIMIT_SECONDS
        outputs = []
        for process in processes:
            out, errors = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            assert 0 == process.returncode, errors
            outputs.append(out)
        return outputs

    return run


@pytest.fixture
def taken_port(free_port: int) -> Iterator[int]:
    """The port that the ranks are told to meet at, with somebody else on it."""
    with socket.create_server(("127.0.0.1", free_port)):
        yield free_port
