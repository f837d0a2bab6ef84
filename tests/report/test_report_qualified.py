"""A report says how noisy its machines are: what A/A runs found, or that nobody made any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from run_folders import make_case, store_good_runs

from dlperf.cli import main
from dlperf.compare.sets import result_set_of
from dlperf.compare.tests import qualify
from dlperf.plan.case import Topology
from dlperf.report.numbers import percent
from dlperf.results.noise_profile import NoiseProfile
from dlperf.results.query import load

if TYPE_CHECKING:
    from pathlib import Path

RATES = [10.0, 10.3, 9.9, 10.1, 10.2, 10.0, 9.8, 10.1]


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store_good_runs(tmp_path / "y1", make_case(), RATES)
    return tmp_path / "y1"


@pytest.fixture
def qualification(results: Path, tmp_path: Path) -> Path:
    session = qualify(result_set_of(load([results], strict=False), label="A/A"), runs=4, splits=20)
    found = NoiseProfile(dlperf_version="0", sessions=()).with_session(session)
    path = tmp_path / "qualification.json"
    path.write_text(found.model_dump_json())
    return path


def floor_of(path: Path) -> str:
    (session,) = NoiseProfile.model_validate_json(path.read_text()).sessions
    (floor,) = (one.noise_floor for one in session.noise if one.metric == "samples_per_sec")
    return percent(floor)


def test_without_a_qualification_the_noise_is_not_measured(results: Path) -> None:
    done = report(results)
    assert "noise of these machines was not measured" in done.stdout
    assert "A/A noise floor" not in done.stdout


def test_the_floor_of_a_case_stands_beside_the_spread_of_its_runs(results: Path, qualification: Path) -> None:
    done = report(results, "--qualified", qualification)
    assert 0 == done.exit_code, done.output
    table = done.stdout.split("Spread of the repeats")[1]
    heading, _, row = [line for line in table.splitlines() if line.startswith("|")][:3]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (heading, row)), strict=True))
    assert floor_of(qualification) == cells["A/A noise floor"]
    assert "1 session" in done.stdout
    assert "of 20 comparisons of equal sides raised a false alarm" in done.stdout


def test_a_qualification_in_its_usual_place_is_found(
    results: Path, qualification: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = qualification.parent / "baselines" / "qualification.json"
    usual.parent.mkdir()
    qualification.rename(usual)
    monkeypatch.chdir(qualification.parent)
    assert floor_of(usual) in report(results).stdout


def test_one_of_other_cases_says_nothing_of_these(qualification: Path, tmp_path: Path) -> None:
    other = make_case(topology=Topology(nodes=1, devices_per_node=2))
    store_good_runs(tmp_path / "other", other, RATES)
    done = report(tmp_path / "other", "--qualified", qualification)
    assert "noise of these machines was not measured" in done.stdout


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_report_made_again_reads_it_again(
    results: Path, qualification: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"report.{form}"
    assert 0 == report(results, "--qualified", qualification, "--out", out).exit_code
    assert 0 == report("--verify", out).exit_code
    qualification.write_text(qualification.read_text().replace('"splits":20', '"splits":21'))
    done = report("--verify", out)
    assert 1 == done.exit_code
    assert "21 comparisons" in done.stdout


def test_a_file_that_is_none_is_named(results: Path, tmp_path: Path) -> None:
    done = report(results, "--qualified", tmp_path / "none.json")
    assert 2 == done.exit_code
    assert "none.json: No such file" in done.output
