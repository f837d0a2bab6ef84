"""Original programs and data sets in a report: never in one column with what they differ from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from report_pages import by_column, settings
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.plan.case import Case, DataSet, Source, Topology
from dlperf.report.columns import View
from dlperf.report.document import Document, Request, build_report
from dlperf.report.render import render
from dlperf.report.text import Table, plain_text
from dlperf.results.cases import standings
from dlperf.results.query import load
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

RATES = (10.0, 10.1, 9.9, 10.0, 10.05)
FACES = DataSet(
    path="/data/faces", read="warm", forms=("recordio",), images=1000, classes=100, index_sha256="ab" * 32
)
COLD = FACES.model_copy(update={"read": "cold"})
SOURCE = Source(engine="mxnet", content_hash="0123456789ab", commit="863a7ea9")


def original(**changes: Any) -> Case:
    """The original program of `make_case`."""
    return make_case(**{"framework": "insightface_mxnet", "source": SOURCE, **changes})


def scaled(factor: float) -> list[float]:
    return [factor * rate for rate in RATES]


def read(*, waited: float, resident: float | None = 1.0, **more: Any) -> dict[str, dict[str, Any]]:
    """The events of a rank that read 5 MiB/s and waited this share of 4 seconds."""
    prepared = {"path": "/data/faces", "form": "recordio", "read": "warm", "images": 1000, "bytes": 10**6}
    window = {
        "seconds": 4.0,
        "wait_seconds": 4.0 * waited,
        "read_bytes": 20 * 2**20,
        "storage_bytes": 0,
        "read_mib_per_second": 5.0,
    }
    return {
        "data_set": {**prepared, "resident_share": resident, "file_system": "ext4"},
        "reading": {**window, **more},
    }


def report(folder: Path, **view: Any) -> Document:
    return build_report(Request(paths=(folder,), view=View(**view)), report_folder=folder)


def titles(document: Document) -> list[str]:
    return [plain_text(section.title) for section in document.sections]


def row(table: Table, number: int = 0) -> dict[str, str]:
    return by_column(table)[number]


@pytest.fixture
def all_four(tmp_path: Path) -> Path:
    """MXNet's own loop and the original, each on a data set and on synthetic images."""
    facts = {"averaged_over_iterations": 20}
    sweep = tmp_path / "y1"
    store_good_runs(sweep, make_case(), scaled(4))
    store_good_runs(sweep, make_case(data=FACES), scaled(2), reading=read(waited=0.125))
    store_good_runs(sweep, original(), scaled(2), facts=facts)
    store_good_runs(sweep, original(data=FACES), scaled(1), facts=facts)
    return sweep


def test_loop_and_data_have_tables_of_their_own_and_are_named_in_each(all_four: Path) -> None:
    document = report(all_four)
    assert [
        "y1, data parallel, loop: own, data: synthetic",
        "y1, data parallel, loop: original, data: synthetic",
        "y1, data parallel, loop: own, data: faces (warm)",
        "y1, data parallel, loop: original, data: faces (warm)",
    ] == titles(document)
    assert [1, 1, 1, 1] == [len(section.throughput.rows) for section in document.sections]
    assert ["own", "original", "own", "original"] == [
        settings(section)["loop"] for section in document.sections
    ]
    assert "faces (warm)" == settings(document.sections[2])["data"]


def test_a_report_without_originals_and_data_sets_says_nothing_of_them(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), RATES)
    document = report(tmp_path / "y1")
    assert ["y1, data parallel"] == titles(document)
    assert "loop" not in settings(document.sections[0])
    assert not document.loops
    assert not document.input_tax
    assert () == document.inputs


def test_a_report_of_one_data_set_alone_names_it(tmp_path: Path) -> None:
    """Also in the titles of its charts, which are that of the section."""
    store_good_runs(tmp_path / "y1", make_case(data=FACES), RATES)
    assert ["y1, data parallel, data: faces (warm)"] == titles(report(tmp_path / "y1"))


@pytest.mark.parametrize(
    "other", [COLD, FACES.model_copy(update={"index_sha256": "cd" * 32}), None], ids=["cold", "index", "none"]
)
def test_other_data_is_another_table(tmp_path: Path, other: DataSet | None) -> None:
    store_good_runs(tmp_path / "y1", make_case(data=FACES), RATES)
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", data=other), RATES)
    document = report(tmp_path / "y1")
    assert 2 == len(document.sections)
    assert len(set(titles(document))) == 2


def test_where_a_data_set_lies_keeps_nothing_apart(tmp_path: Path) -> None:
    elsewhere = FACES.model_copy(update={"path": "/mnt/faces"})
    store_good_runs(tmp_path / "y1", make_case(data=FACES), RATES)
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", data=elsewhere), RATES)
    assert 1 == len(report(tmp_path / "y1").sections)


