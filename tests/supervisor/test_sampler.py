"""The sampler beside real ranks; a stand-in for nvidia-smi replays what a GPU may say, or not say."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nvidia_smi import FakeGpu, write_nvidia_smi
from processes import until
from supervisor_lab import Lab

from dlperf.results.telemetry import NodeTelemetry, parse_telemetry
from frameworks.node.telemetry import COLUMNS, MOST_BYTES, MOST_NOTES, File

GPU0, GPU1 = FakeGpu(name="NVIDIA A100", uuid="GPU-0"), FakeGpu(name="NVIDIA A100", uuid="GPU-1")
# power, SM, memory, temperature, utilisation, memory used, PCIe, reasons
GOOD = "NOW, {gpu}, 312.45, 1410, 1593, 64, 99, 40322, 4, 16, 0x0000000000000000"
HOT = "NOW, {gpu}, 212.10, 1095, 1593, 91, 99, 40322, 4, 16, 0x0000000000000048"
LOST = "NOW, {gpu}, [GPU is lost]" + 8 * ", [N/A]"
SPEC = {"file": "telemetry.csv", "gpus": 0, "network": False, "interface": None, "data": None}
PAUSE = "import time; print('ready', flush=True); time.sleep({seconds})"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the stand-in, first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def sampled(lab: Lab, *, seconds: float = 1.5, gpus: int = 0, **spec: Any) -> NodeTelemetry:
    """What was sampled beside a rank that sleeps; its run must be good, whatever nvidia-smi does."""
    lab.launch(PAUSE.format(seconds=seconds), telemetry={**SPEC, "gpus": gpus, **spec})
    code, _ = lab.run()
    assert (code, lab.outcome["reason"], lab.outcome["processes_left"]) == (0, "completed", [])
    assert lab.outcome["seconds"] < seconds + 4.5
    return parse_telemetry((lab.folder / "telemetry.csv").read_text())


def values(found: NodeTelemetry, source: str, column: str) -> list[float]:
    return [value for _, value in found.series.get((source, column), [])]


def test_a_busy_rank_and_its_children_are_counted(lab: Lab) -> None:
    child = "import time\\nend = time.time() + 1.5\\nwhile time.time() < end: pass"
    lab.launch(
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{child}'''])", telemetry=SPEC
    )
    lab.run()
    found = parse_telemetry((lab.folder / "telemetry.csv").read_text())
    run, wait = (values(found, "node", f"{name}_seconds")[-1] for name in ("run", "wait"))
    assert run + wait > 0.5
    assert values(found, "node", "busy_seconds")[-1] > values(found, "node", "busy_seconds")[0]
    assert found.notes == ()


def test_what_the_sampler_took_is_told_apart_from_the_ranks(lab: Lab) -> None:
    sampled(lab, seconds=0.8)
    outcome = lab.outcome
    assert 0.01 < outcome["telemetry_cpu_seconds"] < 1
    assert outcome["cpu_seconds"] < 1


def test_a_throttling_gpu_is_recorded_with_its_reasons_on_the_oldest_python(
    lab: Lab, smi: Path, oldest_python: str
) -> None:
    lab.python = oldest_python
    lines: list[list[str] | str | int] = [[GOOD.format(gpu=0)]] * 4 + [[HOT.format(gpu=0)]] * 40
    write_nvidia_smi(smi, GPU0, GPU1, streams={"gpu": lines, "compute-apps": []})
    found = sampled(lab, seconds=2.5, gpus=1)
    assert found.devices == {"gpu0": "NVIDIA A100 GPU-0"}
    reasons = values(found, "gpu0", "reasons")
    assert set(reasons) == {0.0, 0x48}
    assert values(found, "gpu0", "sm_mhz")[0] == 1410
    assert values(found, "gpu0", "celsius")[-1] == 91
    assert values(found, "gpu0", "ecc_uncorrected") == [0.0, 0.0]  # at the start and at the end
    assert found.notes == ()


def test_a_driver_that_knows_the_reasons_by_their_old_name_alone_is_asked_by_it(lab: Lab, smi: Path) -> None:
    write_nvidia_smi(
        smi,
        GPU0,
        unknown=("clocks_event_reasons.active", "remapped_rows.correctable"),
        streams={"gpu": [[HOT.format(gpu=0)]] * 30},
    )
    found = sampled(lab, seconds=2, gpus=1)
    assert values(found, "gpu0", "reasons")[0] == 0x48
    assert values(found, "gpu0", "remapped_uncorrectable") == []


def test_of_the_node_s_gpus_the_run_s_own_are_sampled(
    lab: Lab, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [GOOD.format(gpu=0), GOOD.format(gpu=1)]
    write_nvidia_smi(smi, GPU0, GPU1, streams={"gpu": [both] * 20})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert sampled(lab, gpus=1).gpus == ["gpu1"]


@pytest.mark.slow
def test_a_gpu_that_disappears_an_nvidia_smi_that_hangs_and_one_that_prints_garbage_are_noted(
    tmp_path: Path,
) -> None:
    """Side by side, as a note takes 10 seconds of silence."""
    both, one = [GOOD.format(gpu=0), GOOD.format(gpu=1)], [GOOD.format(gpu=0), LOST.format(gpu=1)]
    streams: dict[str, list[list[str] | str | int]] = {
        "lost": [both] * 5 + [one] * 200,
        "hangs": ["hang"],
        "garbage": [["Segmentation fault", '"quoted", \x1b[31mred']],
    }
    found: dict[str, NodeTelemetry] = {}
    with ExitStack() as stack:
        labs = {name: Lab(tmp_path / name, stack=stack) for name in streams}
        for name, lab in labs.items():
            lab.folder.mkdir()
            write_nvidia_smi(lab.folder, GPU0, GPU1, streams={"gpu": streams[name]})
            lab.launch(PAUSE.format(seconds=12.5), telemetry={**SPEC, "gpus": 2})
        path = os.environ["PATH"]
        started = [lab.start(env={**os.environ, "PATH": f"{lab.folder}:{path}"}) for lab in labs.values()]
        assert [process.wait(60) for process in started] == [0, 0, 0]
        for name, lab in labs.items():
            assert (lab.outcome["reason"], lab.outcome["processes_left"]) == ("completed", [])
            found[name] = parse_telemetry((lab.folder / "telemetry.csv").read_text())
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
    found = sampled(lab, seconds=4, gpus=1)
    assert {note.text for note in found.notes} == {"nvidia-smi has ended: exit code 9"}
    assert len(values(found, "gpu0", "sm_mhz")) == 2


def test_an_nvidia_smi_that_floods_is_ended(lab: Lab, smi: Path) -> None:
    (smi / "nvidia-smi").write_text(
        '#!/bin/sh\ncase $* in *-lms*) yes garbage;; *) exec real-smi "$@";; esac'
    )
    (smi / "nvidia-smi").chmod(0o755)
    inner = smi / "inner"
    inner.mkdir()
    write_nvidia_smi(inner, GPU0)
    (inner / "nvidia-smi").rename(smi / "real-smi")
    found = sampled(lab, seconds=3, gpus=1)
    assert "far more than asked for" in found.notes[0].text
    assert lab.outcome["telemetry_cpu_seconds"] < 2


def test_without_nvidia_smi_the_file_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(lab.folder))
    found = sampled(lab, seconds=1.5, gpus=2)
    assert [note.text for note in found.notes] == ["there is no nvidia-smi on the PATH"]


def test_processes_of_others_on_a_gpu_are_counted(lab: Lab, smi: Path) -> None:
    """One is this test's own parent, which the supervisor did not start; without ours, one must be ours."""
    others = os.getppid()
    apps = [[f"NOW, GPU-0, {others}", "NOW, GPU-0, 999999"]] * 20
    write_nvidia_smi(smi, GPU0, streams={"gpu": [[GOOD.format(gpu=0)]] * 30, "compute-apps": apps})
    assert max(values(sampled(lab, seconds=2, gpus=1), "gpu0", "other_processes")) == 1


