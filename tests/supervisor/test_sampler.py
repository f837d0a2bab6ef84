"""The sampler beside real ranks; a stand-in for nvidia-smi replays what a GPU may say, or not say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi
from processes import until
from supervisor_lab import Lab

from dlperf.results.telemetry import NodeTelemetry, parse_telemetry
from frameworks.node.telemetry import COLUMNS, MOST_BYTES, MOST_NOTES, SPARSER_BYTES, File

ROOT = Path(__file__).parents[2]
GPU0, GPU1 = FakeGpu(name="NVIDIA A100", uuid="GPU-0"), FakeGpu(name="NVIDIA A100", uuid="GPU-1")
# power, SM, memory, temperature, utilisation, memory used, PCIe, reasons
GOOD = "NOW, {gpu}, 312.45, 1410, 1593, 64, 99, 40322, 4, 16, 0x0000000000000000"
HOT = "NOW, {gpu}, 212.10, 1095, 1593, 91, 99, 40322, 4, 16, 0x0000000000000048"
LOST = "NOW, {gpu}, [GPU is lost]" + 8 * ", [N/A]"
SPEC = {"file": "telemetry.csv", "gpus": 0, "network": False, "interface": None, "data": None}
# Goes on until the test has seen what it waits for: on a busy machine a sampler may start late.
GOES_ON = "import os, time\nprint('ready')\nwhile not os.path.exists('over'): time.sleep(0.02)"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the stand-in, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def telemetry(lab: Lab) -> NodeTelemetry:
    """What the file holds so far."""
    path = lab.folder / "telemetry.csv"
    return parse_telemetry(path.read_text() if path.exists() else "")


def ended(lab: Lab, process: subprocess.Popen[bytes]) -> NodeTelemetry:
    """End the rank of a run that must be good, whatever nvidia-smi does; what was sampled beside it."""
    (lab.folder / "over").touch()
    assert process.wait(60) == 0
    assert (lab.outcome["reason"], lab.outcome["processes_left"]) == ("completed", [])
    return telemetry(lab)


def sampled(lab: Lab, seen: Callable[[NodeTelemetry], object], *, gpus: int = 0) -> NodeTelemetry:
    """What was sampled beside a rank that goes on until `seen` holds; no grace period is waited for."""
    lab.launch(GOES_ON, telemetry={**SPEC, "gpus": gpus}, grace_seconds=600)
    process = lab.start()
    until(lambda: seen(telemetry(lab)), what="what the test waits for is sampled")
    return ended(lab, process)


def values(found: NodeTelemetry, source: str, column: str) -> list[float]:
    return [value for _, value in found.series.get((source, column), [])]


def test_a_busy_rank_and_its_children_are_counted(lab: Lab) -> None:
    busy = "while not os.path.exists('over'): pass"
    lab.launch(f"import os\nif os.fork():\n os.wait()\nelse:\n {busy}", telemetry=SPEC)
    process = lab.start()

    def is_counted(found: NodeTelemetry) -> bool:
        ran, waited = (values(found, "node", f"{name}_seconds") for name in ("run", "wait"))
        return len(ran) > 1 and ran[-1] + waited[-1] > 0.5

    until(lambda: is_counted(telemetry(lab)), what="the child's time is counted")
    found = ended(lab, process)
    assert values(found, "node", "busy_seconds")[-1] > values(found, "node", "busy_seconds")[0]
    assert found.notes == ()


def test_what_the_sampler_took_is_told_apart_from_the_ranks(lab: Lab) -> None:
    sampled(lab, lambda found: values(found, "node", "run_seconds"))
    outcome = lab.outcome
    assert 0.01 < outcome["telemetry_cpu_seconds"] < 1
    assert outcome["cpu_seconds"] < 1


def test_a_throttling_gpu_is_recorded_with_its_reasons_on_the_oldest_python(
    lab: Lab, smi: Path, oldest_python: str
) -> None:
    lab.python = oldest_python
    lines: list[list[str] | str | int] = [[GOOD.format(gpu=0)]] * 4 + [[HOT.format(gpu=0)]] * 40
    write_nvidia_smi(smi, GPU0, GPU1, streams={"gpu": lines, "compute-apps": []})
    found = sampled(lab, lambda found: 0x48 in values(found, "gpu0", "reasons"), gpus=1)
    assert found.devices == {"gpu0": "NVIDIA A100 GPU-0"}
    reasons = values(found, "gpu0", "reasons")
    assert set(reasons) == {0.0, 0x48}
    assert values(found, "gpu0", "sm_mhz")[0] == 1410
    assert values(found, "gpu0", "celsius")[-1] == 91
    assert values(found, "gpu0", "ecc_uncorrected")[0] == 0.0
    assert found.notes == ()


def test_errors_of_a_gpus_memory_are_counted_at_the_start_and_at_the_end(tmp_path: Path, smi: Path) -> None:
    """On a busy machine nvidia-smi may take longer for the second than a run waits for it."""
    write_nvidia_smi(smi, GPU0, streams={"gpu": [[GOOD.format(gpu=0)]], "compute-apps": []})
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from frameworks.node import telemetry; "
        "telemetry.FINISH_SECONDS = 60.0; telemetry.main()"
    )
    spec = json.dumps({**SPEC, "gpus": 1, "pids": [os.getpid()], "cpus": []})
    lab = Lab(tmp_path)
    with subprocess.Popen([sys.executable, "-c", program, spec], cwd=tmp_path) as process:
        until(lambda: values(telemetry(lab), "gpu0", "sm_mhz"), what="a sample")
        process.terminate()
    assert process.returncode == 0
    assert values(telemetry(lab), "gpu0", "ecc_uncorrected") == [0.0, 0.0]


def test_a_driver_that_knows_the_reasons_by_their_old_name_alone_is_asked_by_it(lab: Lab, smi: Path) -> None:
    write_nvidia_smi(
        smi,
        GPU0,
        unknown=("clocks_event_reasons.active", "remapped_rows.correctable"),
        streams={"gpu": [[HOT.format(gpu=0)]] * 30},
    )
    found = sampled(lab, lambda found: values(found, "gpu0", "reasons"), gpus=1)
    assert values(found, "gpu0", "reasons")[0] == 0x48
    assert values(found, "gpu0", "remapped_uncorrectable") == []


def test_of_the_node_s_gpus_the_run_s_own_are_sampled(
    lab: Lab, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [GOOD.format(gpu=0), GOOD.format(gpu=1)]
    write_nvidia_smi(smi, GPU0, GPU1, streams={"gpu": [both] * 20})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    found = sampled(lab, lambda found: values(found, "gpu1", "sm_mhz"), gpus=1)
    assert found.gpus == ["gpu1"]


@pytest.mark.slow
def test_a_gpu_that_disappears_an_nvidia_smi_that_hangs_and_one_that_prints_garbage_are_noted(
    tmp_path: Path,
) -> None:
    """Side by side, as a note takes 10 seconds of silence."""
    both, one = [GOOD.format(gpu=0), GOOD.format(gpu=1)], [GOOD.format(gpu=0), LOST.format(gpu=1)]
    streams: dict[str, list[list[str] | str | int]] = {
        "lost": [both] * 5 + [one] * 2000,
        "hangs": ["hang"],
        "garbage": [["Segmentation fault", '"quoted", \x1b[31mred']],
    }
    found: dict[str, NodeTelemetry] = {}
    with ExitStack() as stack:
        labs = {name: Lab(tmp_path / name, stack=stack) for name in streams}
        for name, lab in labs.items():
            lab.folder.mkdir()
            write_nvidia_smi(lab.folder, GPU0, GPU1, streams={"gpu": streams[name]})
            lab.launch(GOES_ON, telemetry={**SPEC, "gpus": 2})
        path = os.environ["PATH"]
        started = {
            name: lab.start(env={**os.environ, "PATH": f"{lab.folder}:{path}"}) for name, lab in labs.items()
        }
        for name, lab in labs.items():
            silent_gpus = 1 if name == "lost" else 2
            until(
                lambda lab=lab, notes=silent_gpus: len(telemetry(lab).notes) >= notes, what=f"notes: {name}"
            )
        for name, lab in labs.items():
            found[name] = ended(lab, started[name])
    silent = "no sample of nvidia-smi for 10 s"
    assert [(note.source, note.text.split(":")[0]) for note in found["lost"].notes] == [("gpu1", silent)]
    assert "GPU is lost" in found["lost"].notes[0].text
    assert len(values(found["lost"], "gpu1", "sm_mhz")) == 5
    assert len(values(found["lost"], "gpu0", "sm_mhz")) > 20
    for name in ("hangs", "garbage"):
        assert [(note.source, note.text[: len(silent)]) for note in found[name].notes] == [
            ("gpu0", silent),
            ("gpu1", silent),
        ]
        assert len(values(found[name], "node", "busy_seconds")) > 5


def test_an_nvidia_smi_that_ends_is_started_again(lab: Lab, smi: Path) -> None:
    write_nvidia_smi(smi, GPU0, streams={"gpu": [[GOOD.format(gpu=0)], 9]})
    found = sampled(lab, lambda found: len(values(found, "gpu0", "sm_mhz")) == 2, gpus=1)
    assert {note.text for note in found.notes} == {"nvidia-smi has ended: exit code 9"}


def test_an_nvidia_smi_that_floods_is_ended(lab: Lab, smi: Path) -> None:
    (smi / "nvidia-smi").write_text(
        '#!/bin/sh\ncase $* in *-lms*) yes garbage;; *) exec real-smi "$@";; esac'
    )
    (smi / "nvidia-smi").chmod(0o755)
    inner = smi / "inner"
    inner.mkdir()
    write_nvidia_smi(inner, GPU0)
    (inner / "nvidia-smi").rename(smi / "real-smi")
    found = sampled(lab, lambda found: found.notes, gpus=1)
    assert "far more than asked for" in found.notes[0].text
    assert lab.outcome["telemetry_cpu_seconds"] < 2


def test_without_nvidia_smi_the_file_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(lab.folder))
    found = sampled(lab, lambda found: found.notes, gpus=2)
    assert [note.text for note in found.notes] == ["there is no nvidia-smi on the PATH"]


def test_processes_of_others_on_a_gpu_are_counted(lab: Lab, smi: Path) -> None:
    """One is this test's own parent, which the supervisor did not start; without ours, one must be ours."""
    others = os.getppid()
    apps = [[f"NOW, GPU-0, {others}", "NOW, GPU-0, 999999"]] * 20
    write_nvidia_smi(smi, GPU0, streams={"gpu": [[GOOD.format(gpu=0)]] * 30, "compute-apps": apps})
    found = sampled(lab, lambda found: values(found, "gpu0", "other_processes"), gpus=1)
    assert max(values(found, "gpu0", "other_processes")) == 1


