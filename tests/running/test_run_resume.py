"""A sweep that is taken up again: nothing is made twice, nothing half-made counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from processes import PROMISED_SECONDS, until
from sweep_lab import SweepLab

if TYPE_CHECKING:
    from pathlib import Path

SLOW = {"step_seconds": 600, "fault_step": 1, "fault": "loose"}
THREE = {"warmup_iterations": 1, "measured_iterations": 2, "repeats": 3}


@pytest.fixture(scope="module")
def one_good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of one case and one run that is done, made once; tests take copies."""
    made = SweepLab(tmp_path_factory.mktemp("done"))
    with made.stack:
        made.write()
        assert made.run().returncode == 0
    return made.folder


@pytest.fixture
def done(lab: SweepLab, one_good_run: Path) -> SweepLab:
    """A lab whose sweep is done."""
    shutil.copytree(one_good_run, lab.folder, dirs_exist_ok=True)
    return lab


def stamps(lab: SweepLab) -> dict[Path, int]:
    files = (folder / "result.json" for folder in lab.run_folders())
    return {file: file.stat().st_mtime_ns for file in files if file.exists()}


def test_a_finished_sweep_is_not_run_again(lab: SweepLab) -> None:
    lab.write(measure=THREE)
    lab.run()
    before = stamps(lab)
    done = lab.run()
    assert done.returncode == 0
    assert len(before) == 3
    assert stamps(lab) == before
    assert "3 of 3 runs: 3 ok" in done.stdout


def test_more_repeats_add_runs_and_keep_the_old_ones(lab: SweepLab) -> None:
    lab.write(measure=THREE)
    lab.run("--repeats", "1")
    before = stamps(lab)
    done = lab.run("--repeats", "2")
    assert done.returncode == 0
    after = stamps(lab)
    assert len(after) == 2
    assert before.items() < after.items()
    assert "[2/2]" in done.stderr


@pytest.mark.slow
def test_failed_runs_are_made_again_only_when_asked(lab: SweepLab) -> None:
    trouble = lab.folder / "trouble"
    trouble.touch()
    lab.write(measure=THREE, options={"fault": "exit", "fault_while": str(trouble)})
    assert lab.run("--only", "framework=numpy").returncode == 3
    before = stamps(lab)
    assert len(before) == 3
    trouble.unlink()
    assert lab.run().returncode == 3
    assert stamps(lab) == before
    done = lab.run("--retry-failed")
    assert done.returncode == 0
    assert [result.status.value for result in lab.stored()] == ["ok", "ok", "ok"]


def test_a_changed_sweep_is_refused_with_what_changed(done: SweepLab) -> None:
    before = stamps(done)
    done.write(batch_size_per_device=4)
    refused = done.run()
    assert refused.returncode == 2
    assert "-batch_size_per_device: 2" in refused.stderr
    assert "+batch_size_per_device: 4" in refused.stderr
    assert stamps(done) == before


def test_a_selection_runs_a_part_and_the_rest_comes_later(lab: SweepLab) -> None:
    lab.write(batch_size_per_device=[2, 3])
    assert lab.run("--only", "batch_size_per_device=3").returncode == 0
    assert [result.case.batch_size_per_device for result in lab.stored()] == [3]
    assert lab.run().returncode == 0
    assert sorted(result.case.batch_size_per_device for result in lab.stored()) == [2, 3]


@pytest.mark.slow
def test_kill_9_of_dlperf_leaves_no_process_and_no_half_result(lab: SweepLab) -> None:
    """The promise: after five seconds nothing is left, a setsid grandchild that ignores SIGTERM included."""
    lab.write(options={**SLOW, "step_seconds": 1}, measure={**THREE, "measured_iterations": 600})
    process = lab.start()
    until(lambda: lab.logged('"step": 1'))
    assert len(lab.left()) >= 5  # dlperf, two halves of the supervisor, the rank, its grandchild
    process.kill()
    seconds = until(lambda: not lab.left(), limit=PROMISED_SECONDS)
    assert lab.stored() == []
    assert lab.outcome()["reason"] == "lease_lost"
    print(f"nothing left after {seconds:.2f} s")  # noqa: T201  a figure for the reader of -rP

    lab.write(options={**SLOW, "step_seconds": 1}, measure={**THREE, "measured_iterations": 600})
    again = lab.start()
    until(lambda: not lab.run_folders() or not (lab.run_folders()[0] / "outcome.json").exists())
    until(lambda: lab.logged('"step": 1'))
    again.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS)


