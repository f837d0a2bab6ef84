"""`dlperf plan`: the table, the order, the commands, and what is refused."""

# ruff: noqa: E501 - a line of output is one line

from __future__ import annotations

import csv
import json
import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from dlperf.adapters.registry import load_adapters
from dlperf.cli import main
from dlperf.cli.plan import warn
from dlperf.plan.case import DataSet
from dlperf.plan.load import load_sweep, value_setting
from dlperf.plan.machine import Machine
from dlperf.plan.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.plan.plan import Plan

SWEEP = """\
experiment: quickstart
frameworks: [mxnet==1.9.1, pytorch==2.13.0]
topology: [1n1g, 9n1g]
batch_size_per_device: [4, 8]
device: cpu
threads_per_device: 1
exclude: [{when: {framework: mxnet, batch_size_per_device: 8}, why: "known [and listed] elsewhere"}]
measure: {repeats: 2}
"""


@pytest.fixture
def dlperf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `dlperf` in a folder with sweeps/mine.yaml."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *words: CliRunner().invoke(main, words)


def good(result: Result) -> str:
    assert (0, "") == (result.exit_code, result.stderr)
    return result.stdout


def test_the_table_shows_every_case_with_its_status_and_reason(dlperf: Callable[..., Result]) -> None:
    lines = good(dlperf("plan", "mine")).splitlines()
    assert lines[0].startswith("mine: 8 cases, 6 runs (2 of each runnable case, interleaved) on ")
    assert (
        "every case: experiment quickstart, parallelism data, classes 500, precision fp32, device cpu, threads 1"
        == lines[1]
    )
    assert "options of pytorch: " == lines[2][: len("options of pytorch: ")]
    rows = [line.split(maxsplit=6) for line in lines[5:13]]
    assert ["mxnet", "1.9.1", "1n1g", "4", "2", "runnable"] == rows[0]
    assert ["mxnet", "1.9.1", "1n1g", "8", "0", "excluded", "known [and listed] elsewhere"] == rows[4]
    # Whose limit it is, the engine's or the machine's, may change as the engines grow.
    assert ["pytorch", "2.13.0", "9n1g", "8", "0"] == rows[7][:5]
    assert rows[7][5] in ("unavailable", "unsupported")
    assert rows[7][6]
    assert lines[-1].startswith("3 runnable, ")
    assert lines[-1].endswith(", 2 excluded")


def test_of_unlike_nodes_it_says_what_all_have(dlperf: Callable[..., Result], tmp_path: Path) -> None:
    nodes = "- {name: a, gpu: {name: V100, capability: 7.0}}\n- {name: b, cores: 32, gpu: {name: H200, capability: 9.0}}\n"
    (tmp_path / "c.yaml").write_text(f"devices: 8\ncores: 64\nnodes:\n{nodes}")
    lines = dlperf("plan", "mine", "--cluster", "c.yaml", "-S", "device=cuda").stdout.splitlines()
    assert lines[0].endswith(" on cluster c: 2 nodes with at least 32 CPU cores, 8 x V100")


def test_json_holds_flat_cases_and_the_runs_in_order(dlperf: Callable[..., Result]) -> None:
    content = json.loads(good(dlperf("plan", "sweeps/mine.yaml", "--format", "json")))
    assert ("mine", 8, 6) == (content["sweep"], len(content["cases"]), len(content["runs"]))
    first = content["cases"][0]
    assert ("mxnet", "1.9.1", "quickstart", "1n1g", 4, 500, "fp32", 2) == tuple(
        first[key]
        for key in (
            "framework",
            "version",
            "experiment",
            "topology",
            "batch_size_per_device",
            "num_classes",
            "precision",
            "runs",
        )
    )
    assert {"case_id": first["case_id"], "repeat": 1} == content["runs"][0]


def test_csv_holds_the_same_rows(dlperf: Callable[..., Result]) -> None:
    rows = list(csv.DictReader(good(dlperf("plan", "mine", "--format", "csv")).splitlines()))
    cases = json.loads(good(dlperf("plan", "mine", "--format", "json")))["cases"]
    assert [case["case_id"] for case in cases] == [row["case_id"] for row in rows]
    assert [case["reason"] or "" for case in cases] == [row["reason"] for row in rows]


