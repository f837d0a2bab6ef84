"""From the files of samplers to what a result keeps: arithmetic that can be done by hand, and any bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_tests import at_most
from run_folders import BEGAN_MS, log_text, make_case, telemetry_text, timed, write_run

from dlperf.logs.events import Step, event_line
from dlperf.plan.case import Case, Measure, Topology
from dlperf.results.curves import run_curves
from dlperf.results.extract import extract
from dlperf.results.schema import RunResult, Telemetry
from dlperf.results.telemetry import (
    NodeTelemetry,
    at,
    covers,
    increase,
    integral,
    measured_window,
    parse_telemetry,
    telemetry_line,
)
from dlperf.results.traffic import sent_bytes
from frameworks.node.telemetry import COLUMNS

# 2 warm-up steps of 2 s, 8 measured steps of 1 s: the window is from second 4 to second 12.
SECONDS = (2.0, 2.0, *[1.0] * 8)
GPU = {"source": "gpu0", "power_watts": 300, "sm_mhz": 1410, "memory_mhz": 1593, "celsius": 60}


def gpu_case(**changes: Any) -> Case:
    measure = Measure(warmup_iterations=2, measured_iterations=8)
    return make_case(device="cuda", measure=measure, **changes)


def write_samples(
    tmp_path: Path,
    *nodes: list[dict[str, Any]],
    case: Case | None = None,
    logs: dict[int, str] | None = None,
    clocks: list[dict[str, float]] | None = None,
) -> Path:
    """A run folder."""
    case = case or gpu_case()
    folder = write_run(tmp_path, case, log=timed(log_text(case, seconds=SECONDS)))
    if clocks is not None:
        environment = json.loads((folder / "environment.json").read_text())
        (folder / "environment.json").write_text(json.dumps({**environment, "clocks": clocks}))
    for rank, log in (logs or {}).items():
        (folder / "logs" / f"rank{rank}.log").write_text(log)
    for number, rows in enumerate(nodes):
        name = "telemetry.csv" if len(nodes) == 1 else f"telemetry.node{number}.csv"
        (folder / name).write_text(telemetry_text(rows))
    return folder


def summary(tmp_path: Path, *nodes: list[dict[str, Any]], **more: Any) -> Telemetry:
    found = extract(write_samples(tmp_path, *nodes, **more)).result.telemetry
    assert found is not None
    return found


def every_half_second(row: dict[str, Any], *, until: float = 13.0, **series: Any) -> list[dict[str, Any]]:
    """Rows from second 0 on; a function among the series takes the second."""
    times = [number / 2 for number in range(int(2 * until) + 1)]
    return [{"at": time, **row, **{name: value(time) for name, value in series.items()}} for time in times]


def test_energy_is_that_of_the_measured_window_alone(tmp_path: Path) -> None:
    """1000 W while it warms up, 300 W in the 8 measured seconds of 64 samples."""
    rows = every_half_second(GPU, power_watts=lambda time: 1000 if time < 4 else 300)
    found = summary(tmp_path, rows)
    assert found.joules_per_1000_samples == pytest.approx(8 * 300 / 64 * 1000)
    assert found.power_watts == pytest.approx(300)
    assert (found.gpus, found.sm_mhz, found.celsius) == (1, 1410, 60)


def test_all_gpus_of_all_nodes_use_energy_and_the_slowest_is_told(tmp_path: Path) -> None:
    case = gpu_case(topology=Topology(nodes=2, devices_per_node=2))
    both = [*every_half_second(GPU), *every_half_second({**GPU, "source": "gpu1", "sm_mhz": 1000})]
    found = summary(tmp_path, both, both, case=case)
    assert found.power_watts == pytest.approx(4 * 300)
    assert (found.gpus, found.sm_mhz, found.sm_mhz_least) == (4, 1205, 1000)


def test_the_share_of_throttled_samples_is_that_of_the_gpu_with_most(tmp_path: Path) -> None:
    """0x1 and 0x2 are an idle GPU and clocks that somebody set: no reason."""
    calm = every_half_second({**GPU, "source": "gpu1", "reasons": "0x0000000000000003"})
    hot = every_half_second(GPU, reasons=lambda time: "0x48" if time < 8 else "0x4" if time < 8.5 else "0x0")
    case = gpu_case(topology=Topology(nodes=1, devices_per_node=2))
    found = summary(tmp_path, [*calm, *hot], case=case)
    assert found.throttled == pytest.approx(9 / 17)
    assert found.throttled_by == ("hardware slowdown", "hardware thermal slowdown", "power cap")


def test_another_node_s_clock_is_set_by_the_end_of_the_measured_window(tmp_path: Path) -> None:
    """Node 1 is an hour ahead; by rank 0's clock it has no sample in the window."""
    case = gpu_case(topology=Topology(nodes=2, devices_per_node=1))
    ahead = [{**row, "at": row["at"] + 3600} for row in every_half_second({**GPU, "power_watts": 100})]
    logs = {
        rank: timed(
            log_text(case, seconds=SECONDS, rank=rank)
            + event_line("interference", {}, {"kind": "train", "rank": rank}),
            shift_ms=3_600_000 * rank,
        )
        for rank in (0, 1)
    }
    found = summary(tmp_path, every_half_second(GPU), ahead, case=case, logs=logs)
    assert found.power_watts == pytest.approx(400)


