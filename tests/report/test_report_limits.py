"""Limits in a report: the table of 2021, how each was found, and the probes with their folders."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from plans import write_plan
from report_pages import by_column, report
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.cli import main
from dlperf.cli.run import _answer
from dlperf.layout import LOCK_NAME, limit_folder
from dlperf.limit.run import LimitSearch, ModelAnswer
from dlperf.plan.case import Search, Source
from dlperf.plan.plan import read_lock
from dlperf.report.document import Request, build_report
from dlperf.report.limits import limit_tables
from dlperf.report.numbers import DASH
from dlperf.report.render import write_report
from dlperf.report.verify import verify
from dlperf.results.query import load
from dlperf.results.schema import MemoryPart
from dlperf.results.store import read_limits, store_run

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.case import Case

SEARCH = Search(axis="num_classes", lower=1000, granularity=1000, upper=64_000, iterations=4)


def sweep_with_limits(sweep: Path, *, source: Source | None = None, **limits: int) -> list[Case]:
    """A results folder with a search of each framework whose classes train up to a limit."""
    cases = []
    for framework, limit in limits.items():
        case = make_case(
            framework=framework,
            version="1.0",
            parallelism="model",
            search=SEARCH,
            memory_bytes=2 << 30,
            source=source,
        )
        folder = limit_folder(sweep, case.case_id)

        def make(probe: Case, repeat: int, *, limit: int = limit, folder: Path = folder) -> None:
            fits = probe.num_classes <= limit
            bad: dict[str, Any] = failed("rank_failed", signal=9) | {"group_oom_kills": 1}
            store_run(write_run(folder, probe, repeat=repeat, outcome=None if fits else bad))

        model = ModelAnswer(
            parts=(MemoryPart(name="classifier weights", bytes=3 << 20, formula="4 C E"),), largest=20_000
        )
        record = LimitSearch(
            case=case, folder=folder, run_probe=make, model=lambda _, m=model: m, report=lambda _: None
        ).find()
        if record.trains is not None and record.status.value == "found":
            store_good_runs(sweep, record.case, [10.0, 10.1])
        cases.append(record.case)
    write_plan(sweep, cases)
    return cases


def test_the_most_classes_stand_as_in_2021_with_their_ratio(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, mxnet=24_000)
    text = report(tmp_path / "limits")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    heading = next(line for line in lines if "MXNet 1.0 num_classes" in line and "memory budget" in line)
    row = lines[lines.index(heading) + 2]
    told = dict(zip(heading, row, strict=True))
    assert {"27000", "24000"} == {told[name] for name in told if "classes" in name}
    assert ["1.125"] == [told[name] for name in told if " / " in name]
    assert "2GiB" in row
    assert "27000 trains, 28000 does not" in text
    assert "classifier weights, 3 MiB" in text
    assert 2 == text.count("| peak anonymous memory (MiB) |")
    assert "peak resident memory (MiB)" not in text
    assert "out of memory" in text
    assert " max " in text


def test_searches_of_two_sweeps_stand_in_two_rows_and_in_no_ratio_with_each_other(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "monday", oneflow=27_500)
    sweep_with_limits(tmp_path / "friday", oneflow=26_500, mxnet=24_000)
    text = report(tmp_path)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    heading = next(line for line in lines if line[0] == "sweep" and "memory budget" in line)
    rows = lines[lines.index(heading) + 2 : lines.index(heading) + 4]
    column = next(place for place, name in enumerate(heading) if name.startswith("OneFlow 1.0 num"))
    assert {"monday": "27000", "friday": "26000"} == {row[0]: row[column] for row in rows}
    assert {"monday": "-", "friday": "1.083"} == {row[0]: row[-1] for row in rows}


def test_limits_of_original_programs_and_own_loops_stand_in_two_rows(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", mxnet=24_000)
    source = Source(engine="mxnet", content_hash="0123456789ab")
    sweep_with_limits(tmp_path / "limits", insightface_mxnet=20_000, source=source)
    limits = read_limits(tmp_path / "limits")
    table = limit_tables(limits, titles={}, report_folder=tmp_path)[0]
    rows = by_column(table)
    assert {"own": "-", "original": "-"} == {row["loop"]: list(row.values())[-1] for row in rows}
    assert "data" not in rows[0]


def test_what_has_no_limit_says_so_in_its_cell(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=900, mxnet=70_000)
    text = report(tmp_path / "limits", form="html")
    assert "nothing trains" in text
    assert "more than 64000" in text
    assert "raise the upper bound" in text


def test_a_report_with_limits_is_verified_from_the_probes_logs(tmp_path: Path) -> None:
    cases = sweep_with_limits(tmp_path / "limits", mxnet=24_000)
    request = Request(paths=(tmp_path / "limits",))
    place = tmp_path / "report.md"
    write_report(build_report(request, report_folder=tmp_path), request, place)
    assert () == verify(place).differences
    probes = limit_folder(tmp_path / "limits", cases[0].case_id) / "runs"
    for log in probes.glob("*/r1/logs/rank0.log"):
        log.write_text(log.read_text().replace(str(500 * 2**20), str(501 * 2**20)))
    changed = verify(place).differences
    assert changed
    assert all("501" in one.what for one in changed)


def test_a_chinese_report_has_limits_too(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", mxnet=24_000)
    assert "极限值" in report(tmp_path / "limits", language="zh")


def test_limits_whose_budgets_were_held_in_two_ways_have_no_ratio(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, mxnet=24_000)
    mxnet, oneflow = read_limits(tmp_path / "limits")
    assert limit_tables((mxnet, oneflow), titles={}, report_folder=tmp_path)[0].rows[0][-1] == "0.889"
    held = tuple(
        probe.model_copy(update={"memory_held_by": "rlimit_data"}) for probe in oneflow.record.probes
    )
    other = replace(oneflow, record=oneflow.record.model_copy(update={"probes": held}))
    assert limit_tables((mxnet, other), titles={}, report_folder=tmp_path)[0].rows[0][-1] == DASH


def rows_of(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table with this heading."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if heading in line)
    rows = itertools.takewhile(lambda line: len(line) > 1, lines[start + 2 :])
    return [dict(zip(lines[start], row, strict=True)) for row in rows]


def test_tables_show_the_number_that_was_found(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, mxnet=24_000, pytorch=900)
    text = report(tmp_path / "limits")
    (row,) = rows_of(text, "MXNet 1.0 samples/s")
    assert "max (24000 to 27000)" == row["num_classes"]
    assert ("24000", "27000", "") == tuple(
        row[f"{name} 1.0 num_classes"] for name in ("MXNet", "OneFlow", "PyTorch")
    )
    assert ["max (24000)", "max (27000)"] == [row["num_classes"] for row in rows_of(text, "min to max")]
    assert "- classes:" not in text


def test_one_number_for_all_stands_in_the_row_alone(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, mxnet=27_500)
    (row,) = rows_of(report(tmp_path / "limits"), "MXNet 1.0 samples/s")
    assert "max (27000)" == row["num_classes"]
    assert "MXNet 1.0 num_classes" not in row


def test_results_list_the_number_that_was_found_and_no_other(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, pytorch=900)
    listed = CliRunner().invoke(main, ["results", str(tmp_path / "limits")])
    assert " max (27000) " in listed.output
    assert " max " in listed.output
    assert " 1000 " not in listed.output


def test_the_summary_of_a_run_shows_the_number_that_was_found(tmp_path: Path) -> None:
    sweep_with_limits(tmp_path / "limits", oneflow=27_500, mxnet=24_000)
    figures = load([tmp_path / "limits"], strict=False).figures
    text = "\n".join(_answer(read_lock(tmp_path / "limits" / LOCK_NAME), figures))
    assert all(found in text for found in ("max (24000)", "max (27000)"))