@pytest.mark.parametrize(
    "left_behind",
    [
        [],
        ["case.json"],
        ["case.json", "environment.json"],
        ["case.json", "environment.json", "launch.json"],
        ["case.json", "environment.json", "launch.json", "logs/rank0.log"],
    ],
    ids=lambda names: names[-1] if names else "empty",
)
def test_whatever_a_killed_dlperf_left_is_made_anew(done: SweepLab, left_behind: list[str]) -> None:
    """Every state that the run folder goes through, as dlperf leaves it when it is killed right there."""
    (folder,) = done.run_folders()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and str(path.relative_to(folder)) not in left_behind:
            path.unlink()
    if "logs/rank0.log" in left_behind:
        log = folder / "logs" / "rank0.log"
        log.write_bytes(log.read_bytes()[:1000])
    assert done.run().returncode == 0
    (result,) = done.stored()
    assert result.status == "ok"
    assert result.figures is not None
    assert result.figures.accepted_steps == 3


def test_a_run_that_had_ended_by_itself_is_kept(done: SweepLab) -> None:
    """dlperf was killed after the ranks had ended and before the result was written."""
    (folder,) = done.run_folders()
    before = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    (folder / "steps.csv").unlink()
    started = json.loads((folder / "outcome.json").read_text())["started_at"]
    assert done.run().returncode == 0
    assert (folder / "result.json").read_bytes() == before
    assert done.outcome()["started_at"] == started


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_result_is_computed_again_from_whole_logs(done: SweepLab) -> None:
    (folder,) = done.run_folders()
    before = contents(folder)
    (folder / "result.json").write_bytes(before["result.json"][: len(before["result.json"]) // 2])
    told = f"/{folder.name}/result.json: damaged: not the JSON of a result; its result is computed again from"
    dry = done.run("--dry-run")
    assert told in dry.stderr
    assert (dry.returncode, contents(folder)["result.json"] != before["result.json"]) == (0, True)
    again = done.run()
    assert told in again.stderr
    assert again.returncode == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("result.json", "pipe"),
        ("result.json", "device"),
        ("result.json", "link to itself"),
        ("steps.csv", "device"),
        ("launch.json", "pipe"),
        ("launch.json", "device"),
        ("launch.json", "link to itself"),
        ("environment.json", "pipe"),
    ],
)
def test_what_is_no_regular_file_is_replaced_or_set_aside(done: SweepLab, name: str, kind: str) -> None:
    (folder,) = done.run_folders()
    before = contents(folder)
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else name)
    again = done.run()
    assert (again.returncode, "1 of 1 run: 1 ok" in again.stdout) == (0, True)
    aside = folder.with_name("r1.unreadable-1")
    if name in {"launch.json", "environment.json"}:
        assert f"{name}: not a regular file; r1.unreadable-1 keeps the folder" in again.stderr
        assert contents(aside) == {path: text for path, text in before.items() if path != name}
    else:
        assert contents(folder) == before
        assert not aside.exists()


def test_a_damaged_result_without_whole_logs_is_set_aside(done: SweepLab) -> None:
    (folder,) = done.run_folders()
    for number in (1, 2):
        log = folder / "logs" / "rank0.log"
        log.write_bytes(log.read_bytes()[:1000])
        (folder / "result.json").write_text(f"{number}")
        before = contents(folder)
        told = f"; r1.unreadable-{number} keeps the folder, and the run is made again"
        assert told in done.run("--dry-run").stderr
        assert contents(folder) == before
        again = done.run()
        assert told in again.stderr
        assert (again.returncode, "1 of 1 run: 1 ok" in again.stdout) == (0, True)
        assert contents(folder.with_name(f"r1.unreadable-{number}")) == before
    listed = done.dlperf("results", "results/tiny")
    assert (listed.returncode, "unreadable" in listed.stdout + listed.stderr) == (0, False)


