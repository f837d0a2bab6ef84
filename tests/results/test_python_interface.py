"""`dlperf.load`: the two tables, their documented columns, and docs/python.md, whose examples run here."""

from __future__ import annotations

import csv
import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from click.testing import CliRunner
from run_folders import failed, make_case, store_good_runs, write_run

import dlperf
from dlperf.cli import main
from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.results.store import store_run
from dlperf.results.tables import CASES, RUNS, encoded, records

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
TWO = Topology(nodes=1, devices_per_node=2)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    store_good_runs(folder, make_case(), [10.0, 12.0, 11.0], phases={"data": 0.5})
    store_good_runs(folder, make_case(topology=TWO), [17.6])
    bad = make_case(framework="oneflow", version="0.9.0")
    store_run(write_run(folder, bad, log="RuntimeError: CUDA out of memory\n", outcome=failed("rank_failed")))
    return folder


def test_the_examples_of_the_page_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evidence").symlink_to(ROOT / "evidence")
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    examples = doctest.DocTestParser().get_doctest(PAGE.read_text(), {}, PAGE.name, str(PAGE), 0)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert len(examples.examples) >= 12
    assert doctest.DocTestRunner(optionflags=options).run(examples).failed == 0
    assert (tmp_path / "speedup.svg").read_text().startswith("<?xml")


def test_each_column_is_documented_on_the_page_and_by_the_schema_command(sweep: Path) -> None:
    lines = PAGE.read_text().splitlines()
    results = dlperf.load(sweep)
    for name, columns, table in (("cases", CASES, results.cases), ("runs", RUNS, results.runs)):
        assert list(table.columns) == [column.name for column in columns]
        assert [str(dtype) for dtype in table.dtypes] == [column.dtype for column in columns]
        schema = json.loads(CliRunner().invoke(main, ["schema", name]).stdout)
        assert list(schema["properties"]) == list(table.columns)
        for column in columns:
            line = f"| `{column.name}` | {column.dtype} | {column.unit} | {column.meaning} |"
            assert line in lines
            assert schema["properties"][column.name]["description"] == column.meaning


def test_a_run_names_the_row_of_its_case(sweep: Path) -> None:
    results = dlperf.load(str(sweep))
    joined = results.runs.merge(
        results.cases, left_on="case_row", right_index=True, suffixes=("", "_of_case")
    )
    assert list(joined["case_id"]) == list(joined["case_id_of_case"])
    assert list(results.cases["runs_ok"]) == [3, 0, 1]
    assert list(results.cases["runs_failed"]) == [0, 1, 0]
    assert list(results.cases["speedup"].dropna()) == [1.0, pytest.approx(1.6)]


def test_the_table_of_cases_says_what_the_cases_say(sweep: Path) -> None:
    results = dlperf.load(sweep, "published:insightface_v100_2021")
    for figure, row in zip(results.all_figures, records(results.cases), strict=True):
        assert row["samples_per_sec"] == (figure.summary.median if figure.summary else None)
        assert row["step_seconds_median"] == figure.step_seconds_median
        assert row["step_seconds_p95"] == figure.step_seconds_p95
        assert row["peak_anonymous_bytes"] == figure.peaks.get("peak_anonymous_bytes")
        assert row["matmul_flops_per_second"] == figure.matmul_flops_per_second
        assert (row["runs_ok"], row["runs_failed"]) == (len(figure.good), len(figure.failed))


def test_several_folders_and_published_figures_are_one_table(sweep: Path, tmp_path: Path) -> None:
    store_good_runs(tmp_path / "other", make_case(), [9.0])
    cases = dlperf.load(sweep, tmp_path / "other", "published:insightface_v100_2021").cases
    counts = cases.groupby("results").size().to_dict()
    assert counts == {
        str(sweep): 3,
        str(tmp_path / "other"): 1,
        "published:insightface_v100_2021": 110,
    }


def test_what_cannot_be_read_is_listed_or_with_strict_an_error(sweep: Path) -> None:
    damaged = next((sweep / "runs").glob("mxnet*/r1/result.json"))
    damaged.write_text("{")
    assert [skipped.path for skipped in dlperf.load(sweep).results.skipped] == [damaged]
    with pytest.raises(UserError, match="damaged"):
        dlperf.load(sweep, strict=True)
    with pytest.raises(UserError, match="no such folder"):
        dlperf.load(sweep / "nothing")


def test_cases_share_their_settings_exactly_when_one_table_may_hold_them(tmp_path: Path) -> None:
    row = make_case(topology=TWO, batch_size_per_device=16)
    column = make_case(framework="oneflow", version="0.9.0")
    apart = make_case(threads_per_device=1)
    gpu, tf32 = (make_case(device="cuda", options=options) for options in ({}, {"tf32": True}))
    for case in (make_case(), row, column, apart, gpu, tf32):
        store_good_runs(tmp_path / "y1", case, [8.0])
    cases = dlperf.load(tmp_path / "y1").cases.set_index("case_id")
    settings = cases["settings_id"].to_dict()
    assert settings[make_case().case_id] == settings[row.case_id] == settings[column.case_id]
    assert settings[make_case().case_id] != settings[apart.case_id]
    assert settings[gpu.case_id] != settings[tf32.case_id]
    assert ["ieee", "tf32"] == [cases.loc[case.case_id, "fp32_arithmetic"] for case in (gpu, tf32)]


def test_exports_keep_every_digit(sweep: Path, tmp_path: Path) -> None:
    cases = dlperf.load(sweep).cases
    for form in ("csv", "json", "parquet"):
        path = tmp_path / f"cases.{form}"
        path.write_bytes(encoded(cases, form))
    rates = list(cases["cv"].dropna())
    with (tmp_path / "cases.csv").open(newline="") as stream:
        assert rates == [float(row["cv"]) for row in csv.DictReader(stream) if row["cv"]]
    assert rates == list(pd.read_parquet(tmp_path / "cases.parquet")["cv"].dropna())
    told = [row["cv"] for row in json.loads((tmp_path / "cases.json").read_text())]
    assert rates == [cv for cv in told if cv is not None]


@pytest.mark.parametrize(
    "program",
    ["import dlperf", "from dlperf.cli import main; main(['--help'], standalone_mode=False)"],
)
def test_pandas_is_loaded_by_whoever_reads_results_alone(program: str) -> None:
    code = f"{program}\nimport sys; sys.exit('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert (0, b"") == (done.returncode, done.stderr)
