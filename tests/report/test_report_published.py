"""The report of the published data set: the committed one is current, and every number of the data is in it.

The numbers are looked up in the page as GitHub renders it, from data.json read as plain JSON: neither the
program's models nor its tables are asked.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from markdown_it import MarkdownIt
from matplotlib.image import imread
from run_folders import make_case, store_good_runs

from dlperf.files import shipped_folder
from dlperf.report import writing
from dlperf.report.building import build_report
from dlperf.report.pages import read_html, read_markdown
from dlperf.report.request import Request, without_charts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = shipped_folder("reports") / "insightface_v100_2021"
LABELS = {"oneflow": "OneFlow 0.3.4", "mxnet": "MXNet 1.6.0"}
PARALLELISMS = {"data": "data parallel", "model": "model parallel", "partial_fc": "Partial FC"}
DATA: dict[str, Any] = json.loads((FOLDER / "data.json").read_bytes())

Rows = list[dict[str, str]]


def pages(text: str) -> dict[str, list[Rows]]:
    """The tables under each heading, as rows by column; a heading's later table of one name is kept too."""
    found: dict[str, list[Rows]] = {}
    heading = ""
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    for level, title, table in re.findall(r"<h([1-6])>(.*?)</h|<table>(.*?)</table>", rendered, re.DOTALL):
        if level:
            heading = plain(title)
            continue
        rows = [
            [plain(cell) for cell in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row, re.DOTALL)]
            for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        ]
        found.setdefault(heading, []).append([dict(zip(rows[0], row, strict=True)) for row in rows[1:]])
    return found


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def differences(text: str) -> list[str]:
    """What of the data does not stand in the page at its place."""
    tables = pages(text)
    return [
        f"{place}: {column}: {expected} in the data, {row.get(column, 'no such column')} in the page"
        for place, row, values in (*cases(tables), *limits(tables), *repeats(tables), *superseded(tables))
        for column, expected in values.items()
        if row.get(column, row.get(f"{place[0]} {column}")) != expected
    ]


Expected = tuple[tuple[str, ...], dict[str, str], dict[str, str]]  # place, row of the page, values