def test_another_node_s_clock_is_set_by_what_it_answered_before_the_run(tmp_path: Path) -> None:
    """Node 1 is an hour ahead, and no rank tells when it ended the measured window."""
    case = gpu_case(topology=Topology(nodes=2, devices_per_node=1))
    ahead = [{**row, "at": row["at"] + 3600} for row in every_half_second({**GPU, "power_watts": 100})]
    unknown = summary(tmp_path / "unknown", every_half_second(GPU), ahead, case=case)
    assert unknown.power_watts is None
    assert "node 1: how far its clock differs from that of node 0 is not known" in unknown.missing
    clocks = [{"ahead_seconds": each, "uncertainty_seconds": 0.001} for each in (-0.5, 3599.5)]
    found = summary(tmp_path / "asked", every_half_second(GPU), ahead, case=case, clocks=clocks)
    assert found.power_watts == pytest.approx(400)
    assert not [line for line in found.missing if "clock" in line]


def test_curves_of_nodes_stand_at_one_time(tmp_path: Path) -> None:
    case = gpu_case(topology=Topology(nodes=2, devices_per_node=1))
    late = [{**row, "at": row["at"] + 3600} for row in every_half_second(GPU)][4:]  # begins 2 s later
    clocks = [{"ahead_seconds": each, "uncertainty_seconds": 0.0004} for each in (0.0, 3600.0)]
    asked = write_samples(tmp_path / "asked", every_half_second(GPU), late, case=case, clocks=clocks)
    curves = run_curves(asked)
    assert curves is not None
    power = next(panel for panel in curves.panels if panel.title == "power").curves
    assert (0.0, 2.0) == (power["node 0 gpu0"][0][0], power["node 1 gpu0"][0][0])
    assert "clocks aligned within 0.8 ms" == curves.clocks
    unknown = write_samples(tmp_path / "unknown", every_half_second(GPU), late, case=case)
    curves = run_curves(unknown)
    assert curves is not None
    power = next(panel for panel in curves.panels if panel.title == "power").curves
    assert (0.0, 0.0) == (power["node 0 gpu0"][0][0], power["node 1 gpu0"][0][0])
    assert "clock not known, begins with its own first sample: node 1" == curves.clocks


def test_a_gpu_without_samples_leaves_the_energy_unknown_and_is_told(tmp_path: Path) -> None:
    case = gpu_case(topology=Topology(nodes=1, devices_per_node=2))
    lost = every_half_second({**GPU, "source": "gpu1"}, until=2.0)
    note = {"at": 12, "source": "gpu1", "note": "no sample of nvidia-smi for 10 s: GPU is lost"}
    found = summary(tmp_path, [*every_half_second(GPU), *lost, note], case=case)
    assert (found.gpus, found.joules_per_1000_samples) == (1, None)
    assert "gpu1 has no sample in the measured window" in found.missing
    assert "gpu1: no sample of nvidia-smi for 10 s: GPU is lost" in found.missing