def test_a_result_that_a_newer_dlperf_wrote_is_never_overwritten(done: SweepLab) -> None:
    (folder,) = done.run_folders()
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**content, "schema_version": 99, "novelty": 1}))
    before = contents(folder)
    for arguments in (["--dry-run"], [], ["--retry-failed"]):
        refused = done.run(*arguments)
        assert refused.returncode == 2
        told = "r1/result.json: schema version 99; this dlperf reads up to 1: use a newer dlperf, or give"
        assert told in refused.stderr
    assert contents(folder) == before


def test_two_dlperf_on_one_results_folder(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 600})
    first = lab.start()
    until(lambda: lab.logged("init_stop"))
    second = lab.run()
    assert second.returncode == 2
    assert second.stderr.startswith("dlperf: results/tiny: another dlperf is using this results folder")
    assert first.poll() is None
    first.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS)
    (folder,) = lab.run_folders()
    assert not (folder / "result.json").exists()


@pytest.mark.slow
def test_two_dlperf_on_one_machine_take_turns(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 600})
    first = lab.start()
    until(lambda: lab.logged("init_stop"))
    lab.write()
    refused = lab.run("--results", "other", "--no-wait")
    assert refused.returncode == 5
    assert "another dlperf is measuring on this machine" in refused.stderr
    second = lab.start("--results", "other")
    assert second.stderr is not None
    waiting = f"another dlperf is measuring on this machine (process {first.pid} of "
    line = second.stderr.readline()
    assert line.startswith(waiting)
    assert line.endswith("); waiting until it ends\n")
    first.terminate()
    assert first.wait() == 143
    second.communicate()
    assert second.returncode == 0


def test_a_dead_dlperf_holds_no_lock(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 600})
    first = lab.start()
    until(lambda: lab.logged("init_stop"))
    first.kill()
    first.wait()
    lab.write()
    done = lab.run("--results", "other", "--no-wait")
    assert done.returncode == 0


@pytest.mark.slow
def test_dlperf_that_stood_still_says_so_and_records_nothing(lab: SweepLab) -> None:
    """Suspended (Ctrl-Z, a sleeping laptop), it cannot renew the lease."""
    lab.write(options={"step_seconds": 600})
    process = lab.start()
    until(lambda: lab.logged("init_stop"))
    process.send_signal(signal.SIGSTOP)
    until((lab.run_folders()[0] / "outcome.json").exists)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate()
    assert process.returncode == 5
    assert "did not respond for more than" in errors
    assert lab.stored() == []


def test_a_supervisor_that_is_killed_makes_the_run_incomplete(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 600})
    process = lab.start()
    until(lambda: lab.logged("init_stop"))
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "supervisor.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    process.communicate()
    assert process.returncode == 3
    (result,) = lab.stored()
    assert result.status == "incomplete"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "plan.lock.json",
        "case.json",
        "environment.json",
        "launch.json",
        "rank0.log",
        "outcome.json",
        "steps.csv",
        "result.json",
    ],
)
def test_dlperf_is_killed_when_a_file_appears_and_goes_on(lab: SweepLab, name: str) -> None:
    lab.write(measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2})
    first = lab.start()
    until(lambda: list(lab.results.rglob(name)) or first.poll() is not None)
    first.kill()
    until(lambda: not lab.left(), limit=PROMISED_SECONDS)
    kept = stamps(lab)
    done = lab.run()
    assert done.returncode == 0
    assert kept.items() <= stamps(lab).items()
    assert [result.status.value for result in lab.stored()] == ["ok", "ok"]
    assert [result.figures.accepted_steps for result in lab.stored() if result.figures] == [3, 3]
