"""The tests of this folder run PyTorch, some in several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engines import Engine
from rank_processes import align_outputs, outputs_of, write_align_inputs

from dlperf.running.places import free_port
from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from rank_processes import RankProcesses


@pytest.fixture
def engine() -> Engine:
    # One thread waits for no other: on a busy machine two take many times as long.
    return Engine(name="pytorch", version="2.13.0", threads=1)


@pytest.fixture
def start_ranks(
    engine: Engine, engine_python: Callable[[str], Path], rank_processes: RankProcesses
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once a rank, each with the variables of its place."""

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
    """Run `python ARGUMENTS` once a rank; the standard output of each."""

    def run(*arguments: str | Path, ranks: int, devices: int = 1) -> list[str]:
        return outputs_of(start_ranks(*arguments, ranks=ranks, devices=devices))

    return run


@pytest.fixture
def align(run_ranks: Callable[..., list[str]]) -> Callable[..., list[dict[str, np.ndarray]]]:
    """Run the alignment program in `ranks` processes of `devices` devices: the arrays of each process."""

    def run(
        path: Path, *, ranks: int, devices: int = 1, dtype: str = "float32", inputs: Path | None = None
    ) -> list[dict[str, np.ndarray]]:
        inputs = inputs or write_align_inputs(path)
        outputs = str(path.with_suffix(f".{ranks}.{dtype}.npz"))
        run_ranks(
            "-m", "frameworks.pytorch.align", path, inputs, outputs, dtype, ranks=ranks, devices=devices
        )
        return align_outputs(outputs, range(0, ranks * devices, devices))

    return run