def test_counters_of_the_node_become_shares_and_rates(tmp_path: Path) -> None:
    case = make_case(measure=Measure(warmup_iterations=2, measured_iterations=8))
    rows = every_half_second(
        {"source": "node", "cpu_mhz": 2500},
        run_seconds=lambda time: 0.9 * time,
        wait_seconds=lambda time: 0.1 * time,
        busy_seconds=lambda time: 2 * time,
        steal_seconds=lambda time: 0.5 * time,
        pressure_io_seconds=lambda time: 0.25 * time,
        disk_read_bytes=lambda time: 10**9 + 10**6 * time,
    )
    found = summary(tmp_path, rows, case=case)
    assert found.cpu_mhz == 2500
    assert found.waited == pytest.approx(0.1)
    assert found.stolen == pytest.approx(0.25)
    assert found.pressure_io == pytest.approx(0.25)
    assert found.disk_bytes_per_second == pytest.approx(1e6)
    assert found.missing == ()


def test_bytes_per_step_stand_beside_what_must_leave_a_node(tmp_path: Path) -> None:
    case = make_case(
        topology=Topology(nodes=2, devices_per_node=1),
        measure=Measure(warmup_iterations=2, measured_iterations=8),
    )
    rows = every_half_second(
        {"source": "node"}, run_seconds=lambda time: time, sent_bytes=lambda time: 5_000_000 * time
    )
    found = summary(tmp_path, rows, rows, case=case)
    assert found.sent_bytes_per_step == pytest.approx(5e6)
    assert found.theory_bytes_per_step == 4 * (1_000_000 + 12_800)  # two members send the gradient once


def test_the_window_is_as_long_as_its_steps_although_a_step_is_printed_behind_the_next() -> None:
    """All but the last are printed a second late, when the next step has been computed."""
    steps = [
        Step(step=k, samples=8, seconds=1.0, kind="train", loss=1.0, time_ms=1000 * min(k + 2, 10))
        for k in range(10)
    ]
    assert measured_window(steps) == ((0.0, 10_000.0), 80, 10)


def test_ranks_of_one_node_are_one_member() -> None:
    """Of 2 nodes with 4 ranks each, what leaves a node is what a rank of two sends for the same batch."""
    sizes = {"network_parameters": 1000, "classifier_parameters": 100}
    four = make_case(parallelism="model", topology=Topology(nodes=2, devices_per_node=4))
    one = make_case(
        parallelism="model", topology=Topology(nodes=2, devices_per_node=1), batch_size_per_device=32
    )
    assert sent_bytes(four, members=2, **sizes) == sent_bytes(one, members=2, **sizes)


def test_processes_of_others_memory_errors_and_the_link_are_kept(tmp_path: Path) -> None:
    more = [
        {"at": 0, "source": "gpu0", "ecc_uncorrected": 3, "remapped_uncorrectable": 1},
        {"at": 6, "source": "gpu0", "other_processes": 2},
        {"at": 12, "source": "gpu0", "ecc_uncorrected": 5, "remapped_uncorrectable": 1},
    ]
    link = {"pcie_generation": 4, "pcie_width": 8, "utilization_percent": 97, "memory_mib": 100}
    found = summary(tmp_path, [*every_half_second({**GPU, **link}), *more])
    assert (found.other_processes, found.ecc_uncorrected, found.remapped_rows) == (2, 2, 0)
    assert (found.pcie_generation, found.pcie_width) == (4, 8)
    assert (found.utilization, found.memory_bytes) == (0.97, 100 * 2**20)
    assert telemetry_line(found) == (
        "SM 1410 MHz, 300 W, 37500 J per 1000 samples, up to 60 C, up to 2 processes of others"
    )


@pytest.mark.parametrize("until", [5.0, 12.5])
def test_samples_that_end_before_the_window_does_are_told(tmp_path: Path, until: float) -> None:
    node = every_half_second({"source": "node"}, until=until, run_seconds=lambda time: time)
    found = summary(tmp_path, [*node, *every_half_second(GPU)])
    assert found.missing == (() if until > 12 else ("samples do not cover the measured window",))


