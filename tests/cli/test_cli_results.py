"""`dlperf results`: one list of cases in three forms; what cannot be read is named and counts."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from plans import write_plan
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.logs.text import ANSI
from dlperf.plan.case import DataSet, Source
from dlperf.plan.plan import PlanStatus
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

FLAT = {
    "framework",
    "version",
    "experiment",
    "parallelism",
    "topology",
    "nodes",
    "devices_per_node",
    "batch_size_per_device",
    "num_classes",
    "precision",
    "sample_ratio",
    "threads_per_device",
    "status",
    "samples_per_sec",
    "samples_per_sec_min",
    "samples_per_sec_max",
    "cv",
    "interval_low",
    "interval_high",
    "runs_ok",
    "runs_failed",
    "speedup",
    "reason",
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["results", *map(str, arguments)])


def test_loop_and_data_are_named_where_there_is_a_choice(tmp_path: Path) -> None:
    faces = DataSet(
        path="/data/faces", read="warm", forms=("recordio",), images=9, classes=9, index_sha256="ab" * 32
    )
    source = Source(engine="mxnet", content_hash="0123456789ab", commit="863a7ea9")
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    assert not {"loop", "data"} & set(run(tmp_path / "y1").stdout.split())
    store_good_runs(tmp_path / "y1", make_case(data=faces), [9.0])
    # What all cases have in common stands above the table.
    assert "loop own" in run(tmp_path / "y1").stdout.splitlines()[0]
    theirs = make_case(framework="insightface_mxnet", source=source, data=faces)
    store_good_runs(tmp_path / "y1", theirs, [8.0])
    rows = list(csv.DictReader(io.StringIO(run(tmp_path / "y1", "--format", "csv").stdout)))
    expected = [("own", "synthetic"), ("own", "faces (warm)"), ("original", "faces (warm)")]
    assert expected == [(row["loop"], row["data"]) for row in rows]
    lines = run(tmp_path / "y1").stdout.splitlines()
    assert ["loop", "data"] == lines[2].split()[1:3]
    shown = CliRunner().invoke(main, ["show", "insightface", str(tmp_path / "y1")]).stdout
    assert "original program (files 0123456789ab, commit 863a7ea9); own loop: mxnet" in shown
    assert f"/data/faces (warm; 9 images of 9 classes; recordio; index {'ab' * 32})" in shown


def test_the_rounds_of_a_gate_are_told_apart(tmp_path: Path) -> None:
    for name in ("first", "again", "again-2"):
        store_good_runs(tmp_path / "gate" / name, make_case(), [10.0])
    lines = run(tmp_path / "gate").stdout.splitlines()
    assert [["framework", "sweep"], ["again"], ["again-2"], ["first"]] == [
        lines[2].split()[:2],
        *(line.split()[2:3] for line in lines[3:]),
    ]
    assert " sweep " not in run(tmp_path / "gate" / "first").stdout


def test_sweeps_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("monday", "friday"):
        store_good_runs(tmp_path / name / "y1", make_case(), [10.0])
    listed = run(tmp_path / "monday", tmp_path / "friday").stdout
    assert all(str(tmp_path / name / "y1") in listed for name in ("monday", "friday"))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    store_good_runs(folder, make_case(), [10.0, 11.0, 12.0])
    other = make_case(framework="oneflow", version="0.9.0")
    log = "RuntimeError: out of memory [bold]x[/bold]\n"
    store_run(write_run(folder, other, log=log, outcome=failed("rank_failed")))
    return folder


def test_json_is_a_list_of_flat_cases(sweep: Path) -> None:
    done = run(sweep, "--format", "json")
    cases = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [case["framework"] for case in cases] == ["mxnet", "oneflow"]
    assert set(cases[0]) >= FLAT
    assert not any(isinstance(value, dict | list) for case in cases for value in case.values())
    assert cases[0]["samples_per_sec"] == pytest.approx(11.0)
    assert (cases[0]["runs_ok"], cases[0]["speedup"], cases[0]["reason"]) == (3, 1.0, None)
    assert (cases[1]["status"], cases[1]["samples_per_sec"], cases[1]["runs_failed"]) == ("oom", None, 1)


def test_csv_has_the_same_fields(sweep: Path) -> None:
    table = list(csv.DictReader(io.StringIO(run(sweep, "--format", "csv").stdout)))
    cases = json.loads(run(sweep, "--format", "json").stdout)
    assert list(table[0]) == list(cases[0])
    assert float(table[0]["samples_per_sec"]) == cases[0]["samples_per_sec"]
    assert table[1]["samples_per_sec"] == ""


def test_the_table_has_a_line_per_case_and_takes_no_markup_from_logs(sweep: Path) -> None:
    same, _, headings, *cases = run(sweep).stdout.splitlines()
    assert same == (
        "every case: experiment y1, parallelism data, topology 1n1g, batch 8, classes 100, precision fp32, "
        "threads 2"
    )
    assert headings.split()[:3] == ["framework", "status", "samples/s"]
    assert len(cases) == 2
    assert "11.00" in cases[0]
    assert cases[1].endswith("out of memory [bold]x[/bold]")
    assert " oom " in cases[1]


@pytest.mark.parametrize("width", [60, 120])
def test_no_cell_is_cut_on_a_narrow_terminal(sweep: Path, width: int) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(width)}
    shown = CliRunner().invoke(main, ["results", str(sweep)], env=terminal, color=True)
    text = ANSI.sub(b"", shown.stdout_bytes).decode()
    assert b"\x1b" in shown.stdout_bytes
    assert "10.00 to 12.00" in text
    assert "95 % interval" in text
    assert "…" not in text


def test_a_file_gets_what_standard_output_would(sweep: Path, tmp_path: Path) -> None:
    for form in ("table", "json", "csv"):
        out = tmp_path / f"out.{form}"
        done = run(sweep, "--format", form, "-o", out)
        assert (done.exit_code, done.stdout) == (0, "")
        assert out.read_text() == run(sweep, "--format", form).stdout


def test_excluded_cells_are_listed_with_their_why(sweep: Path) -> None:
    excluded = make_case(framework="pytorch", version="2.13.0")
    write_plan(sweep, [make_case()], others={PlanStatus.EXCLUDED: [(excluded, "no room")]})
    cases = json.loads(run(sweep, "--format", "json").stdout)
    assert [(case["status"], case["reason"]) for case in cases if case["framework"] == "pytorch"] == [
        ("not_measured", "excluded: no room")
    ]


def test_what_cannot_be_read_is_named_and_ends_with_3(sweep: Path) -> None:
    damaged = next((sweep / "runs").glob("mxnet*/r1/result.json"))
    damaged.write_text("{")
    done = run(sweep, "--format", "json")
    assert done.exit_code == 3
    assert done.stderr == f"dlperf: skipped {damaged}: damaged: not the JSON of a result\n"
    assert json.loads(done.stdout)[0]["runs_ok"] == 2


def test_strict_makes_it_an_error(sweep: Path) -> None:
    next((sweep / "runs").glob("mxnet*/r1/result.json")).write_text("{")
    done = run(sweep, "--strict")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "damaged" in done.stderr


def test_a_missing_folder_and_an_empty_one_end_with_2_and_one_line(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "nothing", "no such folder"), (tmp_path, "no results here")):
        done = run(folder)
        assert (done.exit_code, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr


def test_without_a_folder_it_reads_results(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.rename((tmp_path / "results").mkdir() or tmp_path / "results" / "y1")
    monkeypatch.chdir(tmp_path)
    assert len(run().stdout.splitlines()) == 5
