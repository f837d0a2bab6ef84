"""Charts: text as text, figures under the pointer, equal bytes for equal figures, no figure that is none."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.plan.case import Topology
from dlperf.report.charts import Chart, charts
from dlperf.report.charts.bars import MOST_BARS
from dlperf.report.comparison import comparisons
from dlperf.results.query import load
from dlperf.results.store import store_run
from dlperf.statistics.basic import ratio_interval, t_interval

ONEFLOW = {"framework": "oneflow", "version": "0.9.0"}


def drawn(folder: Path, title: str = "y1") -> list[Chart]:
    figures = load([folder], strict=False).figures
    (comparison,) = comparisons(figures, titles={"mxnet": "MXNet", "oneflow": "OneFlow"})
    return charts(comparison, title, variants=comparison.variants)


def one(folder: Path, name: str = "throughput", **settings: str) -> Chart:
    (chart,) = (chart for chart in drawn(folder, **settings) if chart.name == name)
    return chart


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """The throughput of one case with one run."""
    folder = tmp_path_factory.mktemp("plain")
    store_good_runs(folder / "y1", make_case(), [10.0])
    return one(folder)


def words(chart: Chart, kind: str = "text") -> list[str]:
    root = ET.fromstring(chart.svg)  # noqa: S314  our own
    return [element.text or "" for element in root.iter(f"{{http://www.w3.org/2000/svg}}{kind}")]


def hovers(chart: Chart) -> list[str]:
    return words(chart, "title")


def test_bars_carry_their_values_and_names_as_text(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0, 10.4])
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [5.0, 5.1])
    chart = one(tmp_path)
    assert {"MXNet 1.9.1", "OneFlow 0.9.0", "10.20", "5.050", "1n1g"} <= set(words(chart))
    values = "y1. MXNet 1.9.1, 1n1g: 10.20; OneFlow 0.9.0, 1n1g: 5.050."
    assert f"Bar chart of samples/s on CPU cores, {values}" == chart.alt


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def of_device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chart]:
    """Charts of every kind by name, from cases of one kind of device."""
    folder = tmp_path_factory.mktemp(request.param)
    for devices in (1, 2):
        for classes in (1000, 10_000):
            topology = Topology(nodes=1, devices_per_node=devices)
            case = make_case(device=request.param, topology=topology, num_classes=classes)
            rates = [10.0 * devices, 10.3 * devices, 10.1 * devices]
            store_good_runs(folder / "y1", case, rates, phases={"data": 0.1})
    return {chart.name: chart for chart in drawn(folder)}


def test_every_chart_says_on_what_the_figures_were_measured(of_device: dict[str, Chart]) -> None:
    assert {"throughput", "speedup", "efficiency", "iterations", "breakdown"} <= set(of_device)
    is_cpu = " on CPU cores, y1. " in of_device["throughput"].alt
    one, several = ("CPU device", "CPU cores") if is_cpu else ("GPU", "GPUs")
    assert [] == [name for name, chart in of_device.items() if f" on {several}, y1. " not in chart.alt]
    assert f"speedup against one {one}," in of_device["speedup"].alt
    assert f"times the samples/s of one {one}" in words(of_device["speedup"])
    assert f"{one}s" in words(of_device["efficiency"])


def test_a_case_without_a_number_is_a_word_and_no_bar(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    log = "RuntimeError: CUDA out of memory\n"
    store_run(write_run(tmp_path / "y1", make_case(**ONEFLOW), log=log, outcome=failed("rank_failed")))
    chart = one(tmp_path)
    assert "out of memory" in words(chart)
    assert "0.000" not in words(chart)


def test_several_topologies_have_a_speedup_chart_with_the_ideal_line(tmp_path: Path) -> None:
    for devices in (1, 2, 4):
        case = make_case(topology=Topology(nodes=1, devices_per_node=devices))
        store_good_runs(tmp_path / "y1", case, [10.0 * devices**0.5])
    _, speedup, efficiency, iterations = drawn(tmp_path)
    assert ("speedup", "efficiency", "iterations") == (speedup.name, efficiency.name, iterations.name)
    assert {"ideal", "MXNet 1.9.1  50 %", "1n4g"} <= set(words(efficiency))
    assert {"ideal", "MXNet 1.9.1  2.00", "1n4g"} <= set(words(speedup))
    assert speedup.alt == "Line chart, speedup against one CPU device, on CPU cores, y1. MXNet 1.9.1  2.00."


def test_speedup_and_efficiency_show_the_interval_of_the_ratio_to_one_device(tmp_path: Path) -> None:
    rates = {1: [10.0, 10.2, 9.8, 10.0], 2: [18.0, 18.9, 18.2, 18.1], 4: [30.0]}
    for devices, measured in rates.items():
        store_good_runs(
            tmp_path / "y1", make_case(topology=Topology(nodes=1, devices_per_node=devices)), measured
        )
    interval = ratio_interval(rates[2], rates[1])
    assert interval is not None
    _, speedup, efficiency, _ = drawn(tmp_path)
    ends = f"95 % interval {interval.low:.2f} to {interval.high:.2f}"
    assert [
        "MXNet 1.9.1, 1n1g: 1.00 times one CPU device; 4 runs",
        f"MXNet 1.9.1, 1n2g: 1.81 times one CPU device; {ends}; 4 runs",
        "MXNet 1.9.1, 1n4g: 3.00 times one CPU device; 1 run",
    ] == hovers(speedup)
    ends = f"95 % interval {50 * interval.low:.0f} % to {50 * interval.high:.0f} %"
    assert f"MXNet 1.9.1, 1n2g: 91 % of the ideal; {ends}; 4 runs" in hovers(efficiency)
    assert "(whiskers: 95 % interval)" in words(speedup)


def edges(chart: Chart) -> set[tuple[int, ...]]:
    """The colours at the four edges of the picture."""
    picture = Image.open(io.BytesIO(chart.png)).convert("RGB")
    width, height = picture.size
    sides = [
        (0, 0, width, 1),
        (0, height - 1, width, height),
        (0, 0, 1, height),
        (width - 1, 0, width, height),
    ]
    return {colour for side in sides for _, colour in picture.crop(side).getcolors(width + height) or []}


def test_no_label_is_cut_off_at_an_edge(of_device: dict[str, Chart]) -> None:
    assert {"efficiency", "classes-peak-anonymous-memory"} <= set(of_device)
    found = {name: edges(chart) for name, chart in of_device.items()}
    assert [] == [name for name, colours in found.items() if colours != {(255, 255, 255)}]


def test_a_median_outside_of_the_interval_of_the_means_is_drawn_all_the_same(tmp_path: Path) -> None:
    for devices, rates in ((1, [10.0, 10.0, 10.0, 14.0] * 4), (2, [20.0] * 3)):
        store_good_runs(
            tmp_path / "y1", make_case(topology=Topology(nodes=1, devices_per_node=devices)), rates
        )
    _, second = hovers(one(tmp_path, "speedup"))
    assert re.search(r"1n2g: 2\.00 times one CPU device; 95 % interval 1\.\d\d to 1\.\d\d;", second)


def test_equal_figures_give_equal_bytes_and_charts_on_one_page_share_no_id(tmp_path: Path) -> None:
    for devices in (1, 2):
        case = make_case(topology=Topology(nodes=1, devices_per_node=devices))
        store_good_runs(tmp_path / "y1", case, [10.0 * devices, 11.0 * devices])
    made = drawn(tmp_path)
    assert made == drawn(tmp_path)
    both = [*made, *drawn(tmp_path, title="another section")]
    ids = [name for chart in both for name in re.findall(rb' id="([^"]*)"', chart.svg)]
    assert len(ids) > len(both)
    assert len(set(ids)) == len(ids)


def test_no_date_and_no_machine_gets_into_a_file(plain: Chart) -> None:
    assert b"<dc:date>" not in plain.svg
    assert b"tEXt" not in plain.png
    assert b"tIME" not in plain.png


def test_a_picture_is_opaque_and_sharp(plain: Chart) -> None:
    assert struct.unpack(">II", plain.png[16:24])[0] == 1280
    assert b"fill: #ffffff" in plain.svg


def test_names_with_markup_stay_names(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(framework="<script>$x$</script>", version="1&2"), [10.0])
    chart = one(tmp_path, title="$\\frac{1}{2}$ </text><script>")
    assert "<script>$x$</script> 1&2" in words(chart)
    assert "Throughput: $\\frac{1}{2}$ </text><script>" in words(chart)


def test_too_many_bars_are_left_to_the_table(tmp_path: Path) -> None:
    for batch in range(1, MOST_BARS + 2):
        store_good_runs(tmp_path / "y1", make_case(batch_size_per_device=batch), [10.0])
    assert drawn(tmp_path) == []


def test_nothing_measured_has_no_chart(tmp_path: Path) -> None:
    store_run(write_run(tmp_path / "y1", make_case(), log="x\n", outcome=failed("time_limit")))
    assert drawn(tmp_path) == []


def test_a_framework_has_its_colour_whatever_stands_beside_it(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "both", make_case(), [10.0])
    store_good_runs(tmp_path / "both", make_case(**ONEFLOW), [5.0])
    store_good_runs(tmp_path / "one", make_case(**ONEFLOW), [5.0])
    figures = load([tmp_path / "one"], strict=False).figures
    (alone,) = comparisons(figures, titles={})
    both = load([tmp_path / "both"], strict=False).figures
    (wide,) = comparisons(both, titles={})
    chart = charts(alone, "y1", variants=wide.variants)[0]
    assert b"#e69f00" in chart.svg
    assert b"#0072b2" not in chart.svg


def test_text_falls_back_to_a_font_without_serifs_where_ours_is_missing(plain: Chart) -> None:
    families = set(re.findall(rb"font(?:-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", plain.svg))
    assert families
    assert all(family.endswith(b"'DejaVu Sans', sans-serif") for family in families)


def test_the_parts_of_a_profiled_step_stand_on_a_bar_in_their_order(tmp_path: Path) -> None:
    seconds = {"optimizer": 0.25, "forward_backward": 2.0, "communication": 0.5, "data": 0.01}
    store_good_runs(tmp_path / "y1", make_case(), [10.0], phases=seconds)
    store_good_runs(tmp_path / "y1", make_case(**ONEFLOW), [10.0], phases={"graph": 3.0})
    breakdown = one(tmp_path, "breakdown")
    assert {"forward and backward", "one graph of all", "2.000", "3.000", "0.2500"} <= set(words(breakdown))
    assert "0.01000" not in words(breakdown)  # no room for it on the bar; it is in the table
    assert breakdown.alt.endswith(
        "MXNet 1.9.1, 1n1g: data 0.01000, forward and backward 2.000, communication 0.5000, optimizer "
        "0.2500; OneFlow 0.9.0, 1n1g: one graph of all 3.000."
    )


def test_classes_are_an_axis_with_a_point_per_number(tmp_path: Path) -> None:
    for classes, rates in ((1_000, [10.0, 12.0]), (10_000, [8.0, 8.5]), (100_000, [2.0, 2.1])):
        store_good_runs(tmp_path / "y1", make_case(num_classes=classes), rates)
    made = {chart.name: chart for chart in drawn(tmp_path)}
    chart, memory = made["classes-throughput"], made["classes-peak-anonymous-memory"]
    assert {"1000", "10000", "100000", "MXNet 1.9.1  2.050"} <= set(words(chart))
    assert [
        "MXNet 1.9.1, 1000 classes: 11.00 samples/s; runs 10.00 to 12.00; 2 runs",
        "MXNet 1.9.1, 10000 classes: 8.250 samples/s; runs 8.000 to 8.500; 2 runs",
        "MXNet 1.9.1, 100000 classes: 2.050 samples/s; runs 2.000 to 2.100; 2 runs",
    ] == hovers(chart)
    assert memory.alt.endswith(". MXNet 1.9.1  500.")


def test_the_box_of_iterations_and_the_table_show_the_same_median(tmp_path: Path) -> None:
    """The median of the runs' quantiles: of all steps together the median would be 3.5."""
    sweep = tmp_path / "y1"
    for repeat, seconds in enumerate(((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0), (3.0, 3.0, 3.0, 3.0)), 1):
        store_run(write_run(sweep, make_case(), repeat=repeat, seconds=(9.0, 9.0, *seconds)))
    chart = one(tmp_path, "iterations")
    spread = "25 to 75 % 3.000 to 3.250; 5 to 95 % 3.000 to 3.850"
    assert [f"MXNet 1.9.1, 1n1g: median 3.000 s; {spread}; 12 iterations of 3 runs"] == hovers(chart)
    assert {"MXNet 1.9.1, 1n1g", "3.000"} <= set(words(chart))
    assert "seconds of a measured iteration inside a run, medians over the good runs:" in words(chart)
    (figure,) = load([sweep], strict=False).figures
    assert (3.0, 3.85) == (figure.step_seconds_median, pytest.approx(figure.step_seconds_p95))