def test_original_programs_of_several_frameworks_share_a_table(tmp_path: Path) -> None:
    other = Source(engine="pytorch", content_hash="ba9876543210")
    store_good_runs(tmp_path / "y1", original(), RATES)
    store_good_runs(tmp_path / "y1", original(framework="arcface_torch", source=other), RATES)
    (section,) = report(tmp_path / "y1").sections
    assert 2 == len(section.comparison.variants)
    assert plain_text(section.alignment).startswith("not alignable: original programs")


def test_two_states_of_a_program_are_two_columns(tmp_path: Path) -> None:
    changed = SOURCE.model_copy(update={"content_hash": "ba9876543210"})
    store_good_runs(tmp_path / "y1", original(), RATES)
    store_good_runs(tmp_path / "y1", original(source=changed), RATES)
    (section,) = report(tmp_path / "y1").sections
    labels = [section.comparison.label(variant) for variant in section.comparison.variants]
    assert ["source='0123456789ab'" in labels[0], "source='ba9876543210'" in labels[1]] == [True, True]


def test_original_and_own_loop_stand_side_by_side(all_four: Path) -> None:
    table = report(all_four).loops
    first, second = row(table), row(table, 1)
    assert ("40.00", "20.00") == (first["own loop (samples/s)"], first["original program (samples/s)"])
    assert first["own / original"].startswith("2.00 (1.9")
    assert ("synthetic", "faces (warm)") == (first["data"], second["data"])
    # What all rows have is said once.
    assert "remark: the original prints means alone" in plain_text(table.caption)
    assert "workload: y1" in plain_text(table.caption)
    assert "iterations per line of the original: 20" in plain_text(table.caption)


def test_no_ratio_is_taken_where_one_side_has_no_figure_or_is_another_cell(tmp_path: Path) -> None:
    store_run(write_run(tmp_path / "y1", make_case(), log="", outcome=failed("rank_failed")))
    store_good_runs(tmp_path / "y1", make_case(batch_size_per_device=16), RATES)
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow"), RATES)
    store_good_runs(tmp_path / "y1", original(), RATES)
    assert not report(tmp_path / "y1").loops


def test_the_own_loop_of_the_same_version_is_taken_and_another_is_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(version="1.9.0"), scaled(3))
    store_good_runs(tmp_path / "y1", original(), RATES)
    table = report(tmp_path / "y1").loops
    assert "other versions of the engine" in plain_text(table.caption)
    store_good_runs(tmp_path / "y1", make_case(), scaled(2))
    table = report(tmp_path / "y1").loops
    assert ["20.00"] == [row(table, number)["own loop (samples/s)"] for number in range(len(table.rows))]


def test_another_sweep_is_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "a", make_case(), RATES)
    store_good_runs(tmp_path / "b", original(), RATES)
    store_good_runs(tmp_path / "b", original(data=FACES), RATES)
    store_good_runs(tmp_path / "c", original(data=FACES), RATES)
    document = report(tmp_path)
    assert "different sweeps" in plain_text(document.loops.caption)
    remarks = [row(document.input_tax, number)["remark"] for number in (0, 1)]
    assert [False, True] == ["measured in different sweeps" in remark for remark in remarks]


def test_the_input_tax_is_the_rate_with_data_over_that_without(all_four: Path) -> None:
    table = report(all_four).input_tax
    own, theirs = row(table), row(table, 1)
    assert ("own", "original") == (own["loop"], theirs["loop"])
    assert ("20.00", "40.00") == (own["with data (samples/s)"], own["synthetic (samples/s)"])
    assert own["with data / synthetic"].startswith("0.50 (0.49 to")
    assert ("12.5 %", "5.000") == (own["waiting for data"], own["read (MiB/s)"])
    assert "100 %" == own["in page cache before"]
    assert ("-", "-") == (theirs["waiting for data"], theirs["read (MiB/s)"])


def test_a_missing_side_of_the_input_tax_is_not_measured(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(data=FACES), RATES)
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow"), RATES)
    broken = make_case(framework="oneflow", data=FACES)
    store_run(write_run(tmp_path / "y1", broken, log="", outcome=failed("rank_failed")))
    table = report(tmp_path / "y1").input_tax
    first, second = row(table), row(table, 1)
    assert ("not measured", "not measured") == (
        first["synthetic (samples/s)"],
        first["with data / synthetic"],
    )
    assert ("crash", "10.00", "not measured") == (
        second["with data (samples/s)"],
        second["synthetic (samples/s)"],
        second["with data / synthetic"],
    )


