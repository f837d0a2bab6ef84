"""The shipped GPU sweep on nodes of 8 GPUs: one table a workload, with speedups, efficiency and their charts.

No test can have such nodes: the plan is the product's, and the runs behind the report are invented here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from report_pages import settings
from run_folders import MACHINE, log_text, make_case, store_good_runs, write_run

from dlperf.adapters.registry import load_adapters
from dlperf.plan.case import Topology
from dlperf.plan.cluster import load_cluster
from dlperf.plan.load import axis_setting, load_sweep, value_setting
from dlperf.plan.plan import PlannedCase, PlanStatus, make_plan
from dlperf.report.charts.lines import EFFICIENCY, SPEEDUP, line_chart
from dlperf.report.comparison import comparisons
from dlperf.report.document import Document, Request, Section, build_report
from dlperf.report.text import plain_text
from dlperf.results.cases import matmul_shares, speedups, standings
from dlperf.results.query import load
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.plan.load import Setting
    from dlperf.results.schema import Node

GPUS = ("Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB")
TOPOLOGIES = ("1n1g", "1n4g", "1n8g", "2n8g", "4n8g")


def node(gpu: str) -> Node:
    return MACHINE.model_copy(update={"cores": 64, "accelerators": (gpu,) * 8})


def planned(folder: Path, *given: Setting) -> tuple[PlannedCase, ...]:
    """`r100_emore` on 4 nodes of 8 GPUs and 64 cores."""
    folder.mkdir(exist_ok=True)
    (folder / "gpus.yaml").write_text("devices: 8\ncores: 64\ndevice: cuda\nnodes: [a, b, c, d]\n")
    adapters, nodes = load_adapters(), load_cluster("gpus.yaml", folder=folder)
    sweep = load_sweep("r100_emore", adapters=adapters, settings=given, folder=folder)
    return make_plan(sweep, adapters=adapters, machine=nodes.weakest, cluster=nodes).cases


def report(folder: Path) -> Document:
    return build_report(Request(paths=(folder,)))


def headings(section: Section) -> list[str]:
    return [plain_text(column.heading) for column in section.throughput.columns]


@pytest.mark.parametrize("gpu", GPUS)
def test_a_shipped_sweep_has_one_table_with_speedups_for_each_workload(tmp_path: Path, gpu: str) -> None:
    short = value_setting("measure.measured_iterations=4"), value_setting("measure.warmup_iterations=1")
    cases = [item.case for item in planned(tmp_path, *short) if item.status is PlanStatus.RUNNABLE]
    common = [case for case in cases if case.batch_size_per_device == 64 and case.sample_ratio != 1]
    for case in common:
        rate = 240.0 * case.topology.world_size**0.9
        store_good_runs(tmp_path / "r100", case, [rate], nodes=[node(gpu)])
    made = report(tmp_path / "r100")

    assert {8} == {case.threads_per_device for case in cases}
    assert ["r100_emore, data parallel", "r100_emore, model parallel", "r100_emore, Partial FC"] == [
        plain_text(section.title) for section in made.sections
    ]
    for section in made.sections:
        compared = section.comparison
        sampled = compared.sample.parallelism == "partial_fc"
        assert list(TOPOLOGIES if sampled else TOPOLOGIES[:3]) == [row.topology for row in compared.rows]
        assert "8" == settings(section)["threads per device"]
        for variant in compared.variants:
            label = compared.label(variant)
            assert {f"{label} samples/s", f"{label} speedup"} <= set(headings(section))
            found = {row.topology: compared.speedups.get((row, variant)) for row in compared.rows}
            # OneFlow's sampler cannot split the published number of classes over 32 devices.
            missing = {"4n8g"} if sampled and variant.framework == "oneflow" else set()
            assert missing == {topology for topology, speedup in found.items() if speedup is None}
        assert section.inside is not None
        assert "scaling efficiency" in [plain_text(column.heading) for column in section.inside.columns]
    partial_fc = made.sections[-1].comparison
    colours = dict.fromkeys(partial_fc.variants, "black")
    for kind, ends in ((SPEEDUP, "22.63"), (EFFICIENCY, "71 %")):
        chart = line_chart(kind, partial_fc, title="r100", colours=colours)
        assert chart is not None
        assert f"MXNet 1.9.1  {ends}; " in chart.alt


def test_an_aligned_number_of_classes_fills_every_cell(tmp_path: Path) -> None:
    published = [item for item in planned(tmp_path) if item.status is not PlanStatus.RUNNABLE]
    assert [("oneflow", "4n8g", 64), ("oneflow", "4n8g", 120)] == [
        (item.case.framework, str(item.case.topology), item.case.batch_size_per_device) for item in published
    ]
    assert all("85760" in (item.reason or "") for item in published)
    aligned = planned(tmp_path, axis_setting("num_classes=85760"))
    assert {PlanStatus.RUNNABLE} == {item.status for item in aligned}


def store_on_gpus(folder: Path, threads: dict[int, int], *, framework: str = "mxnet") -> None:
    """Data parallel on CUDA; `threads` are those per device by the number of devices."""
    for devices, count in threads.items():
        case = make_case(
            framework=framework,
            device="cuda",
            topology=Topology(nodes=1, devices_per_node=devices),
            threads_per_device=count,
        )
        store_good_runs(folder, case, [100.0 * devices, 101.0 * devices], nodes=[node(GPUS[0])])


def test_threads_that_differ_on_cuda_split_nothing_and_are_stated(tmp_path: Path) -> None:
    store_on_gpus(tmp_path / "y1", {1: 64, 4: 16, 8: 8})
    made = report(tmp_path)
    (section,) = made.sections
    assert section.comparison.apart == ()
    assert [1.0, 4.0, 8.0] == [section.comparison.speedups[key] for key in sorted(section.comparison.cases)]
    assert "8, 16, 64" == settings(section)["threads per device"]
    assert any("8, 16, 64 CPU threads per device" in plain_text(text) for text in made.method)
    assert [1.0, 4.0, 8.0] == list(load([tmp_path], strict=False).cases["speedup"])


def test_threads_of_two_sweeps_on_cuda_split_nothing(tmp_path: Path) -> None:
    store_on_gpus(tmp_path / "a", {1: 8})
    store_on_gpus(tmp_path / "b", {1: 16}, framework="oneflow")
    (section,) = report(tmp_path).sections
    assert ["mxnet", "oneflow"] == [variant.framework for variant in section.comparison.variants]


def test_a_case_with_several_threads_on_cuda_has_a_column_for_each(tmp_path: Path) -> None:
    store_on_gpus(tmp_path / "y1", {1: 8, 4: 8})
    store_on_gpus(tmp_path / "y1", {1: 16, 8: 32})
    figures = load([tmp_path], strict=False).figures
    (compared,) = comparisons(figures, titles={"mxnet": "MXNet"})
    assert ["16", "32", "8"] == [dict(variant.options)["threads_per_device"] for variant in compared.variants]
    assert "MXNet 1.9.1 (threads_per_device=16)" == compared.label(compared.variants[0])
    assert len(figures) == len(compared.cases)
    # That of 8 devices has no 1n1g of its own threads, and there is no telling which of two to take.
    found = {
        (figure.case.topology.world_size, figure.case.threads_per_device): speedup
        for figure, speedup in zip(figures, speedups(figures), strict=True)
    }
    assert {(1, 8): 1.0, (1, 16): 1.0, (4, 8): 4.0, (8, 32): None} == found


def test_the_fastest_of_several_threads_on_cuda_is_named_by_them(tmp_path: Path) -> None:
    for threads, rate in ((8, 100.0), (16, 150.0)):
        case = make_case(device="cuda", threads_per_device=threads)
        store_good_runs(tmp_path / "y1", case, [rate * step for step in (1.0, 1.001, 0.999, 1.002)])
    ((_, result),) = standings(load([tmp_path], strict=False).figures)
    assert "mxnet 1.9.1 (threads_per_device=16)" == result.winner


def test_threads_that_are_not_known_keep_nothing_apart_on_cuda(tmp_path: Path) -> None:
    store_on_gpus(tmp_path / "y1", {1: 8, 2: 8})
    figures = load([tmp_path], strict=False).figures
    unknown = replace(figures[1], not_known=frozenset({"threads_per_device"}))
    (compared,) = comparisons([figures[0], unknown], titles={})
    assert [1.0, 2.0] == sorted(speedup or 0 for speedup in compared.speedups.values())


def test_the_ceiling_of_a_gpu_is_that_of_any_number_of_threads(tmp_path: Path) -> None:
    fast, slow = (make_case(device="cuda", threads_per_device=threads) for threads in (8, 16))
    seconds = [1.0] * 6
    store_run(
        write_run(tmp_path / "a", fast, log=log_text(fast, seconds=seconds).replace("70000000000.0", "140e9"))
    )
    store_run(write_run(tmp_path / "b", slow, log=log_text(slow, seconds=seconds)))
    assert 1 == len(set(matmul_shares(load([tmp_path], strict=False).figures)))


def test_a_product_in_tf32_is_no_ceiling_of_ieee_float32(tmp_path: Path) -> None:
    """It is up to eight times as fast on the same GPU."""
    ieee, tf32 = (make_case(device="cuda", options={"tf32": on}) for on in (False, True))
    for name, case, rate in (("a", ieee, "70e9"), ("b", tf32, "560e9")):
        log = log_text(case, seconds=[1.0] * 6).replace("70000000000.0", rate)
        store_run(write_run(tmp_path / name, case, log=log))
    shares = [share for share in matmul_shares(load([tmp_path], strict=False).figures) if share is not None]
    assert pytest.approx([1 / 8, 1]) == sorted(share / max(shares) for share in shares)