def test_runs_without_their_steps_have_no_box(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    for path in tmp_path.rglob("steps.csv"):
        path.unlink()
    assert ["throughput"] == [chart.name for chart in drawn(tmp_path)]


def test_a_bar_tells_its_value_interval_and_runs_under_the_pointer(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0, 10.4, 10.2])
    log = "RuntimeError: CUDA out of memory\n"
    store_run(write_run(tmp_path / "y1", make_case(**ONEFLOW), log=log, outcome=failed("rank_failed")))
    interval = t_interval([10.0, 10.4, 10.2])
    assert interval is not None
    mean = f"95 % interval of the mean {interval.low:#.4g} to {interval.high:.2f}"
    assert [
        f"MXNet 1.9.1, 1n1g: 10.20 samples/s; runs 10.00 to 10.40; {mean}; 3 runs",
        "OneFlow 0.9.0, 1n1g: out of memory",
    ] == hovers(one(tmp_path))


def test_a_part_of_a_step_tells_its_share_under_the_pointer(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0], phases={"forward_backward": 3.0, "data": 1.0})
    assert [
        "MXNet 1.9.1, 1n1g, data: 1.000 s; 25 % of 4.000",
        "MXNet 1.9.1, 1n1g, forward and backward: 3.000 s; 75 % of 4.000",
    ] == hovers(one(tmp_path, "breakdown"))


@pytest.mark.filterwarnings("ignore:Glyph 11")
def test_a_picture_says_what_it_shows_and_styles_nothing_but_itself(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    chart = one(tmp_path, title="a \x0b < b")
    root = ET.fromstring(chart.svg)  # noqa: S314  our own
    assert ("img", chart.alt.replace("\x0b", "")) == (root.get("role"), root.get("aria-label"))
    assert [] == words(chart, "style") + words(chart, "metadata")
    assert "Throughput: a  < b" in words(chart)