def test_a_killed_sampler_changes_nothing_for_the_run(lab: Lab) -> None:
    lab.launch(PAUSE.format(seconds=2), telemetry=SPEC)
    process = lab.start()
    path = lab.folder / "telemetry.csv"
    until(lambda: path.exists() and b"node" in path.read_bytes(), what="a sample")
    for pid in samplers(lab):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(10) == 0
    assert (lab.outcome["reason"], lab.outcome["oom_kills"]) == ("completed", 0)


def test_a_sampler_that_was_stopped_goes_on(lab: Lab) -> None:
    """As with a machine that was suspended."""
    lab.launch(PAUSE.format(seconds=5), telemetry=SPEC)
    process = lab.start()
    path = lab.folder / "telemetry.csv"
    until(lambda: path.exists() and b"node" in path.read_bytes(), what="a sample")
    (pid,) = samplers(lab)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)  # longer than it waits between two samples
    before = len(path.read_bytes())
    os.kill(pid, signal.SIGCONT)
    until(lambda: len(path.read_bytes()) > before + 200, what="more samples")
    assert samplers(lab) == [pid]
    assert process.wait(20) == 0


def test_a_stopped_sampler_holds_nothing_up(lab: Lab) -> None:
    lab.launch(PAUSE.format(seconds=1), telemetry=SPEC)
    process = lab.start()
    until(lambda: bool(samplers(lab)), what="the sampler")
    for pid in samplers(lab):
        os.kill(pid, signal.SIGSTOP)
    assert process.wait(10) == 0
    assert lab.outcome["reason"] == "completed"
    assert lab.outcome["processes_left"] == []


