"""docs/limits.md shows a sweep that loads, and the numbers that hold where none are given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_case

from dlperf.adapters.registry import load_adapters
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import make_plan
from dlperf.plan.sweep import SearchSettings
from frameworks.common.case import case_from_dict
from frameworks.common.memory import memory_parts

TEXT = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
(SWEEP,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def adapters() -> Any:
    return load_adapters()


def test_the_sweep_shown_is_planned_with_the_numbers_that_hold_anyway(tmp_path: Path, adapters: Any) -> None:
    (tmp_path / "shown.yaml").write_text(SWEEP)
    sweep = load_sweep("shown.yaml", adapters=adapters, folder=tmp_path)
    plan = make_plan(sweep, adapters=adapters, machine=Machine(cores=4))
    assert 6 == len(plan.runnable)
    assert SearchSettings() == sweep.file.search
    assert {"max"} == {case.size("batch_size_per_device") for case in plan.runnable}


def test_every_part_of_the_memory_model_is_described() -> None:
    for part in memory_parts(case_from_dict(make_case().model_dump(mode="json"))):
        words = part.name.split()
        assert all(word in TEXT for word in words), part.name
