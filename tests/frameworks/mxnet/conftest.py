"""The tests of this folder run MXNet, some in several ranks."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines import MXNET, Engine
from rank_processes import RankProcesses, outputs_of

from dlperf.files import shipped_root
from dlperf.running.launch import free_port as any_free_port


@pytest.fixture
def engine() -> Engine:
    return MXNET


@pytest.fixture
def free_port() -> int:
    return any_free_port()


@pytest.fixture
def start_ranks(
    engine: Engine, engine_python: Callable[[str], Path], rank_processes: RankProcesses, free_port: int
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once per rank, each with the variables of its place."""

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
        return rank_processes.start(
            [engine_python(engine.name), *arguments],
            (
                {
                    **common,
                    "DLPERF_RANK": str(rank * devices),
                    "DLPERF_LOCAL_RANK": str(rank % per_node * devices),
                    "DLPERF_NODE_RANK": str(rank // per_node),
                }
                for rank in (range(ranks) if only is None else [only])
            ),
        )

    return start


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once per rank; the standard output of each."""

    def run(*arguments: str | Path, ranks: int, devices: int = 1, nodes: int = 1) -> list[str]:
        return outputs_of(start_ranks(*arguments, ranks=ranks, devices=devices, nodes=nodes))

    return run


@pytest.fixture
def taken_port(free_port: int) -> Iterator[int]:
    """The port at which the ranks should meet, in use by another program."""
    with socket.create_server(("127.0.0.1", free_port)):
        yield free_port
