"""`max` in a sweep, for real: processes run out of a memory budget, searches are killed and go on."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from processes import until

from dlperf.cli import main
from dlperf.results.schema import LimitRecord, LimitStatus
from dlperf.results.store import read_limits

if TYPE_CHECKING:
    from sweep_lab import SweepLab

pytestmark = pytest.mark.slow

# A batch of the numpy framework takes some 0.4 MB an image beside the 60 MB of Python and numpy themselves.
GRANULARITY, UPPER = 100, 3000
SEARCH = {"iterations": 3, "batch_size_per_device": {"granularity": GRANULARITY, "upper": UPPER}}
MAX: dict[str, Any] = {"batch_size_per_device": "max", "memory": "256MiB", "search": SEARCH}


def searched(lab: SweepLab) -> LimitRecord:
    (limit,) = read_limits(lab.results)
    return limit.record


def report(lab: SweepLab, name: str) -> Result:
    """Written in this process, which has loaded what it takes."""
    return CliRunner().invoke(main, ["report", str(lab.results), "--out", str(lab.folder / name)])


def probes_made(lab: SweepLab) -> dict[Path, int]:
    files = (lab.results / "limits").glob("*/runs/*/r*/result.json")
    return {file: file.stat().st_mtime_ns for file in files}


def groups_left() -> list[Path]:
    """Control groups of supervisors that are gone; other sweeps may go on beside the tests."""
    found = Path("/sys/fs/cgroup").rglob("dlperf-*-rank*")
    return [group for group in found if not Path("/proc", group.name.split("-")[1]).exists()]


def test_the_limit_is_found_confirmed_and_measured_at(lab: SweepLab) -> None:
    lab.write(**MAX)
    done = lab.run()
    assert done.returncode == 0, done.stderr
    record = searched(lab)
    assert LimitStatus.FOUND is record.status
    assert record.trains is not None
    assert record.trains + GRANULARITY == record.fails
    told = {(probe.value, probe.full): probe.status for probe in record.probes}
    assert "ok" == told[record.trains, True]
    assert "oom" == told[record.fails, False]
    assert sum(not probe.full for probe in record.probes) <= math.log2(UPPER / GRANULARITY) + 3
    assert {"cgroup", "rlimit_data"} >= {probe.memory_held_by for probe in record.probes}
    (result,) = lab.stored()
    assert record.trains == result.case.batch_size_per_device
    assert "_bmax_" in result.case.case_id
    assert "_256MiB-" in result.case.case_id
    assert lab.run_folders()[0].parent.name == result.case.case_id
    said = f"limit found in {len(record.probes)} probes; {record.trains} trains, {record.fails} does not"
    assert said in done.stderr
    assert said in done.stdout
    assert report(lab, "report.md").exit_code == 0
    assert said in (lab.folder / "report.md").read_text()
    assert CliRunner().invoke(main, ["report", "--verify", str(lab.folder / "report.md")]).exit_code == 0
    before = probes_made(lab)
    again = lab.run("--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["limits"][0]["trains"] == record.trains
    assert before == probes_made(lab)
    assert [] == groups_left()


def test_a_search_killed_half_way_repeats_no_finished_probe(lab: SweepLab) -> None:
    """This dlperf kills itself when the fourth probe has its result: whoever watches it may be late."""
    lab.patch(
        "import os\n"
        "replace, made = os.replace, []\n"
        "def count(source, target):\n"
        "    made.extend([target] if str(target).endswith('result.json') else [])\n"
        "    if len(made) == 4: os.kill(os.getpid(), 9)\n"
        "    replace(source, target)\n"
        "os.replace = count\n"
    )
    lab.write(**MAX)
    killed = lab.run()
    assert killed.returncode == -signal.SIGKILL
    until(lambda: not lab.left(), what="the killed dlperf's ranks are gone")
    del lab.variables["PYTHONPATH"]
    before = probes_made(lab)
    assert len(before) == 3
    done = lab.run()
    assert done.returncode == 0, done.stderr
    after = probes_made(lab)
    assert before.items() < after.items()
    record = searched(lab)
    assert LimitStatus.FOUND is record.status
    assert len(after) == len(record.probes)


def test_more_classes_than_fit_are_found_in_steps_too(lab: SweepLab) -> None:
    classes = {"granularity": 100, "upper": 2000}
    lab.write(num_classes="max", memory="256MiB", search={"iterations": 2, "num_classes": classes})
    assert lab.run().returncode == 0
    record = searched(lab)
    assert record.trains is not None
    assert lab.stored()[0].case.num_classes == record.trains
    assert record.trains % 100 == 0


def test_a_probe_that_fails_for_anything_but_memory_is_no_limit(lab: SweepLab) -> None:
    trouble = lab.folder / "trouble"
    trouble.touch()
    lab.write(**MAX, options={"fault": "exit", "fault_while": str(trouble)})
    done = lab.run()
    assert done.returncode == 3
    record = searched(lab)
    assert LimitStatus.BROKEN is record.status
    assert [1, 2] == [probe.attempt for probe in record.probes]
    assert "failed twice, and not for lack of memory: crash" in record.reason
    assert record.reason in done.stdout
    (result,) = lab.stored()
    assert "not_measured" == result.status
    assert lab.run().returncode == 3  # remembered, not made again
    trouble.unlink()
    again = lab.run("--retry-failed")
    assert again.returncode == 0, again.stderr
    assert LimitStatus.FOUND is searched(lab).status


def test_what_trains_for_a_few_iterations_alone_is_not_the_limit(lab: SweepLab) -> None:
    """A leak: 10 MB an iteration fill the budget in a run of full length, not in a probe."""
    measure = {"warmup_iterations": 0, "measured_iterations": 12, "repeats": 1}
    lab.write(**MAX, measure=measure, options={"leak_bytes": 10_000_000})
    assert lab.run().returncode == 0
    record = searched(lab)
    assert LimitStatus.FOUND is record.status
    full = [(probe.value, probe.status.value) for probe in record.probes if probe.full]
    assert "oom" == full[0][1]
    assert (record.trains, "ok") in full
    assert (record.fails, "oom") in full


def test_a_run_that_runs_out_of_memory_at_the_limit_moves_the_limit_down(lab: SweepLab) -> None:
    """What trained when it was searched for and measured first does not, once every iteration leaks."""
    leaks = lab.folder / "leaks"
    measure = {"warmup_iterations": 0, "measured_iterations": 12, "repeats": 1}
    lab.write(**MAX, measure=measure, options={"leak_bytes": 10_000_000, "leak_while": str(leaks)})
    assert lab.run().returncode == 0
    first = searched(lab)
    assert first.trains is not None
    before = probes_made(lab)
    leaks.touch()
    done = lab.run("--repeats", "2")
    assert done.returncode == 0, done.stderr
    assert "a run ran out of memory at the limit; searching below it" in done.stderr
    record = searched(lab)
    assert LimitStatus.FOUND is record.status
    assert record.trains is not None
    assert record.trains < first.trains
    assert before.items() < probes_made(lab).items()
    measured = [(probe.value, probe.status.value) for probe in record.probes if "_bmax_" in probe.folder]
    assert [(first.trains, "ok"), (first.trains, "oom")] == measured
    assert [record.trains] * 2 == [result.case.batch_size_per_device for result in lab.stored()]
    assert report(lab, "report.md").exit_code == 0
    assert CliRunner().invoke(main, ["report", "--verify", str(lab.folder / "report.md")]).exit_code == 0
    before = probes_made(lab)
    assert lab.run("--repeats", "2").returncode == 0
    assert before == probes_made(lab)
    assert record == searched(lab)


@pytest.mark.parametrize(
    ("keys", "status", "reason"),
    [
        (
            {"memory": "12MiB"},
            LimitStatus.NOTHING_TRAINS,
            "the memory budget of 12MiB is less than numpy needs before training starts: raise it",
        ),
        (
            {"search": {"iterations": 2, "batch_size_per_device": {"granularity": 5000}}},
            LimitStatus.NOTHING_TRAINS,
            "the smallest value, batch_size_per_device 5000, does not train: ",
        ),
        (
            {"search": {"iterations": 2, "batch_size_per_device": {"granularity": 2, "upper": 5}}},
            LimitStatus.BEYOND_UPPER,
            "batch_size_per_device 4 trains, and no larger value is allowed: raise the upper bound",
        ),
    ],
)
def test_a_case_without_a_limit_says_why_in_one_line(
    lab: SweepLab, keys: dict[str, Any], status: LimitStatus, reason: str
) -> None:
    lab.write(**MAX | keys)
    done = lab.run()
    assert done.returncode == 3
    record = searched(lab)
    assert status is record.status
    assert reason in record.reason
    assert record.reason in done.stdout
    (result,) = lab.stored()
    assert record.reason == result.reason
    assert report(lab, "report.html").exit_code == 0


def test_a_budget_holds_for_runs_without_a_search_too(lab: SweepLab) -> None:
    lab.write(batch_size_per_device=2000)
    done = lab.run("--memory", "256MiB")
    assert done.returncode == 3
    (result,) = lab.stored()
    assert "oom" == result.status
    assert 256 << 20 == result.case.memory_bytes
    assert result.memory_held_by in {"cgroup", "rlimit_data"}
