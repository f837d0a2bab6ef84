"""Sanity checks: what breaks one is shown with what was expected and what is, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from report_pages import report
from run_folders import MACHINE, make_case, store_good_runs

from dlperf.plan.case import Topology
from dlperf.report.sanity_checks import CHECKS, CheckWarning, sanity_checks
from dlperf.report.text import plain_text
from dlperf.results.published import load_published
from dlperf.results.query import load
from dlperf.statistics.basic import summarise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.results.cases import CaseFigures

# Those of telemetry have tests of their own.
MORE_DEVICES, CEILING, FLOOR, BATCH, SAMPLING, STEP, MEMORY, FLOPS, SESSIONS, *_ = (
    plain_text(check) for check in CHECKS
)


def on(nodes: int, devices: int) -> Topology:
    return Topology(nodes=nodes, devices_per_node=devices)


def said(warnings: Sequence[CheckWarning], check: str) -> list[tuple[str, str, str]]:
    return [
        (str(warning.subject.case.topology), plain_text(warning.expected), plain_text(warning.actual))
        for warning in warnings
        if plain_text(warning.check) == check
    ]


def judged(folder: Path, *cases: tuple[Case, list[float]], check: str) -> list[tuple[str, str, str]]:
    for case, rates in cases:
        store_good_runs(folder, case, rates)
    return said(sanity_checks(load((folder,), strict=False).figures), check)


def test_fewer_samples_a_second_on_more_devices(tmp_path: Path) -> None:
    one, two = make_case(topology=on(1, 1)), make_case(topology=on(1, 2))
    assert judged(tmp_path / "y1", (one, [10.0]), (two, [9.0]), check=MORE_DEVICES) == [
        ("1n2g", ">= 10.00 (1n1g)", "9.000")
    ]


def test_two_shapes_of_as_many_devices_are_not_more_devices(tmp_path: Path) -> None:
    flat, tall = make_case(topology=on(1, 4)), make_case(topology=on(2, 2))
    assert judged(tmp_path / "y1", (flat, [10.0]), (tall, [5.0]), check=MORE_DEVICES) == []


@pytest.mark.parametrize(
    ("rates", "warned"),
    [
        ([9.0, 9.1, 8.9], True),
        ([8.0, 12.0, 9.0], False),
        ([11.0, 11.1, 10.9], False),
        ([9.0, 9.1], False),  # two runs have no interval
    ],
)
def test_where_both_have_runs_the_runs_must_tell_them_apart(
    tmp_path: Path, rates: list[float], *, warned: bool
) -> None:
    one, two = make_case(topology=on(1, 1)), make_case(topology=on(1, 2))
    found = judged(tmp_path / "y1", (one, [10.0, 10.1, 9.9]), (two, rates), check=MORE_DEVICES)
    assert warned == bool(found)


def test_more_speedup_than_devices(tmp_path: Path) -> None:
    one, two = make_case(topology=on(1, 1)), make_case(topology=on(1, 2))
    assert judged(tmp_path / "y1", (one, [10.0]), (two, [21.0]), check=CEILING) == [
        ("1n2g", "speedup <= 2", "2.10")
    ]


def test_half_of_the_devices_lost(tmp_path: Path) -> None:
    one, four = make_case(topology=on(1, 1)), make_case(topology=on(1, 4))
    assert judged(tmp_path / "y1", (one, [10.0]), (four, [19.0]), check=FLOOR) == [
        ("1n4g", "speedup >= 2", "1.90")
    ]


@pytest.mark.parametrize(("rate", "warned"), [(9.4, True), (9.6, False), (11.0, False)])
def test_a_larger_batch_that_is_much_slower(tmp_path: Path, rate: float, *, warned: bool) -> None:
    small, large = make_case(batch_size_per_device=4), make_case(batch_size_per_device=16)
    found = judged(tmp_path / "y1", (small, [10.0]), (large, [rate]), check=BATCH)
    assert found == ([("1n1g", ">= 9.500 (0.95 x batch 4)", "9.400")] if warned else [])


def test_sampling_that_is_slower_than_using_all_classes(tmp_path: Path) -> None:
    some, every = (make_case(parallelism="partial_fc", sample_ratio=ratio) for ratio in (0.1, 1.0))
    assert judged(tmp_path / "y1", (every, [10.0]), (some, [9.0]), check=SAMPLING) == [
        ("1n1g", ">= 10.00 (sample ratio 1)", "9.000")
    ]


def test_a_rate_that_does_not_fit_the_time_of_a_step(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.0])
    (figure,) = load((tmp_path / "y1",), strict=False).figures
    assert said(sanity_checks([figure]), STEP) == []
    wrong = replace(figure, summary=summarise([12.0, 12.0]))
    assert said(sanity_checks([wrong]), STEP) == [("1n1g", "global batch 8 within 10 %", "12.00")]


def test_more_memory_than_the_node_has(tmp_path: Path) -> None:
    tiny = MACHINE.model_copy(update={"memory_bytes": 400 * 2**20})
    store_good_runs(tmp_path / "y1", make_case(), [10.0], nodes=(tiny,))
    assert said(sanity_checks(load((tmp_path / "y1",), strict=False).figures), MEMORY) == [
        ("1n1g", "<= 400 MiB", "500 MiB")
    ]


def test_more_flops_than_were_measured_name_what_could_explain_them(tmp_path: Path) -> None:
    ((topology, expected, actual),) = judged(tmp_path / "y1", (make_case(), [40.0]), check=FLOPS)
    assert (topology, actual) == ("1n1g", "108.00")
    assert expected == "<= 70.00 GFLOP/s, unless convolutions need fewer FLOPs (Winograd)"


@pytest.mark.parametrize(("rate", "warned"), [(10.4, False), (9.0, True)])
def test_another_figure_in_another_sweep(tmp_path: Path, rate: float, *, warned: bool) -> None:
    store_good_runs(tmp_path / "monday", make_case(), [10.0])
    store_good_runs(tmp_path / "tuesday", make_case(), [rate])
    found = said(sanity_checks(load((tmp_path,), strict=False).figures), SESSIONS)
    assert found == ([("1n1g", "10.00 within 5 % (monday)", "9.000")] if warned else [])


def test_two_sweeps_whose_runs_do_not_tell_them_apart_get_no_warning(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "monday", make_case(), [10.0, 8.0, 12.0])
    store_good_runs(tmp_path / "tuesday", make_case(), [9.0, 11.5, 7.5])
    assert said(sanity_checks(load((tmp_path,), strict=False).figures), SESSIONS) == []


@pytest.mark.parametrize(
    "change", [{"framework": "oneflow"}, {"num_classes": 200}, {"threads_per_device": 1}, {"seed": 1}]
)
def test_cases_that_differ_in_more_are_not_judged_against_each_other(
    tmp_path: Path, change: dict[str, object]
) -> None:
    one, two = make_case(topology=on(1, 1)), make_case(topology=on(1, 2), **change)
    assert judged(tmp_path / "y1", (one, [10.0]), (two, [1.0]), check=MORE_DEVICES) == []


def test_a_flag_stands_under_its_table_and_the_figure_stays(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(topology=on(1, 1)), [10.0])
    store_good_runs(tmp_path / "y1", make_case(topology=on(1, 2)), [9.0])
    text = report(tmp_path / "y1")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {MORE_DEVICES}")]
    assert [part.strip() for part in line.strip("|").split("|")] == [
        MORE_DEVICES,
        "MXNet 1.9.1, 1n2g, batch 8, 100 classes, fp32",
        "&gt;= 10.00 (1n1g)",
        "9.000",
    ]
    assert "Sanity checks" not in report(sane(tmp_path))


def sane(tmp_path: Path) -> Path:
    store_good_runs(tmp_path / "sane", make_case(topology=on(1, 1)), [10.0])
    store_good_runs(tmp_path / "sane", make_case(topology=on(1, 2)), [19.0])
    return tmp_path / "sane"


def published_flags() -> set[tuple[str, str, str, float | None, str, int, str]]:
    def place(figure: CaseFigures) -> tuple[str, str, float | None, str, int]:
        case = figure.case
        return (
            case.workload.experiment,
            case.parallelism,
            case.sample_ratio,
            str(case.topology),
            case.batch_size_per_device,
        )

    return {
        (plain_text(warning.check), *place(warning.subject), plain_text(warning.actual))  # type: ignore[misc]
        for warning in sanity_checks(load_published("insightface_v100_2021").figures)
    }


def test_the_known_oddities_of_the_figures_of_2021_are_found() -> None:
    found = published_flags()
    assert (MORE_DEVICES, "r100_emore", "data", None, "1n8g", 64, "650.80") in found
    assert (FLOOR, "y1_emore", "data", None, "1n8g", 256, "1.31") in found
    assert (BATCH, "r100_emore", "partial_fc", 1.0, "1n8g", 104, "983.88") in found
    assert (SAMPLING, "r100_glint360k", "partial_fc", 0.1, "1n1g", 64, "194.01") in found


def test_oneflow_of_2021_breaks_no_law() -> None:
    warnings = sanity_checks(load_published("insightface_v100_2021").figures)
    assert {warning.subject.case.framework for warning in warnings} == {"mxnet"}
