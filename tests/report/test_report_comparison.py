"""Which cases stand in one table: those that differ in nothing but framework and cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_folders import MACHINE, Y1, failed, make_case, store_good_runs, write_run

from dlperf.plan.case import Measure, Schedule, Topology
from dlperf.report.comparison import Comparison, comparisons
from dlperf.report.text import plain_text
from dlperf.results.query import load
from dlperf.results.schema import Imported
from dlperf.results.store import read_results, store_run, write_result

if TYPE_CHECKING:
    from pathlib import Path

TITLES = {"mxnet": "MXNet", "oneflow": "OneFlow", "pytorch": "PyTorch"}


def compared(folder: Path) -> tuple[Comparison, ...]:
    figures = load([folder], strict=False).figures
    return comparisons(figures, titles=TITLES)


def apart(comparison: Comparison) -> list[str]:
    return [plain_text(text) for text in comparison.apart]


def test_frameworks_are_columns_and_cells_are_rows(tmp_path: Path) -> None:
    for framework, version in (("pytorch", "2.13.0"), ("mxnet", "1.9.1")):
        for batch in (16, 8):
            for devices in (2, 1):
                case = make_case(
                    framework=framework,
                    version=version,
                    batch_size_per_device=batch,
                    topology=Topology(nodes=1, devices_per_node=devices),
                )
                store_good_runs(tmp_path / "y1", case, [8.0 * devices])
    (comparison,) = compared(tmp_path)
    assert [comparison.label(variant) for variant in comparison.variants] == ["MXNet 1.9.1", "PyTorch 2.13.0"]
    assert [(row.topology, row.batch_size_per_device) for row in comparison.rows] == [
        ("1n1g", 8),
        ("1n1g", 16),
        ("1n2g", 8),
        ("1n2g", 16),
    ]
    assert comparison.scales
    assert comparison.apart == ()
    assert sorted(comparison.speedups.values()) == pytest.approx([1.0] * 4 + [2.0] * 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads_per_device": 1}, "threads per device: 1"),
        (
            {"measure": Measure(warmup_iterations=1, measured_iterations=5)},
            "iterations: 1 warm-up, 5 measured",
        ),
        ({"seed": 3}, "seed: 3"),
        (
            {"workload": Y1.model_copy(update={"schedule": Schedule(learning_rate=0.2)})},
            (
                "workload: mobilefacenet, head GDC, embedding 128, arcface s=64 m1=1 m2=0.5 m3=0, "
                "learning rate 0.2, weight decay 0.0005 (coupled), emore (synthetic)"
            ),
        ),
    ],
)
def test_cases_that_differ_in_more_are_kept_apart_and_it_is_said(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", version="0.9.0", **changes), [8.0])
    tables = compared(tmp_path)
    assert [len(table.variants) for table in tables] == [1, 1]
    assert said in apart(tables[0]) + apart(tables[1])


def test_other_hardware_is_kept_apart_and_it_is_said(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    other = MACHINE.model_copy(update={"cpu": "Another CPU"})
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", version="0.9.0"), [8.0], nodes=[other])
    tables = compared(tmp_path)
    assert [table.hardware for table in tables] == [
        "Another CPU, 8 cores, 16 GiB",
        "Example CPU 3000, 8 cores, 16 GiB",
    ]
    assert ["hardware: Another CPU, 8 cores, 16 GiB"] == apart(tables[0])


def arithmetic(product: str, convolution: str | None = None) -> dict[str, Any]:
    """The facts of an engine that measured what it computes float32 in."""
    return {"fp32_arithmetic": {"product": product, "convolution": convolution or product}}


def test_gpu_figures_of_another_float32_are_kept_apart_and_it_is_said(tmp_path: Path) -> None:
    """Whatever was asked for: what was measured counts, also of the convolutions alone."""
    for framework, facts in (
        ("mxnet", arithmetic("tf32")),
        ("oneflow", arithmetic("ieee", "tf32")),
        ("pytorch", arithmetic("ieee")),
    ):
        case = make_case(framework=framework, device="cuda", precision="fp16")
        store_good_runs(tmp_path / "y1", case, [8.0], facts=facts)
    assert ["float32 products: tf32", "float32 products: ieee and tf32", "float32 products: ieee"] == [
        said for table in compared(tmp_path) for said in apart(table)
    ]


def test_a_gpu_case_without_the_fact_counts_as_what_it_asked_for(tmp_path: Path) -> None:
    """Results of earlier versions, and cases that failed before they measured it."""
    store_good_runs(tmp_path / "y1", make_case(device="cuda"), [8.0])
    store_good_runs(
        tmp_path / "y1", make_case(framework="oneflow", device="cuda"), [8.0], facts=arithmetic("ieee")
    )
    tf32 = make_case(framework="pytorch", device="cuda", options={"tf32": True})
    store_run(write_run(tmp_path / "y1", tf32, log="", outcome=failed("rank_failed")))
    first, second = compared(tmp_path)
    assert ["mxnet", "oneflow"] == [variant.framework for variant in first.variants]
    assert (["float32 products: ieee"], ["float32 products: tf32"]) == (apart(first), apart(second))


def test_what_an_imported_log_of_a_gpu_was_computed_in_is_not_known(tmp_path: Path) -> None:
    half = {"device": "cuda", "precision": "fp16"}
    store_good_runs(tmp_path / "y1", make_case(**half), [8.0])
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", **half), [8.0])
    run = next(run for run in read_results(tmp_path).runs if run.result.case.framework == "oneflow")
    mark = Imported(source="a.log", log="logs/a.log", sha256="0", dialect="mllog", method="samples/seconds")
    write_result(run.folder, run.result.model_copy(update={"imported": mark}))
    ours, imported = compared(tmp_path)
    assert ["float32 products: ieee", "gradients travel in: float32"] == apart(ours)
    assert ["float32 products: not known", "gradients travel in: not known"] == apart(imported)


def test_on_cpu_the_fact_keeps_nothing_apart(tmp_path: Path) -> None:
    """There float32 is float32, and older results do not say so."""
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow"), [8.0], facts=arithmetic("ieee"))
    assert 1 == len(compared(tmp_path))


def test_host_names_do_not_keep_cases_apart(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    other = MACHINE.model_copy(update={"host": "node-b"})
    store_good_runs(tmp_path / "y1", make_case(framework="oneflow", version="0.9.0"), [8.0], nodes=[other])
    assert len(compared(tmp_path)) == 1


def test_two_sweeps_share_a_table_unless_both_hold_a_cell(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "a", make_case(), [8.0])
    store_good_runs(tmp_path / "b", make_case(framework="oneflow", version="0.9.0"), [8.0])
    (shared,) = compared(tmp_path)
    assert len(shared.sweeps) == 2
    store_good_runs(tmp_path / "b", make_case(), [9.0])
    first, second = compared(tmp_path)
    assert (["sweep: a"], ["sweep: b"]) == (apart(first), apart(second))


def test_experiments_and_parallelisms_have_tables_of_their_own(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(), [8.0])
    store_good_runs(tmp_path / "y1", make_case(parallelism="model"), [8.0])
    store_good_runs(tmp_path / "y1", make_case(parallelism="partial_fc", sample_ratio=0.1), [8.0])
    store_good_runs(tmp_path / "y1", make_case(parallelism="partial_fc", sample_ratio=1.0), [8.0])
    other = Y1.model_copy(update={"experiment": "other"})
    store_good_runs(tmp_path / "y1", make_case(workload=other), [8.0])
    tables = compared(tmp_path)
    assert [(table.sample.workload.experiment, table.sample.parallelism) for table in tables] == [
        ("other", "data"),
        ("y1", "data"),
        ("y1", "model"),
        ("y1", "partial_fc"),
    ]
    assert [row.sample_ratio for row in tables[3].rows] == [0.1, 1.0]
    assert {table.apart for table in tables} == {()}


def test_options_that_differ_make_columns_and_name_them(tmp_path: Path) -> None:
    for options in ({"layout": "NCHW", "compile": True}, {"layout": "NHWC", "compile": True}, {}):
        case = make_case(framework="pytorch", version="2.13.0", options=options)
        store_good_runs(tmp_path / "y1", case, [8.0])
    (comparison,) = compared(tmp_path)
    assert [comparison.label(variant) for variant in comparison.variants] == [
        "PyTorch 2.13.0 (no options)",
        "PyTorch 2.13.0 (compile=True, layout='NCHW')",
        "PyTorch 2.13.0 (compile=True, layout='NHWC')",
    ]


def test_an_unknown_framework_keeps_its_own_name(tmp_path: Path) -> None:
    store_good_runs(tmp_path / "y1", make_case(framework="jax", version="1"), [8.0])
    (comparison,) = compared(tmp_path)
    assert comparison.label(comparison.variants[0]) == "jax 1"
