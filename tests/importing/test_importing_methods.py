"""The figure of an imported log by each method: the arithmetic of 2021, and ours."""

# ruff: noqa: E501  log lines are as long as they are

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from import_lab import imported, instructions, oneflow_log, partial_fc_log, rates

from dlperf.errors import UserError
from dlperf.results.cases import case_figures
from dlperf.results.extract import mean_2021, median_2021
from dlperf.results.schema import Status
from dlperf.results.store import read_results

if TYPE_CHECKING:
    from pathlib import Path


def test_the_default_divides_samples_by_seconds_behind_the_warm_up(tmp_path: Path) -> None:
    made = rates(150)
    (done,) = imported(oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", made), instructions(tmp_path))
    figures = done.result.figures
    assert figures is not None
    assert pytest.approx(statistics.harmonic_mean(made[20:]), rel=1e-12) == figures.samples_per_sec
    assert (130, 20) == (figures.accepted_steps, figures.dropped_steps)
    assert pytest.approx(statistics.median(64 / rate for rate in made[20:])) == figures.step_seconds_median
    assert (40.0, 38.51) == (figures.loss_first, figures.loss_last)


def test_oneflow_as_in_2021_averages_101_of_the_lines_with_iter_above_5(tmp_path: Path) -> None:
    made = rates(200)
    (done,) = imported(
        oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", made), instructions(tmp_path, method="dlperf-2021")
    )
    figures = done.result.figures
    assert figures is not None
    used = made[6:][19:120]
    assert 101 == len(used) == figures.accepted_steps
    assert round(float(np.mean(used)), 2) == figures.samples_per_sec == mean_2021(used)


def test_oneflow_as_in_2021_has_no_figure_below_120_lines_and_says_that_there_was_a_0(tmp_path: Path) -> None:
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_1.log", rates(125))
    (done,) = imported(path, instructions(tmp_path, method="dlperf-2021"))
    assert (Status.INSUFFICIENT, None) == (done.result.status, done.result.figures)
    assert "119 lines with iter > 5, and the 2021 script gave 0 below 120" == done.result.reason
    path = oneflow_log(tmp_path / "1n1g/r100_b64_fp32_2.log", rates(126))
    (done,) = imported(path, instructions(tmp_path, method="dlperf-2021"))
    assert Status.OK is done.result.status


def mxnet_log(path: Path, made: list[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"INFO:root:Epoch[{step // 8}] Batch [{step % 8 * 20 + 20}]\tSpeed: {rate:.2f} samples/sec\tacc=0.000000"
            "\tlossvalue=40.000000\n"
            for step, rate in enumerate(made)
        )
    )
    return path


def test_mxnet_arcface_as_in_2021_takes_5_windows_of_epoch_0_times_the_nodes(tmp_path: Path) -> None:
    made = [round(rate, 2) for rate in rates(12)]
    (done,) = imported(
        mxnet_log(tmp_path / "2n8g/r100_b64_fp32_1.log", made),
        instructions(tmp_path, method="dlperf-2021", version="1.6.0"),
    )
    assert done.result.figures is not None
    expected = round(float(np.mean([round(rate, 1) * 2 for rate in made[1:6]])), 2)
    assert expected == done.result.figures.samples_per_sec
    assert 100 == done.result.figures.accepted_steps


def test_one_process_speaks_for_each_node_in_our_method_too(tmp_path: Path) -> None:
    made = [round(rate, 2) for rate in rates(7)]
    (done,) = imported(
        mxnet_log(tmp_path / "2n8g/r100_b64_fp32_1.log", made), instructions(tmp_path, version="1.6.0")
    )
    assert done.result.figures is not None
    assert pytest.approx(2 * statistics.harmonic_mean(made[1:])) == done.result.figures.samples_per_sec
    assert pytest.approx(statistics.median(64 * 16 / (2 * rate) for rate in made[1:])) == (
        done.result.figures.step_seconds_median
    )


def test_mxnet_partial_fc_as_in_2021_averages_from_the_20th_line_on(tmp_path: Path) -> None:
    made = [round(rate, 2) for rate in rates(40, around=800)]
    path = partial_fc_log(tmp_path / "1n8g/r100_b64_fp32_1.log", made)
    told = {"method": "dlperf-2021", "version": "1.6.0", "parallelism": "partial_fc", "sample_ratio": "0.1"}
    (done,) = imported(path, instructions(tmp_path, **told))
    assert done.result.figures is not None
    expected = round(float(np.mean([round(rate, 1) for rate in made[19:]])), 2)
    assert expected == done.result.figures.samples_per_sec
    assert ("mxnet", "partial_fc", 0.1) == (
        done.result.case.framework, done.result.case.parallelism, done.result.case.sample_ratio,
    )  # fmt: skip


def test_a_case_of_2021_is_the_median_over_runs_and_its_speedup_the_rounded_ratio() -> None:
    assert 1434.44 == median_2021([1427.27, 1416.14, 1434.44, 1439.3, 1435.1])


def test_the_2021_method_is_refused_where_it_was_never_defined(tmp_path: Path) -> None:
    path = tmp_path / "1n1g/r100_b64_fp32_1.log"
    path.parent.mkdir()
    path.write_text(
        "Training: Speed 12.00 samples/sec   Loss 1.0   Epoch: 0   Global Step: 50   Required: 1 hours\n"
    )
    with pytest.raises(
        UserError, match="method dlperf-2021 is not defined for arcface_torch; it knows oneflow_face"
    ):
        imported(path, instructions(tmp_path, method="dlperf-2021", framework="pytorch"))


def test_the_figure_of_an_even_number_of_runs_is_rounded_as_in_2021(tmp_path: Path) -> None:
    for repeat, rate in enumerate((245.11, 245.12), 1):
        path = oneflow_log(tmp_path / f"1n1g/r100_b64_fp32_{repeat}.log", [rate] * 150)
        for method in ("dlperf-2021", "samples/seconds"):
            given = instructions(tmp_path, method=method)
            imported(path, replace(given, sweep=given.sweep.with_name(method.replace("/", "-"))))
    medians = [
        figure.summary.median
        for name in ("dlperf-2021", "samples-seconds")
        for figure in case_figures(read_results(tmp_path / "results" / name))
        if figure.summary is not None
    ]
    assert [median_2021([245.11, 245.12]), pytest.approx(245.115, abs=1e-9)] == medians
    assert round(medians[0], 2) == medians[0]
