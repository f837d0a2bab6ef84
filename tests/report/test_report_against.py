"""Measured cases beside published figures: the nearest ones, never a ratio without what differs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from report_pages import by_column
from run_folders import make_case, store_good_runs

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.plan.load import load_experiment
from dlperf.report.document import Request, build_report
from dlperf.report.render import render
from dlperf.report.text import plain_text
from dlperf.report.verify import verify
from dlperf.results.published import load_published, published_names

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, str]


def measured(folder: Path, experiment: str, rate: float, *, gpus: int = 8, **changes: Any) -> None:
    workload = load_experiment(experiment)[0].workload
    fields = {"framework": "pytorch", "version": "2.13.0", "device": "cuda", **changes}
    topology = Topology(nodes=1, devices_per_node=gpus)
    store_good_runs(folder, make_case(workload=workload, topology=topology, **fields), [rate] * 3)


def beside(folder: Path, name: str) -> tuple[list[Row], list[str]]:
    """The rows of the table and the sentences of what is not near."""
    (found,) = build_report(Request(paths=(folder,), against=(f"published:{name}",))).against
    return by_column(found.nearest), [plain_text(sentence) for sentence in found.nothing_near]


def test_the_nearest_figure_is_that_of_the_same_cell_and_what_differs_is_said(tmp_path: Path) -> None:
    measured(
        tmp_path / "mine", "r50_classes", 10008.0, parallelism="partial_fc", sample_ratio=0.1,
        precision="fp16", batch_size_per_device=64, num_classes=125_000,
    )  # fmt: skip
    ((row,), far) = beside(tmp_path / "mine", "arcface_torch_classes_v100_2021")
    assert ("5004.00", "2.00") == (row["published samples/s"], row["measured / published"])
    assert "Partial FC, 1n8g, batch 64, 125000 classes, fp16, sample ratio 0.1" in row["published"]
    names = [part.partition(":")[0] for part in row["differs in"].split("; ")]
    assert ["hardware", "program"] == names
    assert "PyTorch 2.13.0, own loop against PyTorch arcface_torch" in row["differs in"]
    assert [] == far


def test_all_that_differs_is_named_and_the_uncertainty_of_a_chart_is_in_the_ratio(tmp_path: Path) -> None:
    measured(
        tmp_path / "mine", "r50_classes", 8940.0, gpus=1, precision="fp32", parallelism="data",
        batch_size_per_device=64, num_classes=100_000,
    )  # fmt: skip
    rows, _ = beside(tmp_path / "mine", "plsc_2022")
    assert 3 == len(rows)
    for row in rows:
        names = [part.partition(":")[0] for part in row["differs in"].split("; ")]
        assert ["hardware", "program", "parallelism", "batch", "classes", "data", "float32 products"] == names
        rate = re.match(r"(\d+) ± 35", row["published samples/s"])
        ratio = re.match(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", row["measured / published"])
        assert rate is not None
        assert row["published"].endswith("; read from a chart")
        assert ratio is not None
        printed = float(rate[1])
        expected = [f"{8940 / value:.2f}" for value in (printed, printed + 35, printed - 35)]
        assert expected == list(ratio.groups())


def test_a_rounded_figure_says_so_and_gpus_that_are_not_named_are_a_difference(tmp_path: Path) -> None:
    measured(
        tmp_path / "mine", "r50_classes", 5900.0, parallelism="partial_fc", sample_ratio=0.2,
        precision="fp16", batch_size_per_device=512, num_classes=2_059_906,
    )  # fmt: skip
    rows, _ = beside(tmp_path / "mine", "arcface_torch_2022")
    assert {("~5900", "rounded by its authors"), ("5971.00", "median of the lines of a public log")} == {
        (row["published samples/s"], row["published"].rpartition("; ")[2]) for row in rows
    }
    assert all("against GPUs that the source does not name" in row["differs in"] for row in rows)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"device": "cpu"}, "measured on a CPU, and every published figure is of GPUs (r50_classes, 1n8g)"),
        ({"gpus": 5}, "no published figure of iresnet50 on 5 GPUs (r50_classes, 1n5g)"),
    ],
)
def test_where_nothing_is_near_there_is_no_ratio_and_the_reason_is_told(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    measured(tmp_path / "mine", "r50_classes", 9000.0, **changes)
    assert ([], [f"Nothing is near: {why}"]) == beside(tmp_path / "mine", "plsc_2022")


def test_a_network_that_only_shares_a_kind_is_not_near(tmp_path: Path) -> None:
    """arcface_torch's `mbf` is twice as wide as the MobileFaceNet of 2021."""
    measured(tmp_path / "mine", "y1_emore", 9000.0, precision="fp16", batch_size_per_device=128)
    rows, (why,) = beside(tmp_path / "mine", "arcface_torch_2022")
    assert [] == rows
    assert "no published figure of mobilefacenet (y1_emore, 1n8g)" in why
    rows, far = beside(tmp_path / "mine", "insightface_v100_2021")
    assert rows
    assert all("y1_emore" in row["published"] for row in rows)
    assert [] == far


def test_no_row_of_any_data_set_has_a_ratio_without_hardware_and_program(tmp_path: Path) -> None:
    for experiment in ("r50_classes", "r100_emore", "y1_emore"):
        for gpus in (1, 4, 8):
            for precision in ("fp32", "fp16"):
                measured(
                    tmp_path / f"{experiment}{gpus}{precision}", experiment, 1000.0, gpus=gpus,
                    precision=precision, num_classes=85_744,
                )  # fmt: skip
    names = tuple(f"published:{name}" for name in published_names())
    document = build_report(Request(paths=tuple(sorted(tmp_path.iterdir())), against=names))
    rows = [row for found in document.against for row in by_column(found.nearest)]
    for row in rows:
        assert row["measured / published"]
        assert re.match(r"hardware: .* against .*; program: .* against .*", row["differs in"])
    assert len(rows) > 20


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_table_stands_in_the_report_which_can_be_verified(form: str, tmp_path: Path) -> None:
    measured(tmp_path / "mine", "r50_classes", 9000.0, precision="fp16", num_classes=125_000)
    names = ("published:arcface_torch_classes_v100_2021", "published:plsc_2022")
    request = Request(
        paths=(tmp_path / "mine",), against=names, form="html" if form == "html" else "md", language="zh"
    )
    page = render(build_report(request), request)
    for name in names:
        assert f"与“{load_published(name).data.title}”对照" in page
    assert "从图表读出" in page
    if form == "md":
        from dlperf.report.render import write_report  # noqa: PLC0415

        path = tmp_path / "report.md"
        write_report(build_report(request, report_folder=tmp_path), request, path)
        assert () == verify(path).differences
        path.write_text(path.read_text().replace("± 35", "± 36", 1))
        assert verify(path).differences


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    measured(tmp_path / "mine", "r50_classes", 9000.0)
    with pytest.raises(UserError, match=r"published:nobody: no such published data set; known: .*plsc_2022"):
        build_report(Request(paths=(tmp_path / "mine",), against=("published:nobody",)))
