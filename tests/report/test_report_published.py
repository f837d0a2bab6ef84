"""The report of the published data set: the committed one is current, and every number of the data is in it.

The numbers are looked up in the page as GitHub renders it, from data.json read as plain JSON: neither the
program's models nor its tables are asked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from markdown_it import MarkdownIt
from matplotlib.image import imread
from report_pages import Rows, pages, plain, report
from run_folders import make_case, store_good_runs

from dlperf.files import shipped_folder
from dlperf.report import render as writing
from dlperf.report.columns import View
from dlperf.report.document import Request, build_report

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = shipped_folder("reports") / "insightface_v100_2021"
PUBLISHED = Path("published:insightface_v100_2021")
LABELS = {"oneflow": "OneFlow 0.3.4", "mxnet": "MXNet 1.6.0"}
PARALLELISMS = {"data": "data parallel", "model": "model parallel", "partial_fc": "Partial FC"}
DATA: dict[str, Any] = json.loads((FOLDER / "data.json").read_bytes())


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(tables: dict[str, list[Rows]], heading: str) -> Rows:
    """The first table under a heading."""
    return tables[heading][0]


Expected = tuple[Rows, dict[str, str], dict[str, str]]  # a table, what names the row, the cells of the row


def differences(text: str, *, form: str = "md") -> list[str]:
    """What of the data does not stand in the page at its place."""
    tables = pages(text, form)
    found = []
    for rows, place, values in (*cases(tables), *limits(tables), *repeats(tables), *superseded(tables)):
        matching = [row for row in rows if place.items() <= row.items()]
        if not any(values.items() <= row.items() for row in matching):
            found.append(f"{place}: {values} in the data, {matching} in the page")
    return found


def cases(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    """A figure stands in the table of its workload and once more beside the speedup that was printed."""
    for case in DATA["cases"]:
        label, ratio = LABELS[case["framework"]], case["sample_ratio"]
        experiment, parallelism = f"{case['network']}_{case['dataset']}", PARALLELISMS[case["parallelism"]]
        batch = str(case["batch_size_per_device"] or "-")
        if case["batch_size_per_device"] is not None:  # without one there is no case
            rows = table(tables, f"{experiment}, {parallelism}")
            place = {
                "node_num": str(case["nodes"]),
                "gpu_num_per_node": str(case["gpus_per_node"]),
                "batch_size_per_device": batch,
                **({"sample_ratio": f"{ratio:g}"} if ratio is not None else {}),
            }
            rate = case["samples_per_sec"]
            yield rows, place, {f"{label} samples/s": "not measured" if rate is None else number(rate)}
        place = {
            "workload": experiment,
            "parallelism": sampled(case),
            "series": "max batch" if case["batch_is_max"] else f"batch {batch}",
            "topology": f"{case['nodes']}n{case['gpus_per_node']}g",
        }
        values = {
            f"{label} batch": batch,
            f"{label} samples/s": number(case["samples_per_sec"]),
            f"{label} speedup": number(case["speedup"]),
        }
        yield table(tables, "Figures and speedups as printed"), place, values


def sampled(entry: dict[str, Any], parallelism: str | None = None) -> str:
    ratio = "" if entry["sample_ratio"] is None else f" {entry['sample_ratio']:g}"
    return PARALLELISMS[parallelism or entry["parallelism"]] + ratio


def limits(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    for limit in DATA["max_num_classes"]:
        assert limit["model_parallel"]
        assert limit["partial_fc"]
        place = {
            "framework": LABELS[limit["framework"]],
            "topology": f"{limit['nodes']}n{limit['gpus_per_node']}g",
        }
        values = {
            "parallelism": f"model parallel, {sampled(limit, 'partial_fc')}",
            "precision": limit["precision"],
            "batch": str(limit["batch_size_per_device"]),
            "classes": str(limit["num_classes"]),
        }
        yield table(tables, "The most classes that train"), place, values


def place_of(entry: dict[str, Any]) -> dict[str, str]:
    return {
        "framework": LABELS[entry["framework"]],
        "workload": f"{entry['network']}_{entry['dataset']}" if entry["network"] else "not said",
        "parallelism": sampled(entry),
        "topology": f"{entry['nodes']}n{entry['gpus_per_node']}g",
        "batch": str(entry["batch_size_per_device"] or "-"),
        "source": entry["source_file"],
    }


def repeats(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    for entry in DATA["repeats"]:
        values = {
            **{f"run {place}": number(rate) for place, rate in entry["repeats"].items()},
            "median": number(entry["median"]),
            "mean": number(entry["mean"]),
            "printed median": number(entry.get("printed_median")),
            "printed average": number(entry.get("printed_average")),
            "printed speedup": number(entry.get("printed_speedup")),
        }
        yield table(tables, "Single runs, where the source prints them"), place_of(entry), values


def superseded(tables: dict[str, list[Rows]]) -> Iterator[Expected]:
    for entry in DATA["superseded"]:
        values = ", ".join(
            f"{number(one['samples_per_sec'])} ({one['since']}, {one['commit']})" for one in entry["values"]
        )
        rows = table(tables, "Superseded figures, oldest first")
        yield rows, place_of(entry), {"samples/s, since when": values}


@pytest.fixture(scope="module")
def committed() -> str:
    return (FOLDER / "report.md").read_text()


@pytest.mark.parametrize("form", ["md", "html"])
def test_every_number_of_the_data_stands_in_the_committed_page_at_its_place(form: str) -> None:
    text = (FOLDER / f"report.{form}").read_text()
    assert differences(text, form=form) == []
    assert 104 == sum(case["samples_per_sec"] is not None for case in DATA["cases"])


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
    document = build_report(Request(paths=(PUBLISHED,)))
    drawn = writing.draw_charts(document)
    monkeypatch.setattr(writing, "draw_charts", lambda _: drawn)  # once for both forms
    for form in ("md", "html"):
        request = Request(paths=(PUBLISHED,), form="html" if form == "html" else "md")
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


def test_a_class_count_that_the_source_does_not_give_is_not_said(committed: str) -> None:
    """MXNet's emore had 85742 classes, OneFlow's 85744; the cases themselves say neither."""
    page, _, _ = committed.partition("<!-- dlperf-report")
    assert 1 == page.count("85744")
    assert 1 == page.count("85742")
    assert "360232" not in page


def test_no_winner_and_no_interval_is_made_of_one_number_per_case(committed: str) -> None:
    assert "is the fastest" not in committed
    assert "interval" not in committed.replace("so no interval is given", "")
    for title, (rows, *_) in pages(committed).items():
        if any(title.endswith(name) for name in PARALLELISMS.values()):
            ratios = {row.get("OneFlow 0.3.4 / MXNet 1.6.0", "") for row in rows}
            assert all(re.fullmatch(r"(\d+\.\d\d)?", ratio) for ratio in ratios), title


def test_a_cell_without_a_number_has_the_reason_of_the_source(committed: str) -> None:
    rows = table(pages(committed), "Cells without a number")
    reason = "not measured (the MXNet ArcFace scripts could not read glint360k)"
    assert 6 == len(rows)
    assert {("MXNet 1.6.0", reason)} == {(row["framework"], row["reason"]) for row in rows}


def test_what_the_conclusions_say_follows_from_the_data(committed: str) -> None:
    rates: dict[tuple[object, ...], dict[str, float | None]] = {}
    names = ("network", "dataset", "parallelism", "sample_ratio", "batch_is_max", "nodes", "gpus_per_node")
    for case in DATA["cases"]:
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
    assert f"above 1 in {ahead} of {len(ratios)} pairs of figures." in page
    assert "in the most classes that train on 1n1g: 1.111." in page
    assert "in the most classes that train on 1n8g: 1.125." in page
    ranges = [
        float(row[end]) for row in pages(committed)["Published figures"][0] for end in ("smallest", "largest")
    ]
    assert (round(min(ratios), 2), round(max(ratios), 2)) == (min(ranges), max(ranges))


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
    rows = pages(committed)["Published figures"][1]
    assert len(rows) == 9
    assert {"MXNet 1.6.0"} == {row["framework"] for row in rows}
    first = rows[0]
    assert (first["from, samples/s"], first["to, samples/s"]) == ("1n4g, 655.56", "1n8g, 650.80")
    assert first["share of the added GPUs"] == f"{100 * (650.8 / 655.56 - 1):.0f} %"


def test_alignment_is_not_proven_and_what_differs_is_said(committed: str) -> None:
    assert 8 == committed.count("alignment: **not proven (the source published no evidence)**")
    assert [
        row["what differs"] for row in table(pages(committed), "Known differences between the programs")
    ] == [
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
    for words in ("CPU cores", "one good run", "How it was measured", "0 runs", "Spread of the repeats"):
        assert words not in committed


def test_own_results_and_published_ones_stand_in_one_report_and_never_in_one_table(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "mine", make_case(), [10.0, 11.0])
    text = report(tmp_path / "mine", PUBLISHED, strict=True)
    assert text.startswith("# Training throughput: mine + InsightFace throughput")
    assert "1 case, 2 runs" in text
    assert "## How it was measured" in text
    assert differences(text) == []
    assert "MXNet 1.9.1 samples/s" in pages(text)["y1, data parallel"][0][0]


def test_the_columns_of_the_ordinary_tables_can_be_chosen_and_show_no_spread_that_was_not_printed() -> None:
    view = View(columns=("samples_per_sec", "interval", "runs", "ratio"), baseline="oneflow")
    rows = table(pages(report(PUBLISHED, view=view)), "r100_emore, model parallel")
    ratios = {row["MXNet 1.6.0 / OneFlow 0.3.4"] for row in rows}
    assert "0.41" in ratios
    runs = {(row["MXNet 1.6.0 samples/s"], row["MXNet 1.6.0 good runs"]) for row in rows}
    assert {("756.96", "5"), ("821.06", "not printed")} <= runs
    intervals = {row["OneFlow 0.3.4 95 % interval of the mean"] for row in rows}
    assert {"not printed", ""} == intervals
