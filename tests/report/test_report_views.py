"""What a reader can ask for: columns, baseline, groups, price, other sources; no figure changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_pages import Rows, pages, report
from run_folders import MACHINE, Y1, failed, log_text, make_case, store_good_runs, write_run

from dlperf.errors import UserError
from dlperf.files import shipped_folder
from dlperf.plan.case import Topology
from dlperf.plan.load import load_experiment
from dlperf.report.columns import COLUMNS, View
from dlperf.results.store import store_run
from dlperf.statistics.basic import cost_per_million_samples

MXNET = {"framework": "mxnet", "version": "1.9.1"}
ONEFLOW = {"framework": "oneflow", "version": "0.9.0"}


def tables(*paths: Path, **view: Any) -> dict[str, Rows]:
    """The first table under each heading, as rows by column."""
    return {heading: found[0] for heading, found in pages(report(*paths, view=View(**view))).items()}


def on(devices: int) -> Topology:
    return Topology(nodes=1, devices_per_node=devices)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "y1"
    for devices in (1, 2):
        store_good_runs(folder, make_case(**MXNET, topology=on(devices)), [10.0 * devices**0.5] * 3)
        store_good_runs(
            folder, make_case(**ONEFLOW, topology=on(devices)), [5.0 * devices, 5.1 * devices, 5.2 * devices]
        )
    return folder


def test_columns_are_those_asked_for_in_their_order(sweep: Path) -> None:
    rows = tables(sweep, columns=("efficiency", "samples_per_sec", "memory"))["y1, data parallel"]
    assert [name for name in rows[1] if "MXNet" in name] == [
        "MXNet 1.9.1 scaling efficiency",
        "MXNet 1.9.1 samples/s",
        "MXNet 1.9.1 peak anonymous memory of a rank (MiB)",
    ]
    assert ["71 %", "14.14", "501"] == [rows[1][name] for name in rows[1] if "MXNet" in name]
    assert not any(" / " in name for name in rows[0])


def test_each_kind_of_memory_has_a_column_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "y1"
    older = log_text(make_case(**ONEFLOW), seconds=(1.0,) * 6).replace(
        "peak_anonymous_bytes", "peak_memory_bytes"
    )
    store_good_runs(folder, make_case(**MXNET), [10.0] * 3)
    store_run(write_run(folder, make_case(**ONEFLOW), log=older))
    (row,) = tables(folder, columns=("samples_per_sec", "memory"))["y1, data parallel"]
    peaks = {name: cell for name, cell in row.items() if "peak" in name}
    assert {
        "MXNet 1.9.1 peak anonymous memory of a rank (MiB)": "500",
        "MXNet 1.9.1 peak resident memory of a rank (MiB)": "not known",
        "OneFlow 0.9.0 peak anonymous memory of a rank (MiB)": "not known",
        "OneFlow 0.9.0 peak resident memory of a rank (MiB)": "500",
    } == peaks


def test_memory_that_could_not_be_measured_is_noted(tmp_path: Path) -> None:
    log = log_text(make_case(**MXNET), seconds=(1.0,) * 6)
    unknown = log.replace(f'"value": {500 << 20}', '"value": null').replace(
        '{"rank": 0}}\n', '{"rank": 0, "reason": "not counted"}}\n'
    )
    store_run(write_run(tmp_path / "y1", make_case(**MXNET), log=unknown))
    text = report(tmp_path / "y1")
    assert "Peak memory was not measured in some runs: peak anonymous memory: not counted." in text


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "ratio"])
def test_every_column_has_a_cell_for_every_case(sweep: Path, name: str) -> None:
    rows = tables(sweep, columns=(name,), price_per_device_hour=1.0)["y1, data parallel"]
    assert 2 == len(rows)
    cells = [cell for row in rows for heading, cell in row.items() if heading.startswith("MXNet 1.9.1 ")]
    assert 2 == len(cells)
    assert all(cells)


def test_the_first_column_says_why_there_is_no_number(sweep: Path) -> None:
    log = "RuntimeError: CUDA out of memory\n"
    case = make_case(framework="pytorch", version="2.13.0")
    store_run(write_run(sweep, case, log=log, outcome=failed("rank_failed")))
    first, second = tables(sweep, columns=("memory", "cv"))["y1, data parallel"]
    names = [name for name in first if name.startswith("PyTorch")]
    assert [("out of memory", ""), ("no such case", "")] == [
        tuple(row[name] for name in names) for row in (first, second)
    ]


@pytest.mark.parametrize("name", ["oneflow", "oneflow==0.9.0"])
def test_ratios_are_taken_to_the_baseline(sweep: Path, name: str) -> None:
    row = tables(sweep, baseline=name)["y1, data parallel"][0]
    assert "OneFlow 0.9.0 / MXNet 1.9.1" not in row
    assert row["MXNet 1.9.1 / OneFlow 0.9.0"].startswith("1.96 (")


def test_a_group_has_a_table_of_its_own_and_is_not_called_incomparable(sweep: Path) -> None:
    store_good_runs(sweep, make_case(**MXNET, batch_size_per_device=16), [11.0])
    made = tables(sweep, group_by=("batch_size_per_device",))
    titles = [f"y1, data parallel, batch_size_per_device: {batch}" for batch in (8, 16)]
    assert [2, 1] == [len(made[title]) for title in titles]
    assert "Not comparable" not in report(sweep, view=View(group_by=("batch_size_per_device",)))


def test_groups_keep_the_speedup_against_one_device(sweep: Path) -> None:
    made = tables(sweep, group_by=("topology",), columns=("samples_per_sec", "speedup"))
    assert "1.41" == made["y1, data parallel, topology: 1n2g"][0]["MXNet 1.9.1 speedup"]


def test_a_price_gives_the_cost_of_a_million_samples(sweep: Path) -> None:
    # 2 devices, 14.14 samples/s: 19.64 hours x 2 x 0.50.
    assert 1e6 / 14.1421356 / 3600 == pytest.approx(
        cost_per_million_samples(14.1421356, devices=2, price_per_device_hour=0.5)
    )
    rows = tables(sweep, price_per_device_hour=0.5)["y1, data parallel"]
    assert "19.64" == rows[1]["MXNet 1.9.1 cost of a million samples"]


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"columns": ("speed",)}, "no column is named 'speed'; known: samples_per_sec, speedup"),
        ({"group_by": ("framework",)}, "no field to group by is named 'framework'; known: topology"),
        ({"columns": ("cost",)}, "the column cost needs --price-per-device-hour"),
        ({"price_per_device_hour": float("nan")}, "a price is a finite number above 0"),
        ({"price_per_device_hour": float("inf")}, "a price is a finite number above 0"),
        (
            {"baseline": "jax"},
            r"no results of the baseline 'jax'; there are mxnet==1\.9\.1, oneflow==0\.9\.0",
        ),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(sweep: Path, view: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        tables(sweep, **view)


def test_earlier_results_stand_beside_with_their_version_and_machine(sweep: Path, tmp_path: Path) -> None:
    other = MACHINE.model_copy(update={"cpu": "Another CPU"})
    store_good_runs(
        tmp_path / "earlier", make_case(framework="mxnet", version="1.8.0"), [5.0, 5.0], nodes=[other]
    )
    (row,) = tables(tmp_path / "earlier", sweep)["Beside other sources"]
    assert ("MXNet", "y1", "1n1g") == (row["framework"], row["workload"], row["topology"])
    assert "5.000 (1.8.0)" == row["earlier (Another CPU, 8 cores, 16 GiB)"]
    assert "10.00 (1.9.1)" == row["y1 (Example CPU 3000, 8 cores, 16 GiB)"]
    assert row["y1 / earlier"].startswith("2.00")


def test_published_figures_stand_beside_the_same_cell(tmp_path: Path) -> None:
    file, _ = load_experiment("r100_emore", folder=shipped_folder("experiments").parent)
    case = make_case(
        **MXNET,
        workload=file.workload,
        device="cuda",
        batch_size_per_device=64,
        num_classes=file.num_classes,
    )
    store_good_runs(tmp_path / "mine", case, [483.64])
    from pathlib import Path  # noqa: PLC0415  a type everywhere else

    made = tables(tmp_path / "mine", Path("published:insightface_v100_2021"))
    (row,) = made["Beside other sources"]
    published = next(name for name in row if "V100" in name)
    assert ("241.82 (1.6.0)", "0.50") == (row[published], row["published:insightface_v100_2021 / mine"])


def test_two_workloads_of_one_name_never_stand_in_one_row(tmp_path: Path) -> None:
    other = Y1.model_copy(update={"embedding_size": 256})
    for place, workload in (("monday", Y1), ("friday", other)):
        store_good_runs(tmp_path / place, make_case(**MXNET, workload=workload), [10.0])
    assert "Beside other sources" not in tables(tmp_path / "monday", tmp_path / "friday")


def test_one_source_alone_has_nothing_beside_it(sweep: Path) -> None:
    assert "Beside other sources" not in tables(sweep)
