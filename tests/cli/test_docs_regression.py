"""docs/regression.md shows sweeps that load, commands that exist, and a recipe that a shell reads."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from dlperf.adapters.registry import load_adapters
from dlperf.cli import main
from dlperf.compare.sets import METRICS, Verdict
from dlperf.compare.verdicts import read_expected
from dlperf.plan.documents import read_document
from dlperf.plan.load import load_sweep
from dlperf.plan.machine import Machine
from dlperf.plan.plan import make_plan

TEXT = (Path(__file__).parents[2] / "docs" / "regression.md").read_text()
BLOCKS = re.findall(r"```(yaml|sh)\n(.*?)```", TEXT, re.DOTALL)
YAML = [text for kind, text in BLOCKS if kind == "yaml"]
COMMANDS = [
    line.strip()
    for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if re.match(r"\s+(\.dlperf/bin/)?dlperf ", line)
]


@pytest.mark.parametrize("text", YAML[:2])
def test_the_sweeps_shown_are_planned(text: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(text)
    adapters: Any = load_adapters()
    sweep = load_sweep("shown.yaml", adapters=adapters, folder=tmp_path)
    plan = make_plan(sweep, adapters=adapters, machine=Machine(cores=2))
    assert len({case.version for case in plan.runnable}) == 2


def test_the_expected_failures_shown_are_read(tmp_path: Path) -> None:
    (tmp_path / "expected.yaml").write_text(next(text for text in YAML if text.startswith("expected:")))
    (entry,) = read_expected(tmp_path / "expected.yaml")
    assert entry.metric == "samples_per_sec"


def test_the_workflow_shown_is_yaml_with_the_gate_in_it(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(next(text for text in YAML if text.startswith("name:")))
    data: Any = read_document(tmp_path / "workflow.yaml", shown="workflow.yaml").data
    assert "dlperf gate" in data["jobs"]["gate"]["steps"][2]["run"]


def test_the_recipe_shown_is_a_shell_script() -> None:
    (recipe,) = [text for kind, text in BLOCKS if kind == "sh"]
    done = subprocess.run(["sh", "-n"], input=recipe, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_has_the_options_that_it_is_given(line: str) -> None:
    _, name, *arguments = shlex.split(line.partition("||")[0])
    with click.Context(main) as parent:
        command = main.get_command(parent, name)
        if isinstance(command, click.Group):
            command = command.get_command(parent, arguments.pop(0))
        assert command is not None
        command.make_context(name, arguments, parent=parent)


def test_every_verdict_and_metric_is_described() -> None:
    assert len(COMMANDS) >= 15
    for name in (*(verdict.value.replace("_", " ") for verdict in Verdict), *METRICS):
        assert f"`{name}`" in TEXT