def test_the_order_lists_the_runs_turned_round_in_every_second_block(dlperf: Callable[..., Result]) -> None:
    words = [line.split() for line in good(dlperf("plan", "mine", "--order", "-k", "_b4_")).splitlines()]
    frameworks = [(number, repeat, case_id.partition("-")[0]) for number, repeat, case_id in words]
    assert [
        ("1", "r1", "mxnet"),
        ("2", "r1", "pytorch"),
        ("3", "r2", "pytorch"),
        ("4", "r2", "mxnet"),
    ] == frameworks
    numbered = list(csv.reader(good(dlperf("plan", "mine", "--order", "--format", "csv")).splitlines()))
    assert ["run", "case_id", "repeat"] == numbered[0]
    assert 6 == len(numbered) - 1


def test_the_commands_are_whole_shell_lines(dlperf: Callable[..., Result]) -> None:
    text = good(dlperf("plan", "mine", "--commands", "--only", "framework=pytorch"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert 2 == len(lines)  # two runnable cases of one rank
    for line in lines:
        words = shlex.split(line)
        assert "DLPERF_RANK=0" in words
        assert "OMP_NUM_THREADS=1" in words
        assert ["-m", "frameworks.pytorch.train"] == words[-3:-1]
        assert words[-1].endswith("/r1/case.json")


def test_options_narrow_the_plan_or_make_another(dlperf: Callable[..., Result]) -> None:
    def cases(*words: str) -> list[Any]:
        found = json.loads(good(dlperf("plan", "mine", "--format", "json", *words)))["cases"]
        return [
            (case["framework"], case["topology"], case["batch_size_per_device"], case["runs"])
            for case in found
        ]

    assert [("pytorch", "1n1g", 4, 2), ("pytorch", "1n1g", 8, 2)] == cases(
        "-k", "framework==pytorch and nodes==1"
    )
    assert [("pytorch", "1n1g", 8, 2)] == cases(
        "--only", "status=runnable", "--exclude", "batch_size_per_device=4"
    )
    assert [("mxnet", "1n1g", 5, 9), ("pytorch", "1n1g", 5, 9)] == cases(
        "-P", "topology=1n1g", "-P", "batch_size_per_device=5", "-S", "measure.repeats=9"
    )


def test_earlier_results_give_an_estimate(dlperf: Callable[..., Result], tmp_path: Path) -> None:
    """The time of a case's earlier runs, times the runs that the plan would make."""
    from dlperf import __version__  # noqa: PLC0415
    from dlperf.files import write_document  # noqa: PLC0415
    from dlperf.layout import LOCK_NAME  # noqa: PLC0415
    from dlperf.plan.machine import detect_machine  # noqa: PLC0415
    from dlperf.results.schema import RunResult, Status  # noqa: PLC0415

    adapters = load_adapters()
    plan = make_plan(load_sweep("mine", adapters=adapters), adapters=adapters, machine=detect_machine())
    case = plan.runnable[0]
    folder = tmp_path / "results" / "mine" / "runs" / case.case_id / "r1"
    folder.mkdir(parents=True)
    write_document(tmp_path / "results" / "mine" / LOCK_NAME, plan)
    (folder / "case.json").write_text(case.model_dump_json())
    # A failed run: it has no figures, and still took its time.
    result = RunResult(
        dlperf_version=__version__, case=case, repeat=1, status=Status.CRASH, reason="a test", seconds=300.0
    )
    (folder / "result.json").write_text(result.model_dump_json())
    lines = good(dlperf("plan", "mine")).splitlines()
    assert "10 min" in lines[5]
    assert [
        "1 of 6 runs are done (results/mine)",
        "about 5 min for the 1 of 3 cases that ran before",
    ] == lines[-2:]
    # A session of `dlperf qualify` counts where the sweep itself has not run.
    session = tmp_path / "results" / "mine-qualify" / "session-1"
    session.parent.mkdir()
    (tmp_path / "results" / "mine").rename(session)
    assert (
        "about 10 min for the 1 of 3 cases that ran before" == good(dlperf("plan", "mine")).splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan", "mne"), "dlperf: unknown sweep 'mne' (did you mean 'mine'?)\n"),
        (("plan", "mine", "-k", "nods==1"), "dlperf: -k: column 1: unknown key 'nods' (did you mean 'nodes'?)\n"),
        (("plan", "mine", "-k", "caffe"), "dlperf: nothing selected: none of the 8 cases of mine matches\n"),
        (("plan", "mine", "-S", "sed=1"), "-S sed=1: unknown key 'sed' (did you mean 'seed'?)\n"),
        (("plan", "mine", "-P", "topology"), "dlperf: -P topology: write key=value, such as -P topology=1n1g,1n2g\n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_exit_2(
    dlperf: Callable[..., Result], words: tuple[str, ...], message: str
) -> None:
    result = dlperf(*words)
    assert (2, "", message) == (result.exit_code, result.stdout, result.stderr)


def test_every_problem_of_a_file_is_printed_and_nothing_else(
    dlperf: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP.replace("1n1g", "1x1") + "batchsize: 3\n")
    result = dlperf("plan", "mine")
    assert (2, "") == (result.exit_code, result.stdout)
    assert [
        "sweeps/mine.yaml:3:12: topology[0]: '1x1' is not a topology; write nodes and devices per node, such as '2n8g'",
        "sweeps/mine.yaml:9:1: unknown key 'batchsize' (did you mean 'batch_size_per_device'?)",
    ] == result.stderr.splitlines()


def test_views_that_exclude_each_other_are_refused(dlperf: Callable[..., Result]) -> None:
    result = dlperf("plan", "mine", "--commands", "--order")
    assert 2 == result.exit_code
    assert "--commands cannot be combined with --order or --format" in result.stderr


def test_cases_that_no_table_can_hold_together_are_warned_of(
    dlperf: Callable[..., Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(threads: int) -> Plan:
        given = (value_setting(f"threads_per_device={threads}"),)
        adapters = load_adapters()
        sweep = load_sweep("mine", adapters=adapters, settings=given, folder=tmp_path)
        return make_plan(sweep, adapters=adapters, machine=Machine(cores=4))

    one, two = plan(1), plan(2)
    warn(one)
    assert ("", "") == tuple(capsys.readouterr())
    # As a plan of a dlperf that gave each topology threads of its own.
    warn(one.model_copy(update={"cases": one.cases + two.cases}))
    warning = (
        "warning: quickstart, data: a report shows these cases in 2 tables, without speedups or ratios between "
        "them (threads per device: 1 | threads per device: 2); give all of them the same value in the sweep, "
        "such as 'threads_per_device: 1'\n"
    )
    assert ("", warning) == tuple(capsys.readouterr())
    assert "" == dlperf("plan", "mine").stderr
    # Other data is another table on purpose.
    faces = DataSet(
        path="/data/faces", read="warm", forms=("recordio",), images=9, classes=9, index_sha256="ab" * 32
    )
    on_faces = tuple(item.model_copy(update={"case": item.case.changed(data=faces)}) for item in one.cases)
    warn(one.model_copy(update={"cases": one.cases + on_faces}))
    assert ("", "") == tuple(capsys.readouterr())


def test_a_driver_that_does_not_answer_is_told_where_the_device_is_chosen(
    dlperf: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Unable to determine the device handle for GPU 0'\nexit 15\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    warning = (
        "warning: nvidia-smi is installed, but CUDA has no GPU, so device auto means the CPU; "
        "`dlperf doctor` says why\n"
    )

    assert warning == dlperf("plan", "mine", "-S", "device=auto").stderr
    assert "" == dlperf("plan", "mine").stderr
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "" == dlperf("plan", "mine", "-S", "device=auto").stderr


def test_the_full_grid_of_2021_is_listed_on_any_machine(dlperf: Callable[..., Result]) -> None:
    counts = [
        len(json.loads(good(dlperf("plan", f"sweeps/{name}.yaml", "--format", "json")))["cases"])
        for name in ("r100_emore", "r100_glint360k", "y1_emore")
    ]
    assert [72, 54, 36] == counts


def test_a_classifier_that_no_device_can_hold_is_a_warning(dlperf: Callable[..., Result]) -> None:
    """Weights of 128 float32 per class, which two devices share in model parallel."""
    options = ("--only", "framework=pytorch", "--only", "batch_size_per_device=4", "-S", "topology=1n2g")
    large = ("-S", "num_classes=6000000", "-S", "memory=2GiB")
    told = dlperf("plan", "mine", *options, *large, "-S", "parallelism=data").stderr
    assert "cannot fit: the weights of its classifier alone are " in told
    assert "per device, which has 2 GiB" in told
    assert "cannot fit" not in dlperf("plan", "mine", *options, *large, "-S", "parallelism=model").stderr
