"""`dlperf run` as a person meets it: what it prints, where it goes, how it ends."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from run_folders import make_case
from sweep_lab import SweepLab

from dlperf.cli import main
from dlperf.cli import progress as run_progress
from dlperf.cli.progress import Estimate, SweepProgress
from dlperf.logs.events import Step
from dlperf.logs.text import ANSI
from dlperf.plan.case import Measure
from dlperf.results.schema import RunResult, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dlperf.plan.case import Case


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SweepLab]:
    made = SweepLab(tmp_path)
    with made.stack:
        yield made


@pytest.fixture
def run_here(lab: SweepLab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`dlperf run tiny.yaml ARGUMENTS` in this process: for what starts nothing."""

    def run(*arguments: str) -> Result:
        monkeypatch.chdir(lab.folder)
        for name, value in lab.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(lab.environment()["PYTHONPATH"])
        return CliRunner().invoke(main, ["run", "tiny.yaml", *arguments])

    return run


def test_a_wrong_sweep_ends_before_anything_is_written(
    lab: SweepLab, run_here: Callable[..., Result]
) -> None:
    lab.write(batchsize=3)
    done = run_here()
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "tiny.yaml:" in done.stderr
    assert "unknown key 'batchsize' (did you mean 'batch_size_per_device'?)" in done.stderr
    assert not lab.results.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "framework=mxnet"), "nothing selected"),
        (("-k", "frame=="), "-k: column"),
        (("--repeats", "0"), "--repeats"),
        (("-S", "measure.repeats=none"), "-S measure.repeats=none"),
    ],
)
def test_a_wrong_option_ends_before_anything_is_written(
    lab: SweepLab, run_here: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    lab.write()
    done = run_here(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not lab.results.exists()


def test_a_dry_run_shows_every_process_and_starts_none(
    lab: SweepLab, run_here: Callable[..., Result]
) -> None:
    lab.variables |= {"NCCL_DEBUG": "WARN", "NCCL_TOKEN": "hunter2"}
    lab.write(topology="1n2g")
    done = run_here("--dry-run")
    assert done.exit_code == 0
    assert "tiny: 1 case, 1 run" in done.stdout
    assert "#   NCCL_DEBUG=WARN" in done.stdout
    assert "hunter2" not in done.stdout
    assert "not for other eyes" not in done.stdout
    commands = [line for line in done.stdout.splitlines() if line.startswith("taskset -c ")]
    assert [command.split()[2] for command in commands] == ["0", "1"]
    assert [" DLPERF_RANK=0 " in command for command in commands] == [True, False]
    assert all(command.endswith("/r1/case.json") for command in commands)
    assert not lab.results.exists()


def test_a_dry_run_on_a_cluster_shows_every_node_and_connects_to_none(
    lab: SweepLab, run_here: Callable[..., Result]
) -> None:
    (lab.folder / "two.yaml").write_text(
        "devices: 1\ncores: 1\ndevice: cpu\nfolder: /scratch\nnodes: [no-such-host-a, no-such-host-b]\n"
        "environment: {SOME_TOKEN: hunter2, NCCL_ODD: a b}\n"
    )
    lab.write(topology="2n1g")
    done = run_here("--cluster", "two.yaml", "--dry-run")
    assert done.exit_code == 0, done.stderr
    for name in ("no-such-host-a", "no-such-host-b"):
        assert f"# on {name}\n" in done.stdout
        assert f"#   on {name}: NCCL_ODD='a b'\n" in done.stdout
        assert f"#   on {name}: SOME_TOKEN='(redacted)'\n" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert " PYTHONPATH=/scratch/dlperf-node/code/" in done.stdout


@pytest.mark.slow
def test_a_dry_run_shows_what_the_run_then_starts(lab: SweepLab) -> None:
    lab.variables.update({"GLOO_EXAMPLE_2": "mine", "LD_LIBRARY_PATH": "/mine", "EXAMPLE_SETTING": "mine"})
    lab.write()
    lines = lab.run("--dry-run").stdout.splitlines()
    assert "#   EXAMPLE_SETTING=mine" in lines
    shown = lines[-1].split()
    lab.run()
    (folder,) = lab.run_folders()
    rank = json.loads((folder / "launch.json").read_text())["ranks"][0]
    assert shown[-3:] == rank["argv"]
    shown_variables = dict(word.strip("'").partition("=")[::2] for word in shown[4:-3] if "=" in word)
    real = {name: value for name, value in rank["env"].items() if "KEY" not in name}
    real.update(
        {"GLOO_EXAMPLE": "default", "GLOO_EXAMPLE_2": "mine", "LD_LIBRARY_PATH": "/example/lib:/mine"}
    )
    del shown_variables["EXAMPLE_API_KEY"]
    assert shown_variables.pop("DLPERF_MASTER_PORT") == "0"
    assert real.pop("DLPERF_MASTER_PORT") != "0"
    assert shown_variables == real
    assert shown[:3] == ["taskset", "-c", ",".join(map(str, rank["cpus"]))]


@pytest.mark.slow
def test_a_run_ends_with_its_figures_and_what_to_do_next(lab: SweepLab) -> None:
    lab.write(
        include=[{"batch_size_per_device": 3, "options": {"numpy": {"fault": "exit"}}}],
        measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2, "max_interference": 1},
    )
    done = lab.run()
    lines = done.stdout.splitlines()
    assert "tiny: 4 of 4 runs: 2 ok, 2 crash" == lines[0]
    (case,) = [line for line in lines if line.endswith(" r1 r2")]
    status, evidence = lines[lines.index(case) + 1 :][:2]
    assert status.startswith("  crash: ")
    log, line, _ = evidence.strip().split(":", 2)
    assert (lab.folder / log).read_text().splitlines()[int(line) - 1]
    (same,) = [line for line in lines if line.startswith("every case: experiment ")]
    headings, *rows = lines[lines.index(same) + 2 :][:3]
    assert "framework batch status runs ok samples/s min to max" == " ".join(headings.split())
    assert {"ok", "crash"} == {row.split()[3] for row in rows}
    (good,) = [row for row in rows if row.split()[3] == "ok"]
    assert re.search(r" ok +2 of 2 +[\d.]+ +[\d.]+ to [\d.]+$", good)
    assert "Next: dlperf report results/tiny --out report.md" == lines[-1]


@pytest.mark.slow
def test_a_quiet_run_prints_its_summary_alone(lab: SweepLab) -> None:
    lab.write()
    done = lab.run("--quiet")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("tiny: 1 of 1 run: 1 ok\n")


@pytest.mark.slow
def test_the_summary_as_json(lab: SweepLab) -> None:
    lab.write(include=[{"batch_size_per_device": 3, "options": {"numpy": {"fault": "exit"}}}])
    done = lab.run("--json", "--results", "elsewhere")
    assert done.returncode == 3
    summary = json.loads(done.stdout)
    assert summary["results"] == "elsewhere"
    assert summary["planned_runs"] == 2
    assert summary["counts"] == {"ok": 1, "crash": 1}
    by_status = {run["status"]: run for run in summary["runs"]}
    assert by_status["ok"]["samples_per_sec"] > 0
    assert by_status["ok"]["reason"] is None
    assert by_status["crash"]["samples_per_sec"] is None
    assert "exit code 3" in by_status["crash"]["reason"]
    assert by_status["crash"]["evidence"].startswith("logs/rank0.log:")
    assert (lab.folder / by_status["ok"]["folder"] / "result.json").exists()
    assert "started" in done.stderr


def test_a_sweep_of_which_nothing_can_run_says_so(lab: SweepLab) -> None:
    lab.write(topology="2n1g")
    done = lab.run()
    assert done.returncode == 3
    assert "tiny: 0 of 0 runs: none" in done.stdout
    assert "cases not planned: 1 unavailable (why: dlperf run tiny.yaml --dry-run)" in done.stdout
    assert "Next:" not in done.stdout


def test_a_results_folder_that_is_a_file_is_told(lab: SweepLab) -> None:
    lab.write()
    (lab.folder / "taken").write_text("")
    done = lab.run("--results", "taken")
    assert done.returncode == 2
    assert done.stderr == "dlperf: taken: File exists; choose another folder with --results DIR\n"


class TestProgress:
    """Lines for a pipe or a log of CI."""

    @pytest.fixture
    def case(self) -> Case:
        return make_case(framework="numpy", measure=Measure(warmup_iterations=1, measured_iterations=3))

    def test_a_run_speaks_when_it_starts_once_a_minute_and_when_it_ends(
        self, case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        progress = SweepProgress(known_seconds={case.case_id: 30.0}, cases=[case.case_id] * 2)
        progress.planned(total=3, done=1)
        progress.started(case, repeat=2)
        progress.ticked()
        progress.stepped(Step(step=0, samples=8, seconds=4.0, kind="warmup", loss=1.0))
        progress.stepped(Step(step=1, samples=8, seconds=2.0, kind="train", loss=1.0))
        progress.stepped(Step(step=2, samples=8, seconds=1.0, kind="train", loss=1.0))
        monkeypatch.setattr(run_progress, "_HEARTBEAT_SECONDS", 0.0)
        progress.ticked()
        failed = RunResult(dlperf_version="1", case=case, repeat=2, status=Status.CRASH, reason="exit code 3")
        progress.ended(failed)
        progress.finished()
        assert capsys.readouterr().err.splitlines() == [
            "3 runs, 1 of them done before",
            f"[2/3] {case.case_id} r2: started",
            # 16 samples in 3 seconds; the warm-up step is another kind and does not count
            f"[2/3] {case.case_id} r2: running for 0 s, step 3 of 4, 5.3 samples/s; about 60 s left",
            f"[2/3] {case.case_id} r2: crash: exit code 3; about 30 s left",
        ]

    def test_nothing_is_estimated_before_a_run_has_ended(self, case: Case) -> None:
        assert Estimate({}, [case.case_id]).left_seconds() is None

    def test_a_case_that_never_ran_is_estimated_by_the_others(self, case: Case) -> None:
        assert Estimate({"a": 10.0, "b": 30.0}, ["a", case.case_id]).left_seconds() == 10.0 + 20.0

    def test_a_terminal_shows_a_bar_with_the_current_run(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, width=60, legacy_windows=False)
        progress = SweepProgress(known_seconds={}, cases=[case.case_id], console=console)
        progress.planned(total=1, done=0)
        progress.started(case, repeat=1)
        progress._started -= 42
        monkeypatch.setattr(run_progress, "_REDRAW_SECONDS", 0.0)
        progress.ticked()
        progress.stepped(Step(step=0, samples=8, seconds=4.0, kind="warmup", loss=1.0))
        progress.ended(RunResult(dlperf_version="1", case=case, repeat=1, status=Status.CRASH, reason="[b]x"))
        progress.finished()
        shown = ANSI.sub(b"", console.file.getvalue().encode()).decode()
        assert f"[1/1] {case.case_id}" in shown.replace("\n", "")
        assert "0/1  numpy 1n1g r1: starting for 42 s" in shown
        assert "crash: [b]x" in shown
        assert "1/1  numpy 1n1g r1: step 1 of 4 (warm-up)" in shown


SECRETS = {
    "PIP_INDEX_URL": "http://me:hunter2@127.0.0.1:1/simple",
    "DB_URL": "postgres://me:hunter2@db/x",
    "AUTHORIZATION": "Bearer hunter2",
    "HF_PASS": "hunter2",
    "NCCL_AUTH": "hunter2",
    "NCCL_COOKIE": "hunter2",
    "MKL_PWD": "hunter2",
    "UCX_PROXY": "http://me:hunter2@proxy:3128",
    "TORCH_HUB": "https://host/x?token=hunter2",
    "NCCL_DEBUG": "WARN",
}


@pytest.mark.slow
def test_no_secret_of_the_environment_is_stored_or_shown(lab: SweepLab) -> None:
    """Looked for in every file of the results and in everything that the commands print."""
    lab.variables |= SECRETS
    lab.write()
    shown = [lab.run("--dry-run"), lab.run(), lab.dlperf("show", "numpy"), lab.dlperf("explain", "numpy")]
    assert [0, 0, 0, 0] == [done.returncode for done in shown]
    assert not [done.args for done in shown if "hunter2" in done.stdout + done.stderr]
    files = [path for path in lab.results.rglob("*") if path.is_file()]
    assert [] == [path for path in files if b"hunter2" in path.read_bytes()]
    (folder,) = lab.run_folders()
    variables = json.loads((folder / "environment.json").read_text())["variables"]
    assert "WARN" == variables["NCCL_DEBUG"]
    assert "(redacted)" == variables["NCCL_AUTH"]
    assert "http://(redacted)@proxy:3128" == variables["UCX_PROXY"]


def test_no_secret_of_a_cluster_file_is_shown(lab: SweepLab, run_here: Callable[..., Result]) -> None:
    lab.write()
    environment = "\n".join(f"  {name}: '{value}'" for name, value in SECRETS.items())
    (lab.folder / "two.yaml").write_text(
        f"device: cpu\ndevices: 1\ncores: 2\nnodes: [a, b]\nenvironment:\n{environment}\n"
    )
    done = run_here("--cluster", "two.yaml", "--dry-run")
    assert 0 == done.exit_code
    assert "hunter2" not in done.stdout + done.stderr
    assert "on a: DB_URL='(value not stored)'" in done.stdout
    assert "on b: NCCL_DEBUG=WARN" in done.stdout
