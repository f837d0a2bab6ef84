"""A real run beside its sampler: the file, the result, the chart; a killed dlperf leaves nothing."""

from __future__ import annotations

import json
import signal

from processes import until
from sweep_lab import SweepLab


def test_a_run_is_sampled_unless_the_sweep_says_no(lab: SweepLab) -> None:
    """A case keeps its name: `telemetry` changes nothing in what is run."""
    hold = lab.folder / "hold"
    hold.touch()
    lab.write(options={"fault": "wait", "fault_step": 2, "fault_while": str(hold)})
    process = lab.start()
    until(lambda: lab.logged('"step": '), what="the rank stands still in the middle of what is measured")
    before = samples(lab)
    until(lambda: samples(lab) > before + 2, what="samples of what is measured")
    hold.unlink()
    assert process.wait() == 0
    (result,) = lab.stored()
    assert result.telemetry is not None
    assert result.telemetry.waited is not None
    assert result.telemetry.missing == ()
    (folder,) = lab.run_folders()
    assert lab.outcome()["telemetry_cpu_seconds"] > 0
    shown = lab.dlperf("show", result.case.case_id, "--telemetry")
    assert shown.stdout.startswith("run 1: ")
    assert "measured from second" in shown.stdout
    done = lab.run("-S", "measure.telemetry=false", "--results", "off")
    assert done.returncode == 0
    (silent,) = (lab.folder / "off" / "runs").glob("*/r1")
    assert silent.parent.name == folder.parent.name
    assert not (silent / "telemetry.csv").exists()
    assert "telemetry" not in json.loads((silent / "launch.json").read_text())


def samples(lab: SweepLab) -> int:
    """How many of the node its sampler has written."""
    files = lab.results.glob("runs/*/r1/telemetry.csv")
    return sum(",node," in line for file in files for line in file.read_text().splitlines())


def test_a_killed_dlperf_leaves_no_sampler(lab: SweepLab) -> None:
    """The sampler has dlperf's environment, and so the mark by which a test finds what is left."""
    lab.write(options={"step_seconds": 600})
    process = lab.start()
    until(lambda: any(lab.results.glob("runs/*/r1/telemetry.csv")), what="the sampler")
    process.send_signal(signal.SIGKILL)
    until(lambda: not lab.left(), what="nothing is left")
