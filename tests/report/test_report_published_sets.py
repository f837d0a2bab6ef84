"""The published data sets beside that of DLPerf: figures, how they were read, what contradicts what."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_pages import pages, plain, report
from test_report_published import sampled

from dlperf.cli import main
from dlperf.files import shipped_folder
from dlperf.results.published import load_published
from dlperf.results.schema import Status

SETS = ("arcface_torch_classes_v100_2021", "arcface_torch_2022", "plsc_2022")


def data_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shipped_folder("reports") / name / "data.json").read_bytes())
    return content


@pytest.fixture(scope="module", params=SETS)
def page(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    return data_of(request.param), report(Path(f"published:{request.param}"))


def cells_of(case: dict[str, Any]) -> str:
    """A figure as the ordinary tables show it."""
    if case.get("out_of_memory"):
        return "out of memory"
    rate = case["samples_per_sec"]
    if rate is None:
        return "not measured"
    if "uncertainty" in case:
        return f"{rate} ± {case['uncertainty']}"
    return f"~{rate}" if case["reading"] == "rounded" else f"{rate:.2f}"


def test_every_figure_stands_in_the_ordinary_tables_and_once_more_as_printed(
    page: tuple[dict[str, Any], str],
) -> None:
    data, text = page
    tables = pages(text)
    ordinary = [row for title, (rows, *_) in tables.items() if ", " in title for row in rows]
    printed = tables["Figures and speedups as printed"][0]
    for case in data["cases"]:
        place = {
            "node_num": str(case["nodes"]),
            "gpu_num_per_node": str(case["gpus_per_node"]),
            "batch_size_per_device": str(case["batch_size_per_device"]),
        }
        rows = [row for row in ordinary if place.items() <= row.items()]
        assert any(cells_of(case) in row.values() for row in rows), case
        row_place = {
            "workload": f"{case['network']}_{case['dataset']}",
            "parallelism": sampled(case),
            "topology": f"{case['nodes']}n{case['gpus_per_node']}g",
        }
        rate, memory = case["samples_per_sec"], case.get("peak_memory_mib")
        wanted = {"-" if rate is None else f"{rate:.2f}", *([str(memory)] if memory else [])}
        assert any(wanted <= set(row.values()) for row in printed if row_place.items() <= row.items()), case


def test_how_figures_were_read_and_where_the_source_contradicts_itself_is_in_the_page(
    page: tuple[dict[str, Any], str],
) -> None:
    data, text = page
    tables, words = pages(text), plain(text).replace("\\", "")
    told = {
        "chart": "read from a chart, within 35 samples/s",
        "rounded": "rounded by its authors",
        "log": "median of the lines of a public log",
    }
    used = {case["reading"] for case in data["cases"]} & set(told)
    assert used
    assert {name for name, sentence in told.items() if sentence in words} == used
    assert data["disagreements"]
    rows = next(rows for one in tables.values() for rows in one if "elsewhere" in rows[0])
    shown = [(row["of what"], row["it says"], row["elsewhere"]) for row in rows]
    assert [(one["about"], one["says"], one["elsewhere"]) for one in data["disagreements"]] == shown
    for note in (*data["notes"], data["method"], *data["software"].values()):
        assert note in words.replace("&lt;", "<") or note in text.replace("\\", "")


def test_limits_stand_with_their_network_and_memory() -> None:
    rows = pages(report(Path("published:plsc_2022")))["The most classes that train"][0]
    limits = data_of("plsc_2022")["max_num_classes"]
    assert [
        (one["network"], one["precision"], str(one["num_classes"]), str(one["peak_memory_mib"]))
        for one in limits
    ] == [(row["network"], row["precision"], row["classes"], row["peak memory (MiB)"]) for row in rows]


def test_no_two_figures_of_a_set_are_of_the_same_case_on_the_same_machine() -> None:
    for name in SETS:
        figures = load_published(name).figures
        keys = {(figure.case.content_hash, figure.hardware) for figure in figures}
        assert len(figures) == len(keys) == len(data_of(name)["cases"])


def test_what_a_source_does_not_say_is_a_placeholder_that_is_named() -> None:
    figures = load_published("arcface_torch_2022").figures
    vit = next(figure for figure in figures if figure.case.workload.experiment.startswith("vit"))
    assert {"network", "loss", "data", "seed", "threads_per_device"} == vit.not_known
    r50 = next(figure for figure in figures if figure.case.workload.experiment == "r50_ms1mv3")
    assert {"data", "seed", "threads_per_device"} == r50.not_known
    assert "iresnet50" == r50.case.workload.network
    lost = [one for one in load_published(SETS[0]).figures if one.status is Status.OOM]
    assert 7 == len(lost)
    assert all("for want of GPU memory" in (one.reason or "") for one in lost)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in {0, 4}, result.output
    return result.output


def test_lists_results_and_comparisons_say_how_figures_were_read() -> None:
    listed = run("list", "reports")
    for name in SETS:
        assert re.search(rf"published:{name} +{re.escape(data_of(name)['title'])}", listed)
    lines = run("results", "published:plsc_2022").splitlines()
    (line,) = [one for one in lines if re.match(r"paddle PLSC static +V100 +r50_ms1mv3 +1n8g +fp16", one)]
    assert "6532.00" in line
    assert line.endswith("read from a chart, within 35 samples/s")
    output = run("compare", "published:plsc_2022", "published:plsc_2022")
    assert "published:plsc_2022: 124 figures: read from a chart, within 35 samples/s" in output
    assert "124 cases compared by samples/s: 124 inconclusive" in output
