"""`dlperf gate` and `dlperf qualify` on real runs: a planted slowdown is caught, equal versions pass."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from run_folders import make_case, store_good_runs
from sweep_lab import SweepLab

from dlperf.cli import main
from dlperf.cli.qualify import session_folder
from dlperf.plan.plan import Plan
from dlperf.results.noise_profile import NoiseProfile, read_noise_profile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

VERSIONS = [np.__version__, f"{np.__version__}+slower"]
JUDGING = ["--margin", "4%", "--metric", "samples_per_sec"]  # a shared machine moves by some per cent itself

GATE = ["gate", "tiny.yaml", "--until-decided", "16", *JUDGING, "--format", "json"]


def frameworks(*versions: str) -> list[dict[str, str]]:
    return [{"name": "numpy", "version": version, "python": sys.executable} for version in versions]


def write(lab: SweepLab, *versions: str, repeats: int = 4, step_seconds: float = 0.25, **keys: Any) -> None:
    lab.write(
        frameworks=frameworks(*versions),
        options={"step_seconds": step_seconds},
        measure={"warmup_iterations": 1, "measured_iterations": 4, "repeats": repeats},
        **keys,
    )


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SweepLab, CompletedProcess[str]]]:
    """A loop against one that takes 10 % longer a step; with more blocks where others use the cores."""
    lab = SweepLab(tmp_path_factory.mktemp("gate"))
    with lab.stack:
        write(lab, *VERSIONS)
        yield lab, lab.dlperf(*GATE, "--write", "pr=comment.md")


@pytest.mark.slow
@pytest.mark.quiet
class TestPlantedSlowdown:
    def test_it_is_a_confirmed_regression(self, gated: tuple[SweepLab, CompletedProcess[str]]) -> None:
        lab, done = gated
        assert done.returncode == 1, done.stderr
        (row,) = json.loads(done.stdout)["findings"]
        assert "+slower" in row["candidate_case"]
        assert row["verdict"] == "slower"
        assert 0.8 < row["ratio"] < 0.96
        assert "slower" in (lab.folder / "comment.md").read_text()

    def test_the_suspect_was_run_again_in_blocks(self, gated: tuple[SweepLab, CompletedProcess[str]]) -> None:
        lab, done = gated
        folder = lab.folder / "results" / "tiny-gate"
        again = Plan.model_validate_json((folder / "again" / "plan.lock.json").read_bytes())
        assert VERSIONS == [case.version for case in again.runnable]
        assert {row["blocked"] for row in json.loads(done.stdout)["findings"]} == {True}
        assert len(again.runs) % (4 * len(again.runnable)) == 0

    def test_starting_again_runs_nothing_and_says_the_same(
        self, gated: tuple[SweepLab, CompletedProcess[str]]
    ) -> None:
        lab, done = gated
        again = lab.dlperf(*GATE)
        assert (again.returncode, again.stdout) == (done.returncode, done.stdout)
        assert "started" not in again.stderr
        assert "results/tiny-gate/first: its runs are complete and are used as they are" in again.stderr

    def test_its_runs_are_a_baseline_for_the_next_sweep(
        self, gated: tuple[SweepLab, CompletedProcess[str]]
    ) -> None:
        lab, _ = gated
        first = "results/tiny-gate/first"
        base = f"framework=numpy=={VERSIONS[0]}"
        assert lab.dlperf("baseline", "save", "base", first, "--only", base).returncode == 0
        slower = f"framework=numpy=={VERSIONS[1]}"
        done = lab.dlperf("compare", "base", slower, "--in", first, *JUDGING, "--format", "json")
        (row,) = json.loads(done.stdout)["findings"]
        assert row["ratio"] < 0.95


@pytest.mark.slow
@pytest.mark.quiet
def test_qualify_runs_every_case_against_itself_and_stores_the_noise(tmp_path: Path) -> None:
    lab = SweepLab(tmp_path)
    with lab.stack:
        write(lab, VERSIONS[0], step_seconds=0.02)
        done = lab.dlperf("qualify", "tiny.yaml", "--repeats", "4")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "baselines" / "qualification.json").read_text())
        (session,) = found["sessions"]
        assert (session["cases"], session["runs"], session["splits"]) == (1, 4, 400)
        assert {one["blocks"] for one in session["noise"]} == {4}
        assert "raised a false alarm" in done.stdout
        assert "between sessions: not measured" in done.stdout
        counted = read_noise_profile(tmp_path / "baselines" / "qualification.json")
        sessions = tmp_path / "results" / "tiny-qualify"
        assert ["session-1"] == [path.name for path in sessions.iterdir()]
        assert session_folder(sessions, counted).name == "session-2"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepLab:
    lab = SweepLab(tmp_path)
    for name, value in lab.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(lab.environment()["PYTHONPATH"])
    monkeypatch.chdir(tmp_path)
    return lab


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("versions", "arguments", "message"),
    [
        (VERSIONS[:1], (), "no framework is there in two versions"),
        (VERSIONS[:2], ("--baseline", "numpy==0.1"), "--baseline: unknown version 'numpy==0.1'"),
        (VERSIONS[:2], ("--against", "nothing"), "no baseline in baselines (known: none)"),
        (VERSIONS[:2], ("-S", "topology=2n1g"), "no case can run here"),
        (VERSIONS[:2], ("-S", "measure.repeats=3"), "3 repeats; a verdict needs at least 4"),
        (VERSIONS[:2], ("--write", "x"), "write FORMAT=FILE"),
    ],
)
def test_wrong_input_ends_before_anything_runs(
    here: SweepLab, versions: list[str], arguments: tuple[str, ...], message: str
) -> None:
    write(here, *versions)
    done = run("gate", "tiny.yaml", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (here.folder / "results").exists()


@pytest.mark.parametrize(
    ("command", "folder", "runs"),
    [("gate", "results/tiny-gate/first", "8 runs"), ("qualify", "results/tiny-qualify/session-1", "20 runs")],
)
def test_a_dry_run_shows_the_plan_and_the_commands_and_writes_nothing(
    here: SweepLab, command: str, folder: str, runs: str
) -> None:
    write(here, *VERSIONS)
    done = run(command, "tiny.yaml", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert f"tiny: 2 cases, {runs} (" in done.stdout
    assert f"{sys.executable} " in done.stdout
    assert folder in done.stdout
    assert not (here.folder / "results").exists()
    assert not (here.folder / "baselines").exists()


def test_of_a_folder_qualify_runs_nothing_that_could_be_shown(here: SweepLab) -> None:
    store_good_runs(here.folder / "monday", make_case(), [100.0] * 8)
    assert "leave out --dry-run" in run("qualify", "monday", "--dry-run").stderr


def test_too_few_runs_and_options_beside_a_folder_are_told(here: SweepLab) -> None:
    (here.folder / "results").mkdir()
    write(here, VERSIONS[0])
    assert "no results here" in run("qualify", "results").stderr
    assert "leave out the options of a sweep" in run("qualify", "results", "--only", "nodes=1").stderr


def test_folders_of_two_days_are_two_sessions_and_one_that_is_read_again_is_none(here: SweepLab) -> None:
    rates = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.1]
    for name, day in (("monday", "05"), ("friday", "09")):
        began = {"started_at": f"2026-01-{day}T10:00:00Z"}
        store_good_runs(here.folder / name, make_case(), rates, outcome=began)
    assert "between sessions: not measured" in run("qualify", "monday").stdout
    assert "(2 sessions)" in run("qualify", "friday").stdout
    assert "in 2 sessions" in run("qualify", "monday").stdout


def test_a_session_that_was_put_aside_under_another_name_is_no_session(here: SweepLab) -> None:
    for name in ("session-2-before-the-update", "session-x", "session-"):
        (here.folder / name).mkdir(parents=True)
        (here.folder / name / "plan.lock.json").touch()
    assert session_folder(here.folder, NoiseProfile(dlperf_version="", sessions=())).name == "session-1"


def test_qualify_writes_nothing_where_nothing_can_run(here: SweepLab) -> None:
    write(here, VERSIONS[0])
    done = run("qualify", "tiny.yaml", "-S", "topology=2n1g")
    assert (done.exit_code, "no case can run here; `dlperf plan tiny.yaml`" in done.stderr) == (2, True)
    assert not (here.folder / "results").exists()
