"""A prepared GPU session: its dry run on the CPU, its plan, what it packs, and how stages end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_session
from gpu_session import Session, Stage, StageError
from gpu_summary import summary

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    pythons = {"torch_python": sys.executable, "jax_python": sys.executable}
    made = Session(sizes=gpu_session.ON_GPU, out=tmp_path / "out", **pythons, seconds=100)
    (made.work / "logs").mkdir(parents=True)
    return made


def stage(do: Callable[[Session], dict[str, Any]], *, expected: int = 1, limit: int = 10) -> Stage:
    return Stage(name="it", expected=expected, limit=limit, what="", do=do)


def test_what_a_stage_finds_is_kept_and_runs_are_collected(session: Session) -> None:
    for number in (1, 2):
        gpu_session.attempt(session, stage(lambda _, n=number: {"runs": [n], "last": n}))

    assert {"runs": [1, 2], "last": 2} == session.found
    assert ["ok", "ok"] == [row["status"] for row in session.stages]


def test_a_stage_that_fails_is_recorded_and_leaves_the_next_alone(session: Session) -> None:
    def fail(_: Session) -> dict[str, Any]:
        raise StageError("no")

    gpu_session.attempt(session, stage(fail))
    gpu_session.attempt(session, stage(lambda _: {}))

    assert [("failed", "no"), ("ok", "")] == [(row["status"], row["reason"]) for row in session.stages]


def test_a_stage_without_half_of_its_time_left_is_skipped(session: Session) -> None:
    gpu_session.attempt(session, stage(lambda _: {"ran": True}, expected=200))

    assert "skipped" == session.stages[0]["status"]
    assert {} == session.found


def test_a_command_that_does_not_end_is_stopped_at_the_limit_with_its_children(session: Session) -> None:
    def wait(session: Session) -> dict[str, Any]:
        session.finish(session.start(["sh", "-c", "sleep 600 & wait"], log="wait"), log="wait")
        return {}

    gpu_session.attempt(session, stage(wait, limit=0))

    assert "stopped at its limit; see logs/wait.log" == session.stages[0]["reason"]


def test_a_command_that_fails_is_shown_with_its_last_line(session: Session) -> None:
    def fail(session: Session) -> dict[str, Any]:
        session.finish(session.start(["sh", "-c", "echo broken; exit 3"], log="fail"), log="fail")
        return {}

    gpu_session.attempt(session, stage(fail))

    assert "exit code 3: broken" == session.stages[0]["reason"]


def test_the_plan_ends_within_the_time_but_for_its_last_stages() -> None:
    before_the_last_three = sum(one.expected for one in gpu_session.STAGES[:-3])

    assert before_the_last_three + gpu_session.RESERVE_SECONDS <= gpu_session.SECONDS
    assert all(f"\n{one.name} " in gpu_session.plan_text() for one in gpu_session.STAGES)


def test_without_torch_compile_the_runs_are_eager_and_the_summary_says_so(session: Session) -> None:
    (session.work / "sweeps").mkdir()
    about = {"engine": {"version": "2.11.0"}, "flops_per_second": {}, "fp32_arithmetic": {}}
    session.found |= {"torch_version": "2.11.0", "facts": {**about, "compile_error": ""}}
    compiled = json.loads(session.sweep("runs").read_text())
    session.found["facts"]["compile_error"] = "InductorError: no Python.h"
    eager = json.loads(session.sweep("runs").read_text())

    assert ({}, {"compile": False}) == (compiled["options"]["pytorch"], eager["options"]["pytorch"])
    assert "all runs are eager:** InductorError: no Python.h" in summary({"stages": [], **session.found})


def test_a_batch_that_is_too_large_is_so_for_memory_alone() -> None:
    largest = gpu_session.LARGEST_BATCH * 64 * 112 * 112  # elements of IResNet's first maps
    assert 0.98 * 2**31 < largest < 2**31


def test_a_summary_without_any_finding_still_lists_the_stages() -> None:
    row = {"stage": "facts", "status": "failed", "seconds": 1.0, "reason": "no | driver"}

    assert "| facts | failed | 1.0 | no / driver |" in summary({"stages": [row]})


@pytest.mark.parametrize("packed", ["new = 1\n", "old = 1\n"])
def test_code_that_was_packed_before_it_changed_is_not_measured(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkout of two files, and a program in place of the session that only says that it runs."""
    files = {"dlperf/code.py": "new = 1\n", "frameworks/code.py": "1\n"}
    inside = {"dlperf/code.py": packed, "dlperf/_shipped/frameworks/code.py": "1\n"}
    script = (ROOT / "benchmarks/gpu_session.sh").read_text()
    files |= {"benchmarks/gpu_session.sh": script, "benchmarks/gpu_session.py": "print('it runs')\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "build/gpu_session").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "build/gpu_session/site.zip", "w") as archive:
        for name, text in inside.items():
            archive.writestr(name, text)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    command = ["bash", str(tmp_path / "benchmarks/gpu_session.sh"), "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    is_same = packed == files["dlperf/code.py"]
    assert (0 if is_same else 1, is_same) == (done.returncode, "it runs" in done.stdout), done.stderr
    assert is_same or "has other code than this checkout: pack again" in done.stderr


@pytest.mark.slow
def test_what_is_packed_leaves_out_only_what_the_machine_has_and_what_a_run_does_not_import() -> None:
    """What is named in the script and no longer in the lock would leave out nothing."""
    line = next(
        line
        for line in (ROOT / "benchmarks/gpu_session.sh").read_text().splitlines()
        if line.startswith("left_out=")
    )
    left_out = set(line.partition("=")[2].strip('"').split())
    locked = {
        package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    commands = (
        "dlperf.cli.run, dlperf.cli.align, dlperf.cli.limit, dlperf.report.verify, dlperf.report.charts"
    )
    imports = f"import sys, {commands}; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)

    assert set() == left_out - locked.keys()
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert set() == (left_out - {"numpy", "scipy"}) & loaded


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1200)  # a session skips what no time is left for, however busy the machine is
def test_every_stage_runs_dry_on_the_cpu_and_leaves_few_files(
    engine_python: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLPERF_HOST_LOCK", str(tmp_path / "host.lock"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("TORCH_PYTHON", str(engine_python("pytorch")))
    monkeypatch.setenv("JAX_PYTHON", str(engine_python("jax")))
    command = ["bash", "benchmarks/gpu_session.sh", "dry-run", "--seconds", "1100"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1150)

    found = json.loads((tmp_path / "out/summary.json").read_text())
    assert {"ok"} == {row["status"] for row in found["stages"]}, done.stdout + done.stderr
    assert 0 == done.returncode
    assert [one.name for one in gpu_session.STAGES] == [row["stage"] for row in found["stages"]]
    states = [row["status"] for row in found["runs"]]
    assert "oom" in states
    good = {(row["framework"], row["precision"]) for row in found["runs"] if row["status"] == "ok"}
    assert {("pytorch", "fp32"), ("pytorch", "bf16"), ("jax", "fp32")} == good
    assert {"upstream", "dlperf", "dlperf_all_rows"} == found["turns"]["samples_per_second"].keys()
    assert {"evidence.tar.gz", "report.md", "summary.json", "summary.md"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    with tarfile.open(tmp_path / "out/evidence.tar.gz") as archive:
        names = archive.getnames()
    assert any(name.endswith("/result.json") for name in names)
    assert "results/align_bf16/align-data-1n1g-bf16.json" in names