def test_without_a_file_or_without_a_step_that_counts_there_is_no_summary(tmp_path: Path) -> None:
    case = gpu_case()
    folder = write_run(tmp_path, case, log=timed(log_text(case, seconds=SECONDS)))
    assert extract(folder).result.telemetry is None
    broken = write_run(tmp_path, case, repeat=2, log=timed(log_text(case, seconds=SECONDS[:2])))
    (broken / "telemetry.csv").write_text(telemetry_text(every_half_second(GPU)))
    assert extract(broken).result.telemetry is None


def test_a_file_that_is_none_is_told_and_ends_nothing(tmp_path: Path) -> None:
    case = gpu_case()
    folder = write_run(tmp_path, case, log=timed(log_text(case, seconds=SECONDS)))
    os.mkfifo(folder / "telemetry.csv")
    result = extract(folder).result
    assert result.figures is not None
    assert result.telemetry is not None
    assert "telemetry.csv: not a regular file" in result.telemetry.missing


CELL = st.one_of(
    st.sampled_from(["", "node", "gpu0", "gpu999", "nan", "inf", "1e9", "-1", "0x48", "9" * 19, "note"]),
    st.floats(-1e6, 1e12).map(lambda value: f"{value:.3f}"),
    st.text(max_size=5),
)


@settings(max_examples=at_most(25))  # each writes a run folder
@given(
    rows=st.lists(st.tuples(st.integers(-5, 10**14), st.lists(CELL, min_size=20, max_size=30)), max_size=20),
    cut=st.integers(0, 40),
)
@example(rows=[(BEGAN_MS + 5000, ["gpu0"] + ["9" * 19] * (len(COLUMNS) - 2))] * 3, cut=0)
def test_any_cells_give_a_summary_that_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, list[str]]], cut: int
) -> None:
    text = ",".join(COLUMNS) + "\n"
    text += "".join(f"{time},{','.join(cells)}\n" for time, cells in rows)
    case = gpu_case()
    folder = write_run(tmp_path_factory.mktemp("run"), case, log=timed(log_text(case, seconds=SECONDS)))
    (folder / "telemetry.csv").write_text(text[: len(text) - cut], encoding="utf-8", errors="replace")
    result = extract(folder).result
    assert RunResult.model_validate_json(result.model_dump_json()) == result


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_text_is_read(text: str) -> None:
    assert isinstance(parse_telemetry(text), NodeTelemetry)
    assert isinstance(parse_telemetry(",".join(COLUMNS) + "\n" + text), NodeTelemetry)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(COLUMNS[2:-2]), st.integers(0, 10**9), min_size=1),
        min_size=1,
        max_size=30,
    )
)
def test_what_was_written_is_read_and_a_cut_line_is_none(rows: list[dict[str, int]]) -> None:
    text = telemetry_text([{"at": number, "source": "gpu7", **row} for number, row in enumerate(rows)])
    found = parse_telemetry(text)
    for column in COLUMNS[2:-2]:
        expected = [
            (BEGAN_MS + 1000 * number, row[column]) for number, row in enumerate(rows) if column in row
        ]
        assert found.series.get(("gpu7", column), []) == expected
    cut = parse_telemetry(text[:-1])
    assert sum(map(len, cut.series.values())) == sum(map(len, rows[:-1]))


SERIES = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e6)), max_size=20).map(sorted)


@given(series=SERIES, start=st.floats(0, 1e5), length=st.floats(1, 1e5))
def test_an_integral_lies_between_the_extremes_and_a_difference_is_no_less_than_0(
    series: list[tuple[float, float]], start: float, length: float
) -> None:
    window = (start, start + length)
    area, rise = integral(series, window), increase(series, window)
    values = [value for _, value in series]
    if area is not None:
        seconds = length / 1000
        slack = 1e-6 * (1 + max(values) * seconds)
        assert min(values) * seconds - slack <= area <= max(values) * seconds + slack
    assert rise is None or 0 <= rise <= max(values) - min(values) + 1e-6
    value = at(series, start)
    assert value is None or min(values) - 1e-6 <= value <= max(values) + 1e-6


def test_samples_long_before_a_window_do_not_cover_it() -> None:
    assert covers([(0.0, 1.0), (1000.0, 1.0), (2000.0, 1.0)], (500.0, 2500.0))
    assert not covers([(0.0, 1.0)], (60_000.0, 61_000.0))
    assert not covers([], (0.0, 1.0))