def cases(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    for case in DATA["cases"]:
        label = LABELS[case["framework"]]
        batch = "max" if case["batch_is_max"] else case["batch_size_per_device"]
        heading = f"{case['network']}_{case['dataset']}, {PARALLELISMS[case['parallelism']]}"
        heading += f", batch_size_per_device = {batch}"
        if case["sample_ratio"] is not None:
            heading += f", sample_ratio = {case['sample_ratio']:g}"
        topology = (str(case["nodes"]), str(case["gpus_per_node"]))
        (row,) = [row for row in tables[heading][0] if (row["node_num"], row["gpu_num_per_node"]) == topology]
        values = {
            f"{label} samples/s": number(case["samples_per_sec"]),
            f"{label} speedup": number(case["speedup"]),
            "batch_size_per_device": str(case["batch_size_per_device"] or "-"),
        }
        yield (label, heading, *topology), row, values


def limits(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    (rows,) = tables["The most classes that train"]
    for limit in DATA["max_num_classes"]:
        label = LABELS[limit["framework"]]
        (row,) = [row for row in rows if row["gpu_num_per_node"] == str(limit["gpus_per_node"])]
        values = {
            f"{label} num_classes": str(limit["num_classes"]),
            f"{label} sample_ratio": "-" if limit["sample_ratio"] is None else f"{limit['sample_ratio']:g}",
            "node_num": str(limit["nodes"]),
            "batch_size_per_device": str(limit["batch_size_per_device"]),
            "precision": limit["precision"],
        }
        yield (label, "limit"), row, values


def place_of(entry: dict[str, Any]) -> dict[str, str]:
    ratio = "" if entry["sample_ratio"] is None else f" {entry['sample_ratio']:g}"
    return {
        "framework": LABELS[entry["framework"]],
        "workload": f"{entry['network']}_{entry['dataset']}" if entry["network"] else "not said",
        "parallelism": entry["parallelism"] + ratio,
        "topology": f"{entry['nodes']}n{entry['gpus_per_node']}g",
        "batch": str(entry["batch_size_per_device"] or "-"),
    }


def repeats(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    (rows,) = tables["Single runs"]
    for row, entry in zip(rows, DATA["repeats"], strict=True):
        values = {
            **place_of(entry),
            **{f"run {place}": number(rate) for place, rate in entry["repeats"].items()},
            "median": number(entry["median"]),
            "mean": number(entry["mean"]),
            "printed median": number(entry.get("printed_median")),
            "printed average": number(entry.get("printed_average")),
            "printed speedup": number(entry.get("printed_speedup")),
            "source": entry["source_file"],
        }
        yield ("repeats",), row, values


def superseded(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    (rows,) = tables["Superseded figures"]
    for row, entry in zip(rows, DATA["superseded"], strict=True):
        values = ", ".join(
            f"{number(one['samples_per_sec'])} ({one['since']}, {one['commit']})" for one in entry["values"]
        )
        expected = {**place_of(entry), "samples/s, since when": values, "source": entry["source_file"]}
        yield ("superseded",), row, expected


@pytest.fixture(scope="module")
def committed() -> str:
    return (FOLDER / "report.md").read_text()


def test_every_number_of_the_data_stands_in_the_committed_page_at_its_place(committed: str) -> None:
    assert differences(committed) == []


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (" 650.80 |", " 650.81 |"),  # samples/s
        (" 7.55 |", " 7.56 |"),  # a speedup that was printed cut, not rounded
        (" 115 |", " 116 |"),  # a batch size
        (" 13500000 |", " 13500001 |"),  # a number of classes
        (" 1416.14 |", " 1416.15 |"),  # a single run
        ("1577.91 (2021-02-04, 7eaf129)", "1577.90 (2021-02-04, 7eaf129)"),  # a superseded figure
    ],
)
def test_one_changed_digit_is_noticed(committed: str, was: str, becomes: str) -> None:
    assert was in committed
    assert differences(committed.replace(was, becomes, 1))


@pytest.mark.slow
def test_the_committed_pages_and_their_charts_are_what_the_data_give_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dlperf report published:NAME --out reports/NAME/report.md` makes them, and .html in place of .md."""
    document = build_report(Request(paths=(published(),)))
    drawn = list(writing._charts(document))
    monkeypatch.setattr(writing, "_charts", lambda _: iter(drawn))  # once for both forms
    for form in ("md", "html"):
        request = Request(paths=(published(),), form="html" if form == "html" else "md")
        writing.write_report(document, request, tmp_path / f"report.{form}")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    kept = [*FOLDER.glob("report.*"), *(FOLDER / "report_files").iterdir()]
    assert sorted(str(path.relative_to(FOLDER)) for path in kept) == names
    for name in names:
        if name.endswith(".png"):  # another zlib packs the same picture into other bytes
            same = (FOLDER / name).read_bytes() == (tmp_path / name).read_bytes()
            assert same or (imread(FOLDER / name) == imread(tmp_path / name)).all(), name
        else:
            assert (FOLDER / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_html_page_holds_the_tables_of_the_markdown_page(committed: str) -> None:
    as_html = read_html((FOLDER / "report.html").read_text())
    as_markdown = read_markdown(committed)
    assert as_markdown.tables == as_html.tables


def test_a_class_count_that_the_source_does_not_give_is_not_said(committed: str) -> None:
    """MXNet's emore had 85742 classes, OneFlow's 85744; the cases themselves say neither."""
    assert 1 == committed.count("85744")
    assert 1 == committed.count("85742")


def published() -> Path:
    from pathlib import Path  # noqa: PLC0415  a type everywhere else

    return Path("published:insightface_v100_2021")


def test_a_dash_has_the_reason_of_the_source_under_its_table(committed: str) -> None:
    for part in re.split(r"\n### ", committed)[1:]:
        table, _, below = part.partition("\n\n")[2].partition("\n\n")
        without_number = re.search(r" - +\|", table) is not None
        reason = "samples_per_sec not measured (the MXNet ArcFace scripts could not read glint360k)"
        assert without_number == below.startswith(f"`-` MXNet 1.6.0: {reason}"), part


def test_what_the_conclusions_say_follows_from_the_data(committed: str) -> None:
    rates: dict[tuple[object, ...], dict[str, float | None]] = {}
    for case in DATA["cases"]:
        names = (
            "network",
            "dataset",
            "parallelism",
            "sample_ratio",
            "batch_is_max",
            "nodes",
            "gpus_per_node",
        )
        row = rates.setdefault(tuple(case[name] for name in names), {})
        row[case["framework"]] = case["samples_per_sec"]
    ratios = [
        row["oneflow"] / row["mxnet"] for row in rates.values() if row.get("oneflow") and row.get("mxnet")
    ]
    page = plain(MarkdownIt("commonmark").render(committed))
    first = f"OneFlow 0.3.4 / MXNet 1.6.0 in samples/s: {min(ratios):.2f} ("
    assert first in page
    assert f" to {max(ratios):.2f} (y1_emore, data parallel, max batch, 1n8g); " in page
    ahead = sum(ratio > 1 for ratio in ratios)
    assert f"OneFlow 0.3.4 is the faster in {ahead} of {len(ratios)} pairs of figures." in page
    assert "in the most classes that train: 1.111 on 1n1g, 1.125 on 1n8g." in page


def test_how_far_superseded_figures_moved_follows_from_the_data(committed: str) -> None:
    known = [
        [one["samples_per_sec"] for one in entry["values"] if one["samples_per_sec"] is not None]
        for entry in DATA["superseded"]
    ]
    moved = [values[-1] / values[0] - 1 for values in known if len(values) > 1]
    far = sum(abs(one) > 0.05 for one in moved)
    most = max(moved, key=abs)
    assert 0 < far < len(moved)
    page = plain(MarkdownIt("commonmark").render(committed))
    said = f"Of {len(moved)} figures that a later one superseded {far} moved by more than 5 %, the most by "
    assert said + f"{100 * most:.1f} %" in page


def test_where_scaling_breaks_is_where_less_than_half_of_the_added_devices_arrives(committed: str) -> None:
    rows = next(
        table for table in pages(committed)["Conclusions"] if "share of the added devices" in table[0]
    )
    assert len(rows) == 9
    assert {"MXNet 1.6.0"} == {row["framework"] for row in rows}
    first = rows[0]
    assert (first["from, samples/s"], first["to, samples/s"]) == ("1n4g, 655.56", "1n8g, 650.80")
    assert first["share of the added devices"] == f"{100 * (650.8 / 655.56 - 1):.0f} %"


def test_alignment_is_not_proven_and_what_differs_is_said(committed: str) -> None:
    assert "**Not proven.**" in committed
    assert [row["what differs"] for row in pages(committed)["Alignment"][0]] == [
        "CosFace margin m3",
        "classes of emore",
        "weight decay",
    ]


def test_notes_and_sources_of_the_data_are_in_the_page(committed: str) -> None:
    page = plain(MarkdownIt("commonmark").enable("table").render(committed))
    for text in (*DATA["notes"], DATA["hardware"], DATA["method"], *DATA["software"].values()):
        assert text in page
    for path in {path for case in DATA["cases"] for path in case["sources"]}:
        assert f"https://github.com/{DATA['repository']}/blob/{DATA['commit']}/{path}" in committed


def test_nothing_is_said_of_a_measurement_that_was_not_ours(committed: str) -> None:
    for words in ("CPU cores", "one good run", "How it was measured", "Cells without a number", "0 runs"):
        assert words not in committed


def test_own_results_and_published_ones_stand_in_one_report_and_never_in_one_table(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "mine", make_case(), [10.0, 11.0])
    request = Request(paths=(tmp_path / "mine", published()))
    text = without_charts(build_report(request, strict=True), request)
    assert text.startswith("# Training throughput: mine + InsightFace throughput")
    assert "1 case, 2 runs" in text
    assert "## How it was measured" in text
    assert differences(text) == []
    assert "MXNet 1.9.1 samples/s" in pages(text)["y1, data parallel"][0][0]
