"""A report made again from its logs: what is new, gone, changed or edited is named, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from run_folders import make_case, store_good_runs

from dlperf.cli import main
from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.report.verify import Kind, Verified, verify
from dlperf.running.run import store_unmeasured

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


def whats(found: Verified, kind: Kind) -> list[str]:
    """What differs in one way; nothing differs in another."""
    assert {kind} == {difference.kind for difference in found.differences}
    return [difference.what for difference in found.differences]


def tamper(log: Path) -> None:
    changed, count = re.subn(r'"seconds": 0\.784\d*', '"seconds": 0.75', log.read_text())
    assert count > 1
    log.write_text(changed)


def test_what_did_not_change_is_the_same(report: Path) -> None:
    found = verify(report)
    assert ((), 2, 8, 0) == (found.differences, found.cases, found.runs, found.following)
    done = run("--verify", report)
    assert 0 == done.exit_code
    assert f"{report}: 2 cases recomputed from 8 runs: no difference\n" == done.stdout


def test_a_changed_log_is_named_with_its_run_and_both_figures(report: Path) -> None:
    tamper(log_of(report, run="r3"))
    found = verify(report)
    (what,) = whats(found, Kind.CHANGED_FILES)
    assert re.fullmatch(r"mxnet-\S+ r3: 10\.20 samples/s -> 10\.67 samples/s \(logs/rank0\.log\)", what)
    assert found.following > 3


@pytest.mark.parametrize("name", ["case.json", "outcome.json", "logs/rank0.log"])
def test_one_changed_byte_that_changes_no_figure_is_found(report: Path, name: str) -> None:
    path = log_of(report).parent.parent / name
    path.write_bytes(path.read_bytes() + b"\n")
    (what,) = whats(verify(report), Kind.CHANGED_FILES)
    assert what.endswith(f" r1: still 10.00 samples/s ({name})")


def test_results_that_have_grown_by_a_case_with_one_changed_log_make_a_short_list(report: Path) -> None:
    """The new case comes first in every table, so that no row and no column stands where it stood."""
    sweep = report.parent.parent / "results" / "y1"
    store_good_runs(sweep, make_case(framework="aframework", version="1.0"), [7.0, 7.2])
    tamper(log_of(report, run="r3"))
    done = run("--verify", report)
    assert 1 == done.exit_code
    new, changed, following, summary = done.stdout.splitlines()
    assert re.fullmatch(
        r"1 case is new since the report: aframework-1\.0_y1_\S+: 7\.100 samples/s \(2 runs\)", new
    )
    assert re.fullmatch(
        r"1 run's files differ: mxnet-\S+ r3: 10\.20 samples/s -> 10\.67 samples/s \(logs/rank0\.log\)",
        changed,
    )
    assert re.fullmatch(r"Lines of the report that would change with these results: \d+", following)
    assert f"{report}: 3 cases recomputed from 10 runs: 2 differences" == summary


def test_a_changed_cell_of_the_report_is_named_by_its_line_with_both_values(report: Path) -> None:
    lines = report.read_text().split("\n")
    number = next(number for number, line in enumerate(lines, 1) if "10.20" in line and "#e1" in line)
    lines[number - 1] = lines[number - 1].replace("10.20", "19.20")
    report.write_text("\n".join(lines))
    (what,) = whats(verify(report), Kind.EDITED)
    assert re.fullmatch(rf"line {number}: '[^']*19\.20[^']*'; the logs give '[^']*10\.20[^']*'", what)
    done = run("--verify", report)
    assert 1 == done.exit_code
    assert f"1 place was edited: {what}\n" in done.stdout


def test_an_edit_is_told_apart_from_what_changed_results_would_change(report: Path) -> None:
    tamper(log_of(report, run="r3"))
    report.write_text(report.read_text().replace("is the fastest, 2.0", "is the fastest, 9.0"))
    found = verify(report)
    _, edited = found.differences
    assert Kind.EDITED == edited.kind
    assert "9.0" in edited.what


def test_a_removed_and_an_added_line_are_named(report: Path) -> None:
    text = report.read_text()
    start = text.index("is the fastest")
    line = text[text.rindex("\n", 0, start) + 1 : text.index("\n", start) + 1]
    report.write_text(text.replace(line, ""))
    (what,) = whats(verify(report), Kind.EDITED)
    assert re.match(r"before line \d+: nothing; the logs give ", what)
    report.write_text(text.replace(line, f"{line}\nand nothing else\n"))
    (what,) = whats(verify(report), Kind.EDITED)
    assert re.match(r"line \d+: 'and nothing else'; the logs give nothing", what)


def test_an_edited_chart_is_named(report: Path) -> None:
    chart = report.parent / "report_files" / "y1-data-throughput.svg"
    file = chart if report.suffix == ".md" else report
    text = file.read_text()
    assert ">10.20</text>" in text
    file.write_text(text.replace(">10.20</text>", ">19.20</text>", 1))
    (what,) = whats(verify(report), Kind.EDITED)
    assert re.fullmatch(r"line \d+: a chart|report_files/y1-data-throughput\.svg", what)


def test_padding_and_line_ends_are_no_edit(report: Path) -> None:
    report.write_bytes(report.read_text().replace(" |", "  |").replace("\n", "\r\n").encode())
    assert () == verify(report).differences


def test_a_row_with_a_cell_too_many_is_named_and_ends_nothing(tmp_path: Path, original: Path) -> None:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    page = tmp_path / "out" / "report.md"
    page.write_text(re.sub(r"(\| *1 \| *1 \| *8 \|)", r"\1 9 |", page.read_text(), count=1))
    (what,) = whats(verify(page), Kind.EDITED)
    assert "8 | 9 | " in what


def test_a_result_that_its_log_does_not_give_is_found(tmp_path: Path) -> None:
    sweep = tmp_path / "y1"
    store_good_runs(sweep, make_case(), [10.0])
    (path,) = sweep.glob("runs/*/r1/result.json")
    path.write_text(path.read_text().replace('"samples_per_sec": 10.0', '"samples_per_sec": 99.0'))
    run(sweep, "--out", tmp_path / "report.md")
    (what,) = whats(verify(tmp_path / "report.md"), Kind.CHANGED_RUN)
    assert what.endswith(" r1: 99.00 samples/s -> 10.00 samples/s")


def test_a_run_that_was_never_started_is_what_it_says_and_one_that_was_is_made_again(tmp_path: Path) -> None:
    results, case = tmp_path / "results", make_case()
    folder = results / "sweep" / "runs" / case.case_id / "r1"
    store_unmeasured(case, repeat=1, folder=folder, reason="its environment cannot be made")
    path = tmp_path / "report.md"
    assert 0 == run(results, "--out", path).exit_code
    assert () == verify(path).differences
    (folder / "logs").mkdir()
    (folder / "logs" / "rank0.log").write_text("it was started all the same\n")
    (what,) = whats(verify(path), Kind.CHANGED_FILES)
    assert what.endswith(" r1: not measured -> incomplete (logs/rank0.log)")


def test_a_run_or_a_case_that_is_gone_and_a_run_that_came_are_found(report: Path) -> None:
    run_folder = log_of(report).parent.parent
    shutil.copytree(run_folder, run_folder.parent / "r9")
    (what,) = whats(verify(report), Kind.NEW_RUN)
    assert what.endswith(" r9: 10.00 samples/s")
    shutil.rmtree(run_folder.parent / "r9")
    shutil.rmtree(run_folder)
    (what,) = whats(verify(report), Kind.GONE_RUN)
    assert what.endswith(" r1: 10.00 samples/s")
    shutil.rmtree(run_folder.parent)
    (what,) = whats(verify(report), Kind.GONE_CASE)
    assert re.fullmatch(r"mxnet-\S+: 10\.20 samples/s \(4 runs\)", what)


def test_a_run_that_can_not_be_made_again_is_named(report: Path) -> None:
    (log_of(report).parent.parent / "case.json").unlink()
    (what,) = whats(verify(report), Kind.GONE_RUN)
    assert "cannot be computed again" in what


def test_whoever_verifies_is_told_that_other_arguments_would_be_ignored(report: Path) -> None:
    for others in (("results",), ("--strict",), ("--out", "new.md")):
        done = run("--verify", report, *others)
        assert 2 == done.exit_code
        assert "--verify reads all it needs from the report" in done.stderr


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
    (tmp_path / "report.md").write_text('<!-- dlperf-report {"schema_version":2,"form":"pdf"} -->')
    with pytest.raises(UserError, match="its record cannot be read: form"):
        verify(tmp_path / "report.md")
    (tmp_path / "report.md").write_text(
        '<!-- dlperf-report {"form":"md","language":"en","results":["x"]} -->'
    )
    with pytest.raises(UserError, match="an older dlperf wrote it"):
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
    (what,) = whats(verify(page), Kind.EDITED)
    assert "650.81" in what