def test_a_killed_supervisor_leaves_no_sampler(lab: Lab, smi: Path) -> None:
    write_nvidia_smi(smi, GPU0, streams={"gpu": ["hang"]})
    lab.launch("import time; time.sleep(600)", telemetry={**SPEC, "gpus": 1})
    process = lab.start()
    until(lambda: len(samplers(lab)) == 1 and len(running(smi)) >= 1, what="the sampler and nvidia-smi")
    process.kill()
    until(lambda: not samplers(lab) and not running(smi), what="nothing is left")


def test_a_folder_that_cannot_be_written_to_changes_nothing_for_the_run(lab: Lab) -> None:
    lab.launch(PAUSE.format(seconds=0.5), telemetry={**SPEC, "file": "no/such/folder.csv"})
    assert lab.run()[0] == 0


def test_a_run_that_is_killed_is_not_held_up_by_its_sampler(lab: Lab) -> None:
    lab.launch("import time; print('ready', flush=True); time.sleep(600)", telemetry=SPEC)
    process = lab.start()
    lab.until_log(b"ready")
    began = time.monotonic()
    assert process.stdin is not None
    process.stdin.write(b"k")
    process.stdin.flush()
    process.wait(10)
    assert time.monotonic() - began < 2


def test_the_file_stays_small_whatever_comes(tmp_path: Path) -> None:
    file = File(str(tmp_path / "telemetry.csv"))
    for number in range(300_000):
        file.put("gpu0", time_ms=number, sm_mhz="1410", power_watts="300.00")
    for number in range(2 * MOST_NOTES):
        file.put("node", note="x" * 10_000 + str(number))
    path = tmp_path / "telemetry.csv"
    assert path.stat().st_size < MOST_BYTES
    found = parse_telemetry(path.read_text())
    times = [time for time, _ in found.series["gpu0", "sm_mhz"]]
    assert 20_000 < len(times) < 100_000
    assert times[-1] > 290_000  # sparser, and still to the end


def test_a_note_is_one_cell_whatever_it_holds(tmp_path: Path) -> None:
    file = File(str(tmp_path / "telemetry.csv"))
    file.put("node", note='a,b"c\nd\x1b[31m\u202e')
    header, row = (tmp_path / "telemetry.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert row.split(",")[-1] == "a b c d [31m "


def samplers(lab: Lab) -> list[int]:
    """The samplers that run in the test's folder."""
    return [pid for pid in running("node/telemetry.py") if Path(f"/proc/{pid}/cwd").resolve() == lab.folder]


def running(what: Path | str) -> list[int]:
    """Processes with this in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
                is_there = str(what).encode() in words and (folder / "cwd").resolve() is not None
            except OSError:
                continue
            if is_there:
                found.append(int(folder.name))
    return found
