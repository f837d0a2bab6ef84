"""`dlperf report`: where the document goes, and how bad input ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from run_folders import MACHINE, make_case, store_good_runs

from dlperf.cli import main
from dlperf.report.columns import COLUMNS
from dlperf.results.published import published_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "y1"
    store_good_runs(folder, make_case(), [10.0, 11.0])
    return folder


def test_out_gets_the_document_and_a_folder_of_charts(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "my report.md"
    done = run(sweep, "--out", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    text = out.read_text()
    assert text.startswith("# Training throughput: y1\n")
    assert "](my%20report_files/y1-data-throughput.png)" in text
    assert sorted(path.name for path in (out.parent / "my report_files").iterdir()) == [
        "y1-data-iterations.png",
        "y1-data-iterations.svg",
        "y1-data-throughput.png",
        "y1-data-throughput.svg",
    ]


def test_without_out_the_text_goes_to_standard_output_and_nothing_is_written(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run()
    assert done.exit_code == 0
    assert done.stdout == run(sweep).stdout
    assert done.stdout.startswith("# Training throughput: y1\n")
    assert "![" not in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_input_gives_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        run(sweep, "--out", tmp_path / name / "report.md")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        made.append([(path.name, path.read_bytes()) for path in files])
    assert made[0] == made[1]
    assert len(made[0]) == 5


def test_what_cannot_be_read_ends_with_3_and_the_report_is_written(sweep: Path, tmp_path: Path) -> None:
    next((sweep / "runs").glob("*/r1/result.json")).write_text("{")
    done = run(sweep, "--out", tmp_path / "report.md")
    assert done.exit_code == 3
    assert "skipped" in done.stderr
    assert (tmp_path / "report.md").exists()


def test_strict_writes_nothing(sweep: Path, tmp_path: Path) -> None:
    other = MACHINE.model_copy(update={"cpu": "Another CPU"})
    store_good_runs(sweep, make_case(framework="oneflow", version="0.9.0"), [5.0], nodes=[other])
    done = run(sweep, "--strict", "--out", tmp_path / "report.md")
    assert done.exit_code == 2
    assert "different hardware" in done.stderr
    assert not (tmp_path / "report.md").exists()


def test_a_missing_folder_and_an_empty_one_end_with_2_and_one_line(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "nothing", "no such folder"), (tmp_path, "no results here")):
        done = run(folder)
        assert (done.exit_code, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr


def test_a_place_that_cannot_be_written_is_named(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(sweep, "--out", tmp_path / "file" / "report.md")
    assert done.exit_code == 5
    assert "file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


PUBLISHED = "published:insightface_v100_2021"


def test_published_figures_are_a_place_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(PUBLISHED)
    assert done.exit_code == 0
    assert done.stdout.startswith("# Training throughput: InsightFace throughput")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["report"], ["results"], ["show", "mxnet"]])
def test_an_unknown_published_name_is_answered_with_the_known_ones(command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "published:nothing"])
    assert (done.exit_code, done.stdout) == (2, "")
    known = ", ".join(f"published:{name}" for name in published_names())
    assert PUBLISHED in known
    assert done.stderr == f"dlperf: published:nothing: no such published data set; known: {known}\n"


def test_published_cases_are_listed_and_shown() -> None:
    listed = CliRunner().invoke(main, ["results", PUBLISHED, "--format", "csv"])
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 1 + 110)
    shown = CliRunner().invoke(main, ["show", "mxnet-1.6.0_y1_emore_data_1n8g_b256", PUBLISHED])
    assert shown.exit_code == 0
    assert "1031.10 (as published; its runs were not printed)" in shown.stdout
    for nothing in ("median  s", "min to max", "95 % interval"):
        assert nothing not in shown.stdout


def test_html_is_one_file_of_the_same_bytes_each_time(sweep: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        assert 0 == run(sweep, "--out", tmp_path / name / "report.html").exit_code
        (file,) = (tmp_path / name).iterdir()
        made.append(file.read_bytes())
    assert made[0] == made[1]
    assert made[0].startswith(b"<!DOCTYPE html>\n")
    assert b"sourceMappingURL" not in made[0]


def test_a_form_can_be_asked_for_whatever_the_name(sweep: Path, tmp_path: Path) -> None:
    assert run(sweep, "--format", "html").stdout.startswith("<!DOCTYPE html>\n")
    run(sweep, "--format", "md", "--out", tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text().startswith("# Training throughput: y1\n")


def newer(sweep: Path) -> None:
    path = next((sweep / "runs").glob("*/r2/result.json"))
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99', 1))


def damaged(sweep: Path) -> None:
    next((sweep / "runs").glob("*/r2/result.json")).write_text('{"schema_version": 1')


@pytest.mark.parametrize("form", ["md", "html", "json"])
@pytest.mark.parametrize(
    ("spoil", "said"), [(newer, "schema version 99; this dlperf reads up to 1"), (damaged, "damaged: ")]
)
def test_a_result_that_cannot_be_read_is_named_and_left_out_or_with_strict_an_error(
    sweep: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str, form: str
) -> None:
    spoil(sweep)
    out = tmp_path / f"report.{form}"
    done = run(sweep, "--out", out)
    assert 3 == done.exit_code
    assert said in done.stderr
    assert form == "json" or said in out.read_text()
    out.unlink()
    done = run(sweep, "--strict", "--out", out)
    assert 2 == done.exit_code
    assert said in done.stderr
    assert not out.exists()


def test_a_run_on_unknown_hardware_is_not_merged_with_the_others(sweep: Path) -> None:
    next((sweep / "runs").glob("*/r2/environment.json")).write_text("{")
    text = run(sweep).stdout
    assert "come from 2 kinds of hardware" not in text  # it stands with the others of its sweep
    store_good_runs(sweep, make_case(seed=1), [9.0], nodes=[MACHINE.model_copy(update={"cpu": "Other"})])
    text = run(sweep).stdout
    assert "The results come from 3 kinds of hardware" in text
    assert "hardware: unknown hardware" in text
    assert 2 == run(sweep, "--strict").exit_code


def test_the_options_of_a_view_are_lists_with_commas(sweep: Path) -> None:
    text = run(sweep, "--columns", "samples_per_sec, memory", "--group-by", "precision").stdout
    assert "| MXNet 1.9.1 peak anonymous memory of a rank (MiB) |" in text
    assert "## y1, data parallel, precision: fp32\n" in text
    done = run(sweep, "--columns", "speed")
    assert (2, 1) == (done.exit_code, len(done.stderr.splitlines()))


def test_the_help_names_every_column() -> None:
    text = run("--help").stdout
    assert [] == [name for name in COLUMNS if not re.search(rf"\b{name}\b", text)]
