"""A case that goes wrong: what is stored, what is said, and that the sweep goes on."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sweep_lab import SweepLab

BROKEN_FIRST = {"fault": "exit", "fault_step": 1}


def two_cases(lab: SweepLab, options: dict[str, object], **keys: object) -> None:
    """The case of batch size 2, and one of batch size 3 that `options` make fail."""
    lab.write(include=[{"batch_size_per_device": 3, "options": {"numpy": options}}], **keys)


def by_batch(lab: SweepLab) -> dict[int, object]:
    return {result.case.batch_size_per_device: result.status.value for result in lab.stored()}


def test_a_good_run_is_stored_whole(lab: SweepLab) -> None:
    # The loss falls once the rank's eight batches come round again.
    lab.write(measure={"warmup_iterations": 1, "measured_iterations": 15, "repeats": 1})
    done = lab.run()
    assert done.returncode == 0
    (result,) = lab.stored()
    assert result.status == "ok"
    assert result.figures is not None
    assert result.figures.accepted_steps == 15
    assert result.figures.dropped_steps == 1
    assert result.figures.loss_last < result.figures.loss_first
    (folder,) = lab.run_folders()
    names = {path.name for path in folder.iterdir()}
    assert names - {"telemetry.csv"} == {  # a run may end before its sampler has started
        "case.json",
        "environment.json",
        "launch.json",
        "logs",
        "outcome.json",
        "result.json",
        "steps.csv",
    }
    assert done.stdout.splitlines()[-1] == "Next: dlperf report results/tiny --out report.md"


def test_the_environment_of_a_run_is_written_down(lab: SweepLab) -> None:
    lab.variables["NCCL_AUTH_TOKEN"] = "hunter2"  # noqa: S105  this is what must not be found again
    lab.write()
    lab.run()
    (folder,) = lab.run_folders()
    text = (folder / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["nodes"][0]["cores"] >= 1
    assert environment["nodes"][0]["memory_bytes"] > 2**28
    assert environment["nodes"][0]["cpu"]
    assert environment["nodes"][0]["load"] >= 0
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "numpy" in environment["packages"]
    assert environment["variables"]["OMP_NUM_THREADS"] == "1"
    redacted = {name for name, value in environment["variables"].items() if value == "(redacted)"}
    assert redacted == {"NCCL_AUTH_TOKEN", "EXAMPLE_API_KEY"}
    assert "hunter2" not in text
    assert len(environment["cpus"]["0"]) == 1


def test_what_an_adapter_and_the_user_set_together_is_written_down(lab: SweepLab) -> None:
    """The user's own value replaces a default, follows a search path, and reaches its engine alone."""
    lab.variables.update({"GLOO_EXAMPLE_2": "mine", "LD_LIBRARY_PATH": "/mine"})
    lab.variables.update({"EXAMPLE_SETTING": "mine", "MXNET_SETTING": "mine"})
    lab.write(options={"print_variables": "EXAMPLE_SETTING"})
    lab.run()
    (folder,) = lab.run_folders()
    variables = json.loads((folder / "environment.json").read_text())["variables"]
    names = ("GLOO_EXAMPLE", "GLOO_EXAMPLE_2", "LD_LIBRARY_PATH", "EXAMPLE_SETTING")
    assert ["default", "mine", "/example/lib:/mine", "mine"] == [variables[name] for name in names]
    assert lab.logged("EXAMPLE_SETTING is mine, of 4 characters")
    assert "MXNET_SETTING" not in variables


def test_one_failing_case_does_not_stop_the_sweep(lab: SweepLab) -> None:
    two_cases(lab, BROKEN_FIRST, measure={"warmup_iterations": 1, "measured_iterations": 3, "repeats": 2})
    done = lab.run()
    assert done.returncode == 3
    assert by_batch(lab) == {2: "ok", 3: "crash"}
    assert [result.repeat for result in lab.stored()] == [1, 2, 1, 2]
    table = done.stdout
    assert "numpy-" in table.partition(" r1 r2\n  crash: ")[0]
    assert "rank 0 ended with exit code 3: ValueError: asked to go wrong" in table
    assert "/r1/logs/rank0.log:" in table
    assert "dlperf run tiny.yaml --retry-failed" in table


