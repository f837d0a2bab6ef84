"""The tests of this folder run OneFlow, some in several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engines import Engine
from rank_processes import align_outputs, outputs_of, write_align_inputs

from dlperf.adapters.base import Launch
from dlperf.adapters.oneflow import ADAPTER
from dlperf.plan.case import Case
from dlperf.running.places import free_port, local_places
from dlperf.shipped import shipped_root
from frameworks.common.case import read_case

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from rank_processes import RankProcesses


@pytest.fixture
def engine() -> Engine:
    quiet = {"GLOG_logtostderr": "1", "GLOG_minloglevel": "2"}  # as the adapter sets it
    return Engine(name="oneflow", version="0.9.0", threads=2, environment=quiet)


@pytest.fixture
def start_ranks(
    engine_python: Callable[[str], Path], rank_processes: RankProcesses
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once a rank of the case, with the adapter's environment."""

    def start(case_file: Path, *arguments: str | Path) -> list[subprocess.Popen[str]]:
        case = Case.model_validate_json(case_file.read_text())
        launch = Launch(
            case=case,
            case_file=case_file,
            code=shipped_root(),
            python=engine_python("oneflow"),
            places=local_places(case, port=free_port()),
        )
        commands = ADAPTER.rank_commands(launch)
        return rank_processes.start([launch.python, *arguments], (command.env for command in commands))

    return start


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once a rank of the case; the standard output of each."""

    def run(case_file: Path, *arguments: str | Path) -> list[str]:
        return outputs_of(start_ranks(case_file, *arguments))

    return run


@pytest.fixture
def align(run_ranks: Callable[..., list[str]]) -> Callable[..., list[dict[str, np.ndarray]]]:
    """Run the alignment program on a case: the arrays of each rank."""

    def run(case_file: Path, inputs: Path | None = None) -> list[dict[str, np.ndarray]]:
        inputs = inputs or write_align_inputs(case_file)
        outputs = str(case_file.with_suffix(".npz"))
        run_ranks(case_file, "-m", "frameworks.oneflow.align", case_file, inputs, outputs)
        return align_outputs(outputs, range(read_case(str(case_file)).world_size))

    return run
