"""docs/sweeps.md shows files that load, problems that are printed so, and every key that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.errors import SourceErrors
from dlperf.plan.load import load_experiment, load_sweep
from dlperf.plan.plan import PlanStatus, make_plan
from dlperf.plan.selection import KEYS
from dlperf.plan.sweep import Condition, ExperimentFile, SweepFile

if TYPE_CHECKING:
    from dlperf.plan.machine import Machine

TEXT = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
SWEEP, EXPERIMENT, EDITED = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_sweep_shown_is_planned(tmp_path: Path, adapters: Any, cluster: Machine) -> None:
    (tmp_path / "shown.yaml").write_text(SWEEP)
    sweep = load_sweep("shown.yaml", adapters=adapters, folder=tmp_path)
    plan = make_plan(sweep, adapters=adapters, machine=cluster)
    assert 3 * 2 * 2 * 3 + 3 * 2 == len(plan.cases)
    assert {PlanStatus.RUNNABLE, PlanStatus.EXCLUDED} == {item.status for item in plan.cases}
    assert {"pytorch==2.13.0": "/opt/torch/bin/python"} == plan.interpreters


def test_the_sweep_with_a_line_for_the_editor_loads(tmp_path: Path) -> None:
    (tmp_path / "edited.yaml").write_text(EDITED)
    assert load_sweep("edited.yaml", adapters=load_adapters(), folder=tmp_path).file.options


def test_the_experiment_shown_is_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "r100_emore.yaml").write_text(EXPERIMENT)
    shown, _ = load_experiment("r100_emore.yaml", folder=tmp_path)
    assert load_experiment("r100_emore")[0] == shown


def test_the_problems_shown_are_those_printed(tmp_path: Path, adapters: Any) -> None:
    for folder in ("sweeps", "experiments"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "experiment: mine\nframeworks: mxnet\ntopology: 8g\nbatchsize: 8\nbatch_size_per_device: 8\n"
    )
    (tmp_path / "experiments" / "mine.yaml").write_text(EXPERIMENT.replace("iresnet100 ", "vgg"))
    with pytest.raises(SourceErrors) as caught:
        load_sweep("mine", adapters=adapters, folder=tmp_path)
    shown = re.findall(r"^    ((?:sweeps|experiments)/mine\.yaml:.*)$", TEXT, re.MULTILINE)
    assert sorted(shown) == sorted(str(caught.value).splitlines())


def test_every_key_is_described() -> None:
    for key in {*SweepFile.model_fields, *KEYS, *Condition.model_fields}:
        assert key in TEXT, key
    for key in set(ExperimentFile.model_fields) - {"experiment", "data", "notes"}:
        assert f"{key}:" in EXPERIMENT, key
