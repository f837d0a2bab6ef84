"""Energy of a run from the readings beside its logs: window, sum over nodes, and why there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dlperf.logs.events import Step
from dlperf.results.energy import read_energy

if TYPE_CHECKING:
    from pathlib import Path

GPU = {"source": "nvml", "device": "0", "name": "Fake GPU", "how": "counter"}
PACKAGE = {"source": "rapl", "device": "intel-rapl:0", "name": "package-0"}
START = 1_600_000_000_000  # milliseconds; the first step begins here


def steps(count: int = 10, *, seconds: float = 2.0, warmup: int = 2) -> list[Step]:
    """Of 8 samples each, one behind the other."""
    return [
        Step(
            step=step,
            samples=8,
            seconds=seconds,
            kind="warmup" if step < warmup else "train",
            loss=None,
            time_ms=START + round(1000 * seconds * (step + 1)),
        )
        for step in range(count)
    ]


def readings(folder: Path, *, node: int = 0, watts: float = 100.0, busy: float = 1.0, **changes: Any) -> Path:
    """Half a minute of readings, every half second; `busy` CPUs work all the time."""
    settings = {"first": -5.0, "last": 25.0, "devices": [GPU, PACKAGE], "unreadable": {}, "skip": (0.0, 0.0)}
    settings |= changes
    head = {
        "schema_version": 1,
        "interval_seconds": 0.5,
        "cpus": 4,
        "devices": settings["devices"],
        "unreadable": settings["unreadable"],
    }
    lines = [json.dumps(head)]
    for number in range(round(2 * (settings["last"] - settings["first"])) + 1):
        at = number / 2
        if settings["skip"][0] < at + settings["first"] < settings["skip"][1]:
            continue
        joules = [watts * at * (place + 1) for place in range(len(settings["devices"]))]
        time_ms = START + round(1000 * (at + settings["first"]))
        lines.append(json.dumps({"time_ms": time_ms, "joules": joules, "busy_seconds": 70.0 + busy * at}))
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "logs" / f"energy{node}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_it_is_what_the_window_of_accepted_steps_used(tmp_path: Path) -> None:
    energy = read_energy(readings(tmp_path), steps())
    assert energy is not None
    assert {"nvml": pytest.approx(1600.0), "rapl": pytest.approx(3200.0)} == energy.joules
    assert (16.0, 64) == (energy.seconds, energy.samples)
    assert ("nvml: 1 x Fake GPU (counter)", "rapl: 1 x package-0") == energy.devices
    assert {} == energy.unreadable


def test_between_two_readings_the_power_is_constant(tmp_path: Path) -> None:
    energy = read_energy(readings(tmp_path), steps(12, seconds=1.3, warmup=1))
    assert energy is not None
    assert energy.joules["nvml"] == pytest.approx(100 * 11 * 1.3)


def test_nodes_are_summed(tmp_path: Path) -> None:
    readings(readings(tmp_path), node=1, watts=50.0)
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert energy.joules == {"nvml": pytest.approx(2400.0), "rapl": pytest.approx(4800.0)}
    assert energy.devices[0] == "nvml: 2 x Fake GPU (counter)"


def test_a_source_that_one_node_cannot_read_has_no_sum(tmp_path: Path) -> None:
    readings(tmp_path)
    readings(tmp_path, node=1, devices=[PACKAGE], unreadable={"nvml": "libnvidia-ml.so.1: not found"})
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert list(energy.joules) == ["rapl"]
    assert energy.unreadable == {"nvml": "libnvidia-ml.so.1: not found"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first": 6.0}, "the readings do not cover the measured steps"),
        ({"last": 19.0}, "the readings do not cover the measured steps"),
        ({"first": -5.0, "last": -4.0}, "the readings do not cover the measured steps"),
        ({"skip": (6.0, 13.0)}, "readings are missing among the measured steps"),
        ({"devices": []}, "the meter names no such device"),
    ],
)
def test_readings_that_do_not_tell_give_a_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    energy = read_energy(readings(tmp_path, **changes), steps())
    assert energy is not None
    assert {} == energy.joules
    assert {"nvml": reason, "rapl": reason} == energy.unreadable


def test_a_short_window_has_no_figure(tmp_path: Path) -> None:
    energy = read_energy(readings(tmp_path), steps(seconds=0.5))
    assert energy is not None
    assert energy.unreadable["rapl"] == "the measured steps took 4.0 s, and a reading is taken every 0.5 s"


def test_no_meter_no_energy(tmp_path: Path) -> None:
    assert read_energy(tmp_path, steps()) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]\n",
        f'{{"schema_version": 1, "interval_seconds": 1{"0" * 400}}}\n',
        '{"schema_version": 2}\n',
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_a_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "energy0.jsonl").write_text(content)
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert energy.unreadable["rapl"] == "the meter's file cannot be read"


def test_a_first_line_whose_devices_are_no_list_names_no_device(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "energy0.jsonl").write_text(
        '{"schema_version": 1, "interval_seconds": 1, "devices": 5}\n'
    )
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert energy.unreadable["rapl"] == "the meter names no such device"


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    path = readings(tmp_path) / "logs" / "energy0.jsonl"
    lines = path.read_text().splitlines()
    lines[20] = lines[20][:15]
    lines[30] = '{"time_ms": 1e400, "joules": [1, 2]}'
    lines[29] = f'{{"time_ms": 1{"0" * 400}, "joules": [1, 2]}}'
    lines[31] = '{"time_ms": 5, "joules": ["a", null]}'
    path.write_text("\n".join(lines))
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert energy.joules["nvml"] == pytest.approx(1600.0)


def test_what_others_did_is_known_from_the_cpu_time_of_the_run(tmp_path: Path) -> None:
    """30 s, 4 CPUs, of which 2 worked: 60 s of CPU time, 54 of them the run's."""
    readings(tmp_path, busy=2.0)
    (tmp_path / "outcome.json").write_text(json.dumps({"reason": "completed", "cpu_seconds": 54.0}))
    energy = read_energy(tmp_path, steps())
    assert energy is not None
    assert energy.other_cpu_share == pytest.approx(6 / 120)


def test_without_the_cpu_time_of_the_run_nobody_knows_what_others_did(tmp_path: Path) -> None:
    energy = read_energy(readings(tmp_path), steps())
    assert energy is not None
    assert energy.other_cpu_share is None