def sampler_at_work(lab: Lab) -> tuple[subprocess.Popen[bytes], int]:
    """A supervisor and the process of its sampler, which has taken a sample."""
    lab.launch(GOES_ON, telemetry=SPEC)
    process = lab.start()
    until(lambda: values(telemetry(lab), "node", "run_seconds"), what="a sample")
    (pid,) = samplers(lab)
    return process, pid


def test_a_killed_sampler_changes_nothing_for_the_run(lab: Lab) -> None:
    process, pid = sampler_at_work(lab)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not samplers(lab), what="the sampler is gone")
    ended(lab, process)


def test_a_sampler_that_was_stopped_goes_on(lab: Lab) -> None:
    """As with a machine that was suspended."""
    process, pid = sampler_at_work(lab)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)  # longer than it waits between two samples
    before = len(values(telemetry(lab), "node", "run_seconds"))
    os.kill(pid, signal.SIGCONT)
    until(lambda: len(values(telemetry(lab), "node", "run_seconds")) > before + 1, what="more samples")
    assert samplers(lab) == [pid]
    ended(lab, process)


def test_a_stopped_sampler_holds_nothing_up(lab: Lab) -> None:
    process, pid = sampler_at_work(lab)
    os.kill(pid, signal.SIGSTOP)
    ended(lab, process)