def test_a_rank_that_is_killed_is_told_as_killed(lab: SweepLab) -> None:
    lab.write(options={"fault": "kill", "fault_step": 2})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status == "killed"
    assert lab.outcome()["ranks"][0]["signal"] == signal.SIGKILL


@pytest.mark.slow
def test_a_rank_that_hangs_meets_the_stall_limit(lab: SweepLab) -> None:
    lab.write(options={"fault": "hang", "fault_step": 2}, limits={"stall": 3, "time": 60})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status == "stalled"
    assert lab.outcome()["reason"] == "stall_limit"


@pytest.mark.slow
def test_a_run_that_takes_too_long_meets_the_time_limit(lab: SweepLab) -> None:
    lab.write(options={"step_seconds": 600}, limits={"time": 3, "stall": 60})
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status == "timeout"
    assert result.figures is None


def test_the_first_of_two_ranks_that_fails_ends_the_other(lab: SweepLab) -> None:
    lab.write(
        topology="1n2g",
        options={"fault": "exit", "fault_rank": 1, "fault_step": 1, "step_seconds": 0.5},
        measure={"warmup_iterations": 1, "measured_iterations": 600, "repeats": 1},
    )
    assert lab.run().returncode == 3
    (result,) = lab.stored()
    assert result.status == "crash"
    assert lab.outcome()["first_failed_rank"] == 1
    assert lab.outcome()["ranks"][0]["signal"] == signal.SIGTERM


def test_two_ranks_have_a_core_each(lab: SweepLab) -> None:
    lab.write(topology="1n2g")
    assert lab.run().returncode == 0
    (folder,) = lab.run_folders()
    ranks = json.loads((folder / "launch.json").read_text())["ranks"]
    cores = [tuple(rank["cpus"]) for rank in ranks]
    assert [len(core) for core in cores] == [1, 1]
    assert cores[0] != cores[1]
    assert {rank["env"]["DLPERF_MASTER_PORT"] for rank in ranks} != {"0"}


def test_a_framework_that_cannot_be_had_takes_its_own_cases_out_alone(lab: SweepLab) -> None:
    """A Python without the framework: the reason is stored and told, the other framework is measured."""
    bare = lab.folder / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    lab.write(
        include=[{"frameworks": [{"name": "numpy", "version": "9.9", "python": str(bare)}]}],
    )
    done = lab.run()
    assert done.returncode == 3
    statuses = {result.case.version: (result.status.value, result.reason) for result in lab.stored()}
    version = next(version for version in statuses if version != "9.9")
    assert statuses[version] == ("ok", None)
    status, reason = statuses["9.9"]
    assert status == "not_measured"
    assert reason is not None
    assert str(bare) in reason
    assert "skipping " in done.stderr
    assert "not_measured" in done.stdout


def test_what_could_not_be_had_is_tried_again_without_being_asked(lab: SweepLab) -> None:
    python = lab.folder / "python"
    lab.write(frameworks=[{"name": "numpy", "python": str(python)}])
    assert lab.run().returncode == 3
    assert [result.status.value for result in lab.stored()] == ["not_measured"]
    python.symlink_to(sys.executable)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert lab.run().returncode == 0
    assert [result.status.value for result in lab.stored()] == ["ok"]


def test_an_interpreter_that_disappears_is_a_failed_run(lab: SweepLab) -> None:
    """Between the check of the environment and the start of a rank."""
    python = lab.folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        # The check asks twice with -c; a rank is started with a program.
        f'case "$1" in -c) exec {sys.executable} "$@";; esac\n'
        "exit 127\n"
    )
    python.chmod(0o755)
    lab.write(frameworks=[{"name": "numpy", "python": str(python)}])
    done = lab.run()
    assert done.returncode == 3
    (result,) = lab.stored()
    assert result.status == "crash"
    assert "exit code 127" in (result.reason or "")


@pytest.mark.parametrize("name", ["NCLL_DEBUG", "HORVOD_TIMELINE", "ONEFLWO_DEBUG", "MXNT_ENGINE_TYPE"])
def test_a_misspelt_engine_variable_is_warned_of_once(lab: SweepLab, name: str) -> None:
    lab.variables[name] = "1"
    lab.write(measure={"warmup_iterations": 1, "measured_iterations": 1, "repeats": 2})
    done = lab.run()
    assert done.returncode == 0
    assert done.stderr.count(name) == 1
    assert f"the variable {name} is read by no engine; did you mean" in done.stderr
