"""The tests of this folder run OneFlow, some in several ranks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import ONEFLOW, Engine
from rank_processes import RankProcesses, outputs_of

from dlperf.adapters.base import Launch
from dlperf.adapters.oneflow import ADAPTER
from dlperf.plan.case import Case
from dlperf.running.launch import free_port, local_launch, place_ranks


@pytest.fixture
def engine() -> Engine:
    return ONEFLOW


@pytest.fixture
def start_ranks(
    engine_python: Callable[[str], Path], rank_processes: RankProcesses
) -> Callable[..., list[subprocess.Popen[str]]]:
    """Start `python ARGUMENTS` once per rank of the case, with the adapter's environment."""

    def start(case_file: Path, *arguments: str | Path) -> list[subprocess.Popen[str]]:
        case = Case.model_validate_json(case_file.read_text())
        here = local_launch(case_file.parent, python=engine_python("oneflow"))
        launch = Launch(
            case=case,
            case_file=case_file,
            code=here.code,
            python=here.python,
            placements=place_ranks(case, nodes=[here], port=free_port()),
        )
        commands = ADAPTER.rank_commands(launch)
        return rank_processes.start([launch.python, *arguments], (command.env for command in commands))

    return start


@pytest.fixture
def run_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """Run `python ARGUMENTS` once per rank of the case; the standard output of each."""

    def run(case_file: Path, *arguments: str | Path) -> list[str]:
        return outputs_of(start_ranks(case_file, *arguments))

    return run
