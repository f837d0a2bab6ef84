"""Original programs through `dlperf run`: tests/thirdparty/pixel_trainer, which trains without end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PROMISED_SECONDS, until
from sweep_lab import THIRD_PARTY, SweepLab

from dlperf.data.make import make
from dlperf.running.run import recover_result

ENDLESS = {"warmup_iterations": 0, "measured_iterations": 1_000_000_000, "repeats": 1}
KEEPS_PAGES = {"tmpfs", "ramfs", "overlay"}  # no page cache of their own to drop
SPEED = re.compile(r"(?:\[1,(\d)\]<stdout>:)?Epoch\[\d+\] Batch \[(\d+)\]\tSpeed: ([\d.]+) samples/sec")


def checkout(lab: SweepLab, name: str = "trainer") -> Path:
    folder = lab.folder / name
    shutil.copytree(THIRD_PARTY / "pixel_trainer", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def write(lab: SweepLab, *, options: dict[str, Any] | None = None, **keys: Any) -> None:
    """One case of the pixel trainer with the source `trainer`, and `keys` over it."""
    entry = {"name": "pixels", "python": sys.executable, "source": "trainer"}
    measure = {"warmup_iterations": 20, "measured_iterations": 100, "repeats": 1}
    lab.write(
        framework="pixels",
        options=options,
        **{"frameworks": [entry], "oversubscribe": True, "measure": measure, **keys},
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log_of(lab: SweepLab) -> str:
    (folder,) = lab.run_folders()
    return (folder / "logs" / "rank0.log").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """One good run."""
    lab = SweepLab(tmp_path_factory.mktemp("trained"))
    source = checkout(lab)
    before = content(source)
    write(lab)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert before == content(source)
    return lab


def test_a_program_is_run_in_a_copy_of_its_source_until_enough_is_measured(trained: SweepLab) -> None:
    (result,) = trained.stored()
    figures = result.figures
    speeds = [float(match[3]) for match in SPEED.finditer(log_of(trained))][2:12]
    rate = len(speeds) / sum(1 / speed for speed in speeds)
    assert figures.samples_per_sec == pytest.approx(rate, rel=1e-3)
    assert (100, 20) == (figures.accepted_steps, figures.dropped_steps)
    assert figures.loss_last < figures.loss_first
    assert figures.peak_anonymous_bytes > 1 << 20
    assert 0 <= result.interference.share <= 1
    assert result.engine.facts["source.content_hash"] == result.case.source.content_hash
    assert result.engine.facts["averaged_over_iterations"] == 10
    (folder,) = trained.run_folders()
    assert {path.name for path in folder.iterdir()} - {"telemetry.csv"} == {
        "case.json", "environment.json", "launch.json", "logs", "outcome.json", "program.json", "result.json",
        "steps.csv",
    }  # fmt: skip


def test_the_log_shows_what_was_changed(trained: SweepLab) -> None:
    lines = log_of(trained).splitlines()
    start = lines.index("changes to the source:")
    diff = lines[start : next(place for place, line in enumerate(lines) if '"init_stop"' in line)]
    for line in (
        "--- a/recognition/train.py",
        "-FREQUENT = 50",
        "+FREQUENT = 10",
        "+++ b/recognition/config.py",
    ):
        assert line in diff
    shown = trained.dlperf("explain", "pixels", "results/tiny").stdout
    assert "env TRAINER_RANK=0 TRAINER_RANKS=1" in shown
    assert "recognition/config.py, recognition/train.py (logs/rank0.log shows it as a diff)" in shown
    assert "each is the program's own average over 10 iterations" in shown


def test_a_report_is_made_again_from_the_logs(trained: SweepLab) -> None:
    made = trained.dlperf("report", "results/tiny", "--out", "report.md")
    assert made.returncode == 0, made.stderr
    again = trained.dlperf("report", "--verify", "report.md")
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_finished_run_is_not_made_again(trained: SweepLab) -> None:
    again = trained.run()
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr


def test_a_dry_run_shows_commands_and_changes(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, topology="1n2g")
    shown = lab.run("--dry-run").stdout
    assert "-m frameworks.original.run " in shown
    assert "cd work/recognition && taskset -c " in shown
    assert "TRAINER_RANK=1 TRAINER_RANKS=2 " in shown
    assert "#   -FREQUENT = 50\n#   +FREQUENT = 10\n" in shown
    assert "# it writes recognition/config.py:\n#   config = {" in shown
    assert not lab.results.exists()


def test_a_process_per_device_gives_the_job_the_sum_of_their_rates(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, topology="1n2g")
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    found = [SPEED.match(line) for line in log_of(lab).splitlines()]
    by_rank = {
        rank: [float(match[3]) for match in found if match is not None and match[1] == rank][2:12]
        for rank in "01"
    }
    seconds = [40 / (one + other) for one, other in zip(*by_rank.values(), strict=True)]
    assert result.figures.samples_per_sec == pytest.approx(400 / sum(seconds), rel=1e-3)
    assert result.figures.accepted_steps == 100


def test_of_a_launcher_s_ranks_a_step_counts_once(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, topology="1n2g", options={"launcher": True})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert (100, 20) == (result.figures.accepted_steps, result.figures.dropped_steps)
    steps = re.findall(r"Global Step: (\d+)", log_of(lab))
    assert len(steps) > len(set(steps))  # both printed


def test_a_program_that_fails_is_a_crash_with_its_last_words(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, options={"broken": True})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    said = "ValueError: a classifier of 0 classes cannot be trained"
    assert ("crash", f"rank 0 ended with exit code 1: {said}") == (result.status.value, result.reason)
    assert result.evidence.endswith(said)


@pytest.mark.parametrize(("read", "resident"), [("warm", 1.0), ("cold", 0.0)])
def test_the_files_of_a_data_set_are_read_before_or_dropped(
    lab: SweepLab, read: str, resident: float
) -> None:
    """All of them, because a program may shuffle; the report tells what it found."""
    checkout(lab)
    make(lab.folder / "faces", images=20, classes=2, seed=1, parts=2, quality=90)
    write(lab, data={"path": "faces", "read": read})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    assert result.reading.form == "recordio"
    assert result.reading.bytes_per_second > 0
    size = (lab.folder / "faces" / "train.rec").stat().st_size
    assert f'"bytes": {size}' in log_of(lab)
    if result.reading.file_system not in KEEPS_PAGES:
        assert resident == result.reading.resident_share
    assert None is result.reading.wait_share


def test_a_damaged_data_set_ends_a_program_before_it_begins(lab: SweepLab) -> None:
    checkout(lab)
    make(lab.folder / "faces", images=20, classes=2, seed=1, parts=2, quality=90)
    write(lab, data={"path": "faces"})
    index = lab.folder / "faces" / "train.idx"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join([*lines[:9], "9\t0\n", *lines[10:]]))
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert "data" == result.status.value
    assert "line 10: byte 0 is not behind that of the line above" in result.reason
    assert "pid" not in log_of(lab)


def test_a_program_that_prints_too_few_lines_fails(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, options={"batches": 40})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status.value == "crash"
    assert result.reason.endswith("the program ended by itself: it printed 20 of 100 iterations to measure")


def test_rates_that_the_clock_contradicts_are_said(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, options={"pause": 0.2})
    done = lab.run()
    assert done.returncode == 0, done.stderr
    (result,) = lab.stored()
    said = "the rates that it prints leave out time that passes between its lines"
    assert said == result.engine.facts["caution"]
    assert lab.dlperf("report", "results/tiny", "--out", "report.md").returncode == 0
    assert said in (lab.folder / "report.md").read_text()


def test_an_edit_that_no_longer_fits_fails_before_anything_is_trained(lab: SweepLab) -> None:
    train = checkout(lab) / "recognition" / "train.py"
    train.write_text(train.read_text().replace("FREQUENT = 50", "FREQUENT = 20 + 30"))
    write(lab)
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert "edit 1 does not fit recognition/train.py: the text to replace occurs 0 times" in result.reason
    assert "pid" not in log_of(lab)


def test_a_source_that_changed_since_is_another_plan(lab: SweepLab) -> None:
    train = checkout(lab) / "recognition" / "train.py"
    write(lab)
    assert lab.run().returncode == 0
    train.write_text(train.read_text() + "# changed\n")
    changed = lab.run()
    assert changed.returncode == 2
    assert "this folder holds results of another plan" in changed.stderr
    assert len(lab.run_folders()) == 1


def test_two_sources_of_one_framework_are_two_cases(lab: SweepLab) -> None:
    train = checkout(lab, "other") / "recognition" / "train.py"
    train.write_text(train.read_text() + "# another\n")
    checkout(lab)
    entries = [{"name": "pixels", "python": sys.executable, "source": name} for name in ("trainer", "other")]
    write(lab, frameworks=entries)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    assert 2 == len({result.case.source.content_hash for result in lab.stored()})


def test_a_checkout_of_the_command_line_takes_the_place_of_the_file_s(lab: SweepLab) -> None:
    checkout(lab, "elsewhere")
    write(lab, frameworks=[{"name": "pixels", "python": sys.executable}])
    without = lab.run()
    assert (2, True) == (without.returncode, "give --source pixels=/path/to/checkout" in without.stderr)
    assert lab.run("--source", "pixels=elsewhere").returncode == 0
    assert ["ok"] == [result.status.value for result in lab.stored()]


def make_faces(lab: SweepLab) -> Path:
    faces = lab.folder / "faces"
    make(faces, images=200, classes=10, seed=1, parts=2, quality=50)
    return faces


def test_a_file_that_is_cut_short_meanwhile_ends_the_run_with_the_record(lab: SweepLab) -> None:
    checkout(lab)
    faces = make_faces(lab)
    write(lab, options={"frequent": 5000}, measure=ENDLESS, data={"path": "faces"})
    process = lab.start()
    until(lambda: lab.logged("tracked_stats"))
    os.truncate(faces / "train.rec", 100_000)
    process.communicate()
    assert process.returncode == 3
    (result,) = lab.stored()
    assert result.status.value == "data"
    assert re.search(r"train\.rec: record \d+ at byte \d+: the file ends at byte 100000", result.reason)
    assert not lab.left()


def wrapper(lab: SweepLab) -> int:
    """The process that runs the program."""
    (pid,) = (
        pid for pid in lab.left() if b"frameworks.original.run" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


@pytest.mark.parametrize("options", [{}, {"launcher": True}])
def test_nothing_is_left_when_the_harness_is_killed(lab: SweepLab, options: dict[str, Any]) -> None:
    checkout(lab)
    write(lab, topology="1n2g", options={"frequent": 5000, **options}, measure=ENDLESS)
    process = lab.start()
    until(lambda: lab.logged("tracked_stats"))
    process.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS, what="every process is gone")
    (folder,) = lab.run_folders()
    assert not (folder / "work").exists()


def test_the_program_ends_with_its_wrapper(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, topology="1n2g", options={"frequent": 5000, "launcher": True}, measure=ENDLESS)
    process = lab.start()
    until(lambda: lab.logged("tracked_stats"))
    os.kill(wrapper(lab), signal.SIGKILL)
    process.communicate()
    assert process.returncode == 3
    assert not lab.left()
    (result,) = lab.stored()
    assert "rank 0 was ended by SIGKILL" in result.reason


def test_the_copy_goes_at_last_when_everything_was_killed(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, options={"frequent": 5000}, measure=ENDLESS)
    lab.start()
    until(lambda: lab.logged("tracked_stats"))
    for _ in range(3):
        for pid in lab.left():
            os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.left())
    (folder,) = lab.run_folders()
    assert (folder / "work").is_dir()
    assert recover_result(folder) is None
    assert not (folder / "work").exists()


def test_a_stopped_sweep_leaves_nothing(lab: SweepLab) -> None:
    checkout(lab)
    write(lab, options={"frequent": 5000}, measure=ENDLESS)
    process = lab.start()
    until(lambda: lab.logged("tracked_stats"))
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not lab.left()
    (folder,) = lab.run_folders()
    assert not (folder / "work").exists()


def test_the_alignment_refuses_a_program_that_takes_no_weights(lab: SweepLab) -> None:
    done = lab.dlperf("align", "y1_emore", "--frameworks", "pixels")
    assert done.returncode == 2
    assert done.stderr.startswith("dlperf: --frameworks: pixels cannot be aligned: ")
    assert "Traceback" not in done.stderr