def test_a_killed_supervisor_leaves_no_sampler(lab: Lab, smi: Path) -> None:
    write_nvidia_smi(smi, GPU0, streams={"gpu": ["hang"]})
    lab.launch("import time; time.sleep(600)", telemetry={**SPEC, "gpus": 1})
    process = lab.start()
    until(lambda: len(samplers(lab)) == 1 and len(running(smi)) >= 1, what="the sampler and nvidia-smi")
    process.kill()
    until(lambda: not samplers(lab) and not running(smi), what="nothing is left")


def test_a_folder_that_cannot_be_written_to_changes_nothing_for_the_run(lab: Lab) -> None:
    lab.launch("print('done')", telemetry={**SPEC, "file": "no/such/folder.csv"})
    assert lab.run()[0] == 0


def test_a_run_that_is_killed_is_not_held_up_by_its_sampler(lab: Lab) -> None:
    """Nor by the grace period, which is longer than the test waits."""
    lab.launch(GOES_ON, telemetry=SPEC, grace_seconds=600)
    process = lab.start()
    lab.until_log(b"ready")
    assert process.stdin is not None
    process.stdin.write(b"k")
    process.stdin.flush()
    assert process.wait(60) == 1


def test_the_file_stays_small_whatever_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the limits."""
    most_bytes, samples = MOST_BYTES // 10, 30_000
    monkeypatch.setattr("frameworks.node.telemetry.MOST_BYTES", most_bytes)
    monkeypatch.setattr("frameworks.node.telemetry.SPARSER_BYTES", SPARSER_BYTES // 10)
    file = File(str(tmp_path / "telemetry.csv"))
    for number in range(samples):
        file.put("gpu0", time_ms=number, sm_mhz="1410", power_watts="300.00")
    for number in range(2 * MOST_NOTES):
        file.put("node", note="x" * 10_000 + str(number))
    path = tmp_path / "telemetry.csv"
    assert path.stat().st_size < most_bytes
    found = parse_telemetry(path.read_text())
    times = [time for time, _ in found.series["gpu0", "sm_mhz"]]
    assert samples / 15 < len(times) < samples / 3
    assert times[-1] > 0.96 * samples  # sparser, and still to the end


def test_a_note_is_one_cell_whatever_it_holds(tmp_path: Path) -> None:
    file = File(str(tmp_path / "telemetry.csv"))
    file.put("node", note='a,b"c\nd\x1b[31m\u202e')
    header, row = (tmp_path / "telemetry.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert row.split(",")[-1] == "a b c d [31m "


def samplers(lab: Lab) -> list[int]:
    """The samplers that run in the test's folder."""
    return running("node/telemetry.py", folder=lab.folder)


def running(what: Path | str, *, folder: Path | None = None) -> list[int]:
    """Processes with this in their command line, of one working folder or of any."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it may end meanwhile; of a zombie neither is there
            if process.name.isdigit() and str(what).encode() in (process / "cmdline").read_bytes():
                place = (process / "cwd").readlink()
                if folder in {None, place}:
                    found.append(int(process.name))
    return found
