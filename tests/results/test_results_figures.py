"""Cases made from runs and plans: what a case's figure is, and what stands where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from plans import write_plan
from run_folders import MACHINE, failed, make_case, store_good_runs, write_run

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.plan.plan import PlanStatus
from dlperf.results.cases import speedups
from dlperf.results.query import find_case, load
from dlperf.results.schema import RunResult, Status
from dlperf.results.store import store_run, write_result
from dlperf.results.tables import records

if TYPE_CHECKING:
    from pathlib import Path

TWO = Topology(nodes=1, devices_per_node=2)


def test_a_cases_figure_is_the_median_of_its_runs(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 16.0, 10.0])
    (figure,) = load([tmp_path], strict=False).figures
    assert figure.summary is not None
    assert figure.summary.median == pytest.approx(10.0)
    assert (figure.summary.minimum, figure.summary.maximum) == (pytest.approx(8.0), pytest.approx(16.0))
    assert (len(figure.good), len(figure.failed), figure.status) == (3, 0, Status.OK)
    assert figure.model_flops_per_second == pytest.approx(10.0 * 2_700_076_800)


def test_failed_runs_are_counted_beside_good_ones_and_not_averaged_in(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 10.0])
    bad = write_run(
        tmp_path / "y1", make_case(), repeat=3, log="ValueError: x\n", outcome=failed("rank_failed")
    )
    store_run(bad)
    (figure,) = load([tmp_path], strict=False).figures
    assert figure.status is Status.OK
    assert figure.summary is not None
    assert figure.summary.median == pytest.approx(9.0)
    assert (len(figure.good), len(figure.failed)) == (2, 1)


def test_a_case_without_a_good_run_has_a_status_and_no_number(tmp_path: Path) -> None:
    log = "RuntimeError: CUDA out of memory\n"
    store_run(write_run(tmp_path / "y1", make_case(), log=log, outcome=failed("rank_failed")))
    (row,) = records(load([tmp_path], strict=False).cases)
    assert row["status"] == "oom"
    assert row["samples_per_sec"] is None
    assert row["evidence"] == "logs/rank0.log:1: RuntimeError: CUDA out of memory"
    numbers = ("samples_per_sec_min", "cv", "interval_low", "speedup", "step_seconds_median", "loss_first")
    assert [row[name] for name in numbers] == [None] * len(numbers)


def test_cells_of_the_plan_without_a_run_stand_with_their_reason(tmp_path: Path) -> None:
    ran, not_yet = make_case(), make_case(batch_size_per_device=16)
    write_plan(
        tmp_path / "y1",
        [ran, not_yet],
        others={
            PlanStatus.EXCLUDED: [(make_case(batch_size_per_device=32), "too slow for a laptop")],
            PlanStatus.UNSUPPORTED: [(make_case(precision="fp16"), "no fp16 on CPU")],
            PlanStatus.UNAVAILABLE: [(make_case(topology=TWO), "needs 2 GPUs")],
        },
    )
    store_good_runs(tmp_path / "y1", ran, [8.0, 8.1])
    figures = load([tmp_path], strict=False).figures
    told = {
        (figure.case.batch_size_per_device, figure.case.precision, str(figure.case.topology)): (
            figure.status.value,
            figure.reason,
        )
        for figure in figures
    }
    assert told == {
        (8, "fp32", "1n1g"): ("ok", None),
        (16, "fp32", "1n1g"): (
            "not_measured",
            "planned and not run yet; `dlperf run` goes on with the sweep",
        ),
        (32, "fp32", "1n1g"): ("not_measured", "excluded: too slow for a laptop"),
        (8, "fp16", "1n1g"): ("unsupported", "no fp16 on CPU"),
        (8, "fp32", "1n2g"): ("not_measured", "needs 2 GPUs"),
    }
    assert {figure.hardware for figure in figures} == {MACHINE.hardware}


def test_repeats_that_are_missing_are_counted(tmp_path: Path) -> None:
    write_plan(tmp_path / "y1", [make_case()], repeats=5)
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    (row,) = records(load([tmp_path], strict=False).cases)
    assert (row["runs_ok"], row["runs_failed"], row["runs_missing"]) == (2, 0, 3)


def test_a_run_that_never_started_stands_with_its_sweeps_hardware(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    other = make_case(framework="oneflow", version="0.9.0")
    folder = tmp_path / "y1" / "runs" / other.case_id / "r1"
    folder.mkdir(parents=True)
    result = RunResult(
        dlperf_version="0", case=other, repeat=1, status=Status.NOT_MEASURED, reason="no environment"
    )
    write_result(folder, result, steps=())
    figures = load([tmp_path], strict=False).figures
    assert [figure.hardware for figure in figures] == [MACHINE.hardware] * 2


def test_the_same_case_on_other_hardware_or_in_another_sweep_is_another_figure(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "a", make_case(), [8.0])
    store_good_runs(tmp_path / "b", make_case(), [9.0])
    other = MACHINE.model_copy(update={"cpu": "Another CPU"})
    store_good_runs(tmp_path / "c", make_case(), [10.0], nodes=[other])
    medians = [figure.summary.median for figure in load([tmp_path], strict=False).figures if figure.summary]
    assert sorted(medians) == [pytest.approx(rate) for rate in (8.0, 9.0, 10.0)]


def test_speedup_is_against_one_device_with_all_else_equal(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [10.0])
    store_good_runs(tmp_path / "y1", make_case(topology=TWO), [17.0])
    store_good_runs(tmp_path / "y1", make_case(topology=TWO, batch_size_per_device=16), [18.0])
    store_good_runs(tmp_path / "y1", make_case(topology=TWO, threads_per_device=1), [9.0])
    figures = load([tmp_path], strict=False).figures
    told = {
        (
            str(figure.case.topology),
            figure.case.batch_size_per_device,
            figure.case.threads_per_device,
        ): speedup
        for figure, speedup in zip(figures, speedups(figures), strict=True)
    }
    assert told == {
        ("1n1g", 8, 2): pytest.approx(1.0),
        ("1n2g", 8, 2): pytest.approx(1.7),
        ("1n2g", 16, 2): None,
        ("1n2g", 8, 1): None,
    }


def test_no_result_and_no_plan_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results here; `dlperf run SWEEP`"):
        load([tmp_path], strict=False)


def test_strict_refuses_what_would_be_skipped(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0, 8.1])
    next((tmp_path / "y1" / "runs").glob("*/r1/result.json")).write_text("{")
    assert len(load([tmp_path], strict=False).results.skipped) == 1
    with pytest.raises(UserError, match="damaged"):
        load([tmp_path], strict=True)


def test_a_case_is_found_by_id_hash_and_part(tmp_path: Path) -> None:
    case = make_case()
    store_good_runs(tmp_path / "y1", case, [8.0])
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", version="0.9.0"), [8.0])
    # Its id holds the start of the first one's.
    store_good_runs(tmp_path / "y1", make_case(framework="insightface_mxnet"), [8.0])
    figures = load([tmp_path], strict=False).figures
    for name in (case.case_id, case.content_hash, "mxnet", "mxnet-1.9.1_y1_data"):
        assert [figure.case for figure in find_case(figures, name)] == [case]
    with pytest.raises(UserError, match="names 3 cases"):
        find_case(figures, "y1_data")
    with pytest.raises(UserError, match=r"did you mean mxnet-1\.9\.1_y1"):
        find_case(figures, "mxnet-1.9.2_y1_data_1n1g_b8_c100_fp32")
    with pytest.raises(UserError, match="`dlperf results` lists them"):
        find_case(figures, "?")
