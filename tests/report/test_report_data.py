"""The data behind a report: a row a case and a row a run, the same in every form."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.plan.case import Topology
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "y1"
    store_good_runs(folder, make_case(), [10.0, 11.0], phases={"data": 0.5})
    store_good_runs(folder, make_case(topology=Topology(nodes=1, devices_per_node=2)), [16.8])
    log = "RuntimeError: CUDA out of memory\n"
    case = make_case(framework="oneflow", version="0.9.0")
    store_run(write_run(folder, case, log=log, outcome=failed("rank_failed")))
    return folder


def test_a_case_has_a_row_and_each_of_its_runs_one_behind_it(sweep: Path) -> None:
    rows = json.loads(run(sweep, "--format", "json", "--price-per-device-hour", "3.6").stdout)
    assert ["case", "run", "run", "case", "run", "case", "run"] == [row["row"] for row in rows]
    case, first, second = rows[:3]
    assert (10.5, 2, None, None) == (
        case["samples_per_sec"],
        case["runs_ok"],
        case["repeat"],
        case["run_folder"],
    )
    assert [(10.0, 1), (11.0, 2)] == [
        (pytest.approx(row["samples_per_sec"]), row["repeat"]) for row in (first, second)
    ]
    assert str(sweep / "runs" / case["case_id"] / "r1") == first["run_folder"]
    assert (None, None, 4) == (first["cv"], first["speedup"], first["accepted_steps"])
    assert '{"data": 0.5}' == first["phase_seconds"]
    assert 1e6 / 10.5 / 1000 == pytest.approx(case["cost_per_million_samples"])


def test_what_is_computed_in_a_report_is_in_the_data(sweep: Path) -> None:
    rows = json.loads(run(sweep, "--format", "json").stdout)
    two = next(row for row in rows if row["row"] == "case" and row["topology"] == "1n2g")
    assert (pytest.approx(1.6), pytest.approx(0.8)) == (two["speedup"], two["scaling_efficiency"])
    assert pytest.approx(2_700_076_800 * 16.8 / 2 / 7.0e10) == two["share_of_matmul_rate"]


def test_a_failed_run_has_its_status_and_no_number(sweep: Path) -> None:
    rows = json.loads(run(sweep, "--format", "json").stdout)
    case, failure = [row for row in rows if row["framework"] == "oneflow"]
    for row in (case, failure):
        assert ("oom", None, None) == (row["status"], row["samples_per_sec"], row["step_seconds_median"])
        assert "out of memory" in row["reason"]


def test_every_form_holds_the_same(sweep: Path, tmp_path: Path) -> None:
    for form in ("csv", "json"):
        assert 0 == run(sweep, "--out", tmp_path / f"data.{form}").exit_code
    done = run(sweep, "--data", tmp_path / "data.parquet")  # beside a report
    assert done.stdout.startswith("# Training throughput: y1\n")
    assert f"{tmp_path}/data.parquet\n" == done.stderr
    rows = json.loads((tmp_path / "data.json").read_text())
    table = pq.read_table(tmp_path / "data.parquet")
    assert rows == table.to_pylist()
    assert {"int64", "double", "string"} == {str(field.type) for field in table.schema}
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert as_text == list(csv.DictReader(io.StringIO((tmp_path / "data.csv").read_text())))


@pytest.mark.parametrize("published", [False, True])
def test_every_column_has_the_type_of_its_values(sweep: Path, tmp_path: Path, *, published: bool) -> None:
    source = "published:insightface_v100_2021" if published else sweep
    priced = (source, "--price-per-device-hour", "1")
    assert 0 == run(*priced, "--out", tmp_path / "data.parquet").exit_code
    schema = pq.read_table(tmp_path / "data.parquet").schema
    rows = json.loads(run(*priced, "--format", "json").stdout)
    types = {"int64": int, "double": float, "string": str}
    for field in schema:
        values = [row[field.name] for row in rows if row[field.name] is not None]
        assert all(isinstance(value, types[str(field.type)]) for value in values), field.name


def test_published_figures_are_data_too() -> None:
    rows = list(csv.DictReader(io.StringIO(run("published:insightface_v100_2021", "--format", "csv").stdout)))
    assert 110 == len(rows)
    assert {"case"} == {row["row"] for row in rows}


def test_without_pyarrow_parquet_says_what_to_install(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that is missing cannot be made otherwise where the tests run.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run(sweep, "--out", tmp_path / "data.parquet")
    assert (2, "dlperf: Parquet needs pyarrow: pip install 'dlperf[parquet]'\n") == (
        done.exit_code,
        done.stderr,
    )
    assert not (tmp_path / "data.parquet").exists()


@pytest.mark.parametrize(
    ("option", "name"), [("--out", "report.pdf"), ("--data", "data.md"), ("--data", "data")]
)
def test_a_name_that_says_no_form_is_refused(sweep: Path, tmp_path: Path, option: str, name: str) -> None:
    done = run(sweep, option, tmp_path / name)
    assert 2 == done.exit_code
    assert f"{option} {tmp_path / name}: the name must end in" in done.stderr
    assert len(done.stderr.splitlines()) == 1