@pytest.mark.parametrize(
    ("data", "resident", "said"),
    [
        (COLD, 0.05, None),
        (COLD, 0.4, "not cold (MXNet 1.9.1 on 1n1g: 40 %)"),
        (FACES, 0.95, None),
        (FACES, 0.5, "not warm (MXNet 1.9.1 on 1n1g: 50 %)"),
        (COLD, None, "state of the page cache not known (MXNet 1.9.1 on 1n1g: not measured)"),
        (FACES.model_copy(update={"read": "memory"}), None, None),
    ],
)
def test_a_page_cache_that_was_not_as_asked_is_said(
    tmp_path: Path, data: DataSet, resident: float | None, said: str | None
) -> None:
    events = read(waited=0.01, resident=resident)
    store_good_runs(tmp_path / "y1", make_case(data=data), RATES, reading=events)
    document = report(tmp_path / "y1")
    notes = " ".join(map(plain_text, document.sections[0].notes))
    assert (said is not None) == ("Nothing shows that the page cache held what the sweep asked for" in notes)
    assert said is None or said in notes
    assert (said is not None) == ("remark: " in plain_text(document.input_tax.caption))


def test_waiting_for_data_is_named_where_it_counts(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(data=FACES), RATES, reading=read(waited=0.25))
    other = make_case(framework="oneflow", data=FACES)
    store_good_runs(tmp_path / "y1", other, RATES, reading=read(waited=0.02))
    (section,) = report(tmp_path / "y1").sections
    notes = " ".join(map(plain_text, section.notes))
    assert "more than 5 % of the time (MXNet 1.9.1 on 1n1g: 25 %)" in notes
    assert section.inside is not None
    assert ["25.0 %", "2.0 %"] == [row(section.inside, number)["waiting for data"] for number in (0, 1)]


def test_what_a_line_of_an_original_covers_is_said(all_four: Path) -> None:
    notes = [" ".join(map(plain_text, section.notes)) for section in report(all_four).sections]
    said = "A line of an original program is a mean over several iterations (InsightFace (MXNet) 1.9.1: 20)"
    assert [False, True, False, True] == [said in text for text in notes]


def test_programs_and_data_sets_are_named_by_what_tells_them_apart(all_four: Path) -> None:
    programs, data_sets = report(all_four).inputs
    assert ("863a7ea9", "0123456789ab", "MXNet") == tuple(row(programs).values())[1:]
    assert ["faces", "1000", "100", "recordio", "ext4", "ab" * 32] == list(row(data_sets).values())


def test_no_framework_is_called_the_fastest_across_loops_or_data(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), RATES)
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", data=FACES), scaled(3))
    store_good_runs(tmp_path / "y1", original(framework="arcface_torch"), scaled(5))
    assert [(), (), ()] == [section.findings for section in report(tmp_path / "y1").sections]
    # Nor in the summary of `dlperf run`.
    assert [] == list(standings(load([tmp_path / "y1"], strict=False).figures))
    store_good_runs(tmp_path / "y1", original(), scaled(4))
    ((figure, standing),) = standings(load([tmp_path / "y1"], strict=False).figures)
    assert "original" == figure.loop
    assert "arcface_torch 1.9.1" == standing.winner


def test_failed_cells_and_other_sources_name_loop_and_data(tmp_path: Path) -> None:
    for sweep in ("a", "b"):
        store_good_runs(tmp_path / sweep, make_case(), RATES)
        store_good_runs(tmp_path / sweep, make_case(data=FACES), RATES)
    broken = make_case(framework="oneflow", data=COLD)
    store_run(write_run(tmp_path / "a", broken, log="", outcome=failed("rank_failed")))
    document = report(tmp_path)
    assert "faces (cold)" == row(document.missing_cells)["data"]
    assert ["synthetic", "faces (warm)"] == [
        row(document.other_sources, number)["data"] for number in range(2)
    ]


def test_speedups_are_taken_on_the_same_data(tmp_path: Path) -> None:
    two = Topology(nodes=1, devices_per_node=2)
    store_good_runs(tmp_path / "y1", make_case(), RATES)
    store_good_runs(tmp_path / "y1", make_case(topology=two, data=FACES), RATES)
    speedups = [tuple(section.comparison.speedups.values()) for section in report(tmp_path / "y1").sections]
    assert [(1.0,), (None,)] == speedups


@pytest.mark.parametrize("form", ["md", "html"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_forms_have_the_two_tables(all_four: Path, form: Any, language: Any) -> None:
    request = Request(paths=(all_four,), form=form, language=language)
    text = render(build_report(request, report_folder=all_four), request)
    for heading in {"en": ("Original and own loop", "Input tax", "Data sets"), "zh": ("输入开销", "数据集")}[
        language
    ]:
        assert heading in text
