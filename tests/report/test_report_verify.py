"""A report is made again from its logs: nothing changed is nothing found, one changed byte is found."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from run_folders import make_case, store_good_runs

from dlperf.cli import main
from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.report.verify import verify
from dlperf.running.run import store_unmeasured

if TYPE_CHECKING:
    from pathlib import Path

ONEFLOW = {"framework": "oneflow", "version": "0.9.0"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    sweep = folder / "results" / "y1"
    store_good_runs(sweep, make_case(), [10.0, 10.4, 10.2, 10.2])
    store_good_runs(sweep, make_case(**ONEFLOW), [5.0, 5.2, 5.1, 5.0])
    for form in ("md", "html"):
        out = folder / "out" / f"report.{form}"
        assert 0 == run(sweep, "--out", out, "--columns", "samples_per_sec,ratio,memory").exit_code
    return folder


@pytest.fixture(params=["md", "html"])
def report(request: pytest.FixtureRequest, original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out" / f"report.{request.param}"


def log_of(report: Path, run: str = "r1") -> Path:
    return next(report.parent.parent.glob(f"results/y1/runs/mxnet*/{run}/logs/rank0.log"))


def test_what_did_not_change_is_the_same(report: Path) -> None:
    found = verify(report)
    assert ((), 8) == (found.differences, found.runs)
    assert found.tables > 4
    done = run("--verify", report)
    assert 0 == done.exit_code
    assert done.stdout.endswith("made again from 8 runs: 0 differences\n")


def test_a_changed_time_in_a_log_changes_the_cells_made_from_it(report: Path) -> None:
    log = log_of(report, run="r3")  # one of the two in the middle
    changed, count = re.subn(r'"seconds": 0\.784\d*', '"seconds": 0.75', log.read_text())
    assert count > 1
    log.write_text(changed)
    places = [one.place for one in verify(report).differences]
    assert any("column MXNet 1.9.1 samples/s" in place for place in places)
    assert any("Evidence, row mxnet" in place and "column samples/s" in place for place in places)
    assert not any("oneflow" in place for place in places)


@pytest.mark.parametrize("name", ["case.json", "outcome.json", "logs/rank0.log"])
def test_one_changed_byte_that_changes_no_figure_is_found(report: Path, name: str) -> None:
    path = log_of(report).parent.parent / name
    path.write_bytes(path.read_bytes() + b"\n")
    (found,) = verify(report).differences
    assert "column SHA-256 of case, outcome and logs" in found.place
    assert found.report != found.logs


def test_a_changed_cell_of_the_report_is_named_with_both_values(report: Path) -> None:
    text = report.read_text()
    assert "10.20" in text
    report.write_text(text.replace("10.20", "19.20"))
    found = verify(report).differences
    assert {("'19.20'", "'10.20'")} >= {(one.report, one.logs) for one in found if "samples/s" in one.place}
    done = run("--verify", report)
    assert 1 == done.exit_code
    assert "column MXNet 1.9.1 samples/s: the report says '19.20', the logs give '10.20'" in done.stdout


def test_a_row_with_a_cell_too_many_is_named_and_ends_nothing(tmp_path: Path, original: Path) -> None:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    page = tmp_path / "out" / "report.md"
    page.write_text(re.sub(r"(\| *1 \| *1 \| *8 \|)", r"\1 9 |", page.read_text(), count=1))
    (found,) = verify(page).differences
    assert "a row 1 | 1 | 8 | 9 | " in found.report
    assert "a row 1 | 1 | 8 | 10.20 | " in found.logs


def test_a_changed_sentence_is_named(report: Path) -> None:
    report.write_text(
        report.read_text().replace("is the fastest in 1 of 1 row", "is the fastest in 9 of 9 rows")
    )
    (found,) = verify(report).differences
    assert "9 of 9 rows" in found.report
    assert "1 of 1 row" in found.logs


def test_a_result_that_its_log_does_not_give_is_found(tmp_path: Path) -> None:
    sweep = tmp_path / "y1"
    store_good_runs(sweep, make_case(), [10.0])
    (path,) = sweep.glob("runs/*/r1/result.json")
    path.write_text(path.read_text().replace('"samples_per_sec": 10.0', '"samples_per_sec": 99.0'))
    run(sweep, "--out", tmp_path / "report.md")
    assert any(
        ("'99.00'", "'10.00'") == (one.report, one.logs) for one in verify(tmp_path / "report.md").differences
    )


def test_a_run_that_was_never_started_is_what_it_says_and_one_that_was_is_made_again(tmp_path: Path) -> None:
    results, case = tmp_path / "results", make_case()
    folder = results / "sweep" / "runs" / case.case_id / "r1"
    store_unmeasured(case, repeat=1, folder=folder, reason="its environment cannot be made")
    path = tmp_path / "report.md"
    assert 0 == run(results, "--out", path).exit_code
    assert () == verify(path).differences
    (folder / "logs").mkdir()
    (folder / "logs" / "rank0.log").write_text("it was started all the same\n")
    assert any("the logs give 'incomplete'" in str(one) for one in verify(path).differences)


def test_a_run_that_is_gone_and_a_run_that_came_are_found(report: Path) -> None:
    run_folder = log_of(report).parent.parent
    shutil.copytree(run_folder, run_folder.parent / "r9")
    assert any("r9" in one.logs for one in verify(report).differences)
    shutil.rmtree(run_folder.parent / "r9")
    shutil.rmtree(run_folder)
    assert any("| r1 |" in one.report for one in verify(report).differences)


def test_a_run_that_can_not_be_made_again_is_named(report: Path) -> None:
    (log_of(report).parent.parent / "case.json").unlink()
    assert any("cannot be made again" in one.logs for one in verify(report).differences)


def test_whoever_verifies_is_told_that_other_arguments_would_be_ignored(report: Path) -> None:
    for others in (("results",), ("--strict",), ("--out", "new.md")):
        done = run("--verify", report, *others)
        assert 2 == done.exit_code
        assert "--verify takes all it needs from the report itself" in done.stderr


def test_results_and_report_can_move_together(report: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("out", "results"):
        shutil.move(tmp_path / name, moved / name)
    assert () == verify(moved / "out" / report.name).differences


def test_a_file_that_says_nothing_of_its_source_cannot_be_verified(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("# A report\n")
    with pytest.raises(UserError, match="does not say what it was made from"):
        verify(tmp_path / "report.md")
    (tmp_path / "report.md").write_text('<!-- dlperf-report {"form":"pdf"} -->')
    with pytest.raises(UserError, match="its record cannot be read: form"):
        verify(tmp_path / "report.md")
    (tmp_path / "report.md").write_bytes(b"\xff")
    with pytest.raises(UserError, match="no report of dlperf: not UTF-8"):
        verify(tmp_path / "report.md")
    with pytest.raises(UserError, match=r"none\.md: No such file"):
        verify(tmp_path / "none.md")


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_the_committed_report_of_published_figures_is_what_its_data_say(tmp_path: Path, name: str) -> None:
    page = tmp_path / name
    shutil.copy(shipped_folder("reports") / "insightface_v100_2021" / name, page)
    assert () == verify(page).differences
    page.write_text(page.read_text().replace("650.80", "650.81", 1))
    (found,) = verify(page).differences
    assert "650.81" in found.report
    assert "650.80" in found.logs
