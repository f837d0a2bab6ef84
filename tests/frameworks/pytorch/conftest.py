"""The tests of this folder run PyTorch, some in several ranks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import PYTORCH, Engine
from rank_processes import RankProcesses, outputs_of

from dlperf.files import shipped_root
from dlperf.running.launch import free_port


@pytest.fixture
def engine() -> Engine:
    return PYTORCH


@pytest.fixture
def start_ranks(
    engine: Engine, engine_python: Callable[[str], Path], rank_processes: RankProcesses
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once per rank, each with the variables of its place."""

    def start(*arguments: str | Path, ranks: int, devices: int = 1) -> list[subprocess.Popen[str]]:
        common = {
            "PYTHONPATH": str(shipped_root()),
            "OMP_NUM_THREADS": str(engine.threads),
            "GLOO_SOCKET_IFNAME": "lo",
            "DLPERF_WORLD_SIZE": str(ranks * devices),
            "DLPERF_LOCAL_WORLD_SIZE": str(ranks * devices),
            "DLPERF_DEVICES": str(devices),
            "DLPERF_MASTER_ADDRESS": "127.0.0.1",
            "DLPERF_MASTER_PORT": str(free_port()),
        }
        return rank_processes.start(
            [engine_python(engine.name), *arguments],
            (
                {**common, "DLPERF_RANK": str(rank), "DLPERF_LOCAL_RANK": str(rank)}
                for rank in range(0, ranks * devices, devices)
            ),
        )

    return start


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once per rank; the standard output of each."""

    def run(*arguments: str | Path, ranks: int, devices: int = 1) -> list[str]:
        return outputs_of(start_ranks(*arguments, ranks=ranks, devices=devices))

    return run
