"""Telemetry in a report: a row per case, a warning beside the figure, else nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_pages import report
from run_folders import log_text, make_case, telemetry_text, timed, write_run

from dlperf.plan.case import Measure
from dlperf.report.document import Request, build_report
from dlperf.report.render import write_report
from dlperf.report.verify import verify
from dlperf.results.store import store_run

STEPS = 10
GPU = {
    "source": "gpu0",
    "power_watts": 300,
    "memory_mhz": 1593,
    "celsius": 60,
    "utilization_percent": 98,
    "reasons": "0x0000000000000000",
}
MEASURE = Measure(warmup_iterations=2, measured_iterations=8)


def make_run(
    sweep: Path,
    repeat: int,
    *,
    sm_mhz: int = 1410,
    framework: str = "mxnet",
    device: str = "cuda",
    **gpu: object,
) -> Path:
    """Steps of a second; a GPU that behaves alike all the time."""
    case = make_case(framework=framework, version="1", device=device, measure=MEASURE)
    folder = write_run(sweep, case, repeat=repeat, log=timed(log_text(case, seconds=[1.0] * STEPS)))
    times = [number / 2 for number in range(2 * STEPS + 2)]
    rows = [{"at": time, "source": "node", "run_seconds": time, "wait_seconds": time / 99} for time in times]
    if device == "cuda":
        rows += [{"at": time, **GPU, "sm_mhz": sm_mhz, **gpu} for time in times]
    (folder / "telemetry.csv").write_text(telemetry_text(rows))
    store_run(folder)
    return folder


def row_of(text: str, caption: str, framework: str) -> dict[str, str]:
    """The row of a framework in the table under a caption."""
    lines = text[text.index(caption) :].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    found = next(row for row in cells if any(framework in cell for cell in row))
    return dict(zip(cells[0], found, strict=True))


def test_a_throttling_gpu_is_told_beside_the_figure(tmp_path: Path) -> None:
    """The replayed GPU of one framework slows down; the other's does not."""
    sweep = tmp_path / "sweep"
    for repeat in (1, 2, 3):
        make_run(sweep, repeat)
        make_run(sweep, repeat, framework="oneflow", sm_mhz=1095, celsius=91, reasons="0x0000000000000048")
    text = report(sweep)
    warning = row_of(text, "Sanity checks", "OneFlow")
    assert warning["law"] == "clocks are not held back"
    assert warning["actual"] == "100 % (hardware slowdown, hardware thermal slowdown; 1095 MHz)"
    assert "MXNet" not in text[text.index("Sanity checks") : text.index("Spread of the repeats")]
    calm, hot = (row_of(text, "Telemetry of the measured window", name) for name in ("MXNet", "OneFlow"))
    assert (calm["SM clock (MHz)"], hot["SM clock (MHz)"]) == ("1410", "1095")
    assert (calm["clocks held back"], hot["clocks held back"]) == ("", "100.0 %")
    assert (calm["J per 1000 samples"], hot["hottest (C)"]) == ("37500", "91")
    assert "PCIe" not in calm  # known of no case


def test_processes_of_others_and_runs_with_other_clocks_are_told(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep", 1, other_processes=2)
    make_run(tmp_path / "sweep", 2, sm_mhz=1200)
    text = report(tmp_path / "sweep")
    assert "nobody else uses the GPUs" in text
    assert "1200 to 1410 MHz" in text


def test_what_the_samples_lack_is_noted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "sweep", 1)
    note = {"at": 5, "source": "gpu0", "note": "no sample of nvidia-smi for 10 s: <b>lost</b>"}
    with (folder / "telemetry.csv").open("a") as stream:
        stream.write(telemetry_text([note]).splitlines()[1] + "\n")
    store_run(folder)
    text = report(tmp_path / "sweep")
    assert "Telemetry is incomplete in some runs: MXNet 1: gpu0: no sample of nvidia-smi for 10 s" in text
    assert "<b>" not in text


def test_where_there_is_nothing_to_say_there_is_no_table(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep", 1, device="cpu")
    assert "Telemetry" not in report(tmp_path / "sweep")


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_report_is_verified_from_the_samplers_files(tmp_path: Path, name: str) -> None:
    folder = make_run(tmp_path / "sweep", 1)
    request = Request(paths=(tmp_path / "sweep",), form="md" if name.endswith("md") else "html")
    document = build_report(request, report_folder=tmp_path)
    write_report(document, request, tmp_path / name)
    assert verify(tmp_path / name).differences == ()
    path = folder / "telemetry.csv"
    path.write_text(path.read_text().replace(",300,", ",200,"))
    assert "telemetry.csv" in "\n".join(verify(tmp_path / name).lines())
