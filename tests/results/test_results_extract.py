"""Results computed from a run folder: what counts, what each bad end is called; twice gives the same."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from run_folders import failed, log_text, make_case, write_run

from dlperf.errors import UserError
from dlperf.plan.case import Topology
from dlperf.results.extract import extract
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.results.schema import RunResult


def result_of(folder: Path) -> RunResult:
    return extract(folder).result


def test_a_good_run_is_samples_over_seconds_of_its_measured_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case(), seconds=(9.0, 9.0, 1.0, 3.0, 2.0, 2.0))
    result = result_of(folder)
    assert result.status is Status.OK
    assert result.reason is None
    assert result.figures is not None
    assert result.figures.samples_per_sec == 4 * 8 / 8.0
    assert (result.figures.accepted_steps, result.figures.dropped_steps) == (4, 2)
    assert result.figures.step_seconds_median == 2.0
    assert result.figures.step_seconds_p95 == pytest.approx(2.85)
    assert (result.figures.loss_first, result.figures.loss_last) == (40.0, 35.0)
    assert result.figures.peak_anonymous_bytes == 500 * 2**20
    assert result.engine.matmul_flops_per_second == 7.0e10
    assert result.engine.training_flops_per_sample == 2_700_076_800
    assert result.engine.facts == {"name": "mxnet", "version": "1.9.1", "threads": 2}
    assert (result.repeat, result.started_at, result.seconds) == (1, "2026-01-02T03:04:05Z", 12.3)
    assert result.nodes == ("node-a",)


def test_making_it_twice_gives_the_same_bytes_and_writes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    before = sorted(folder.rglob("*"))
    first = result_of(folder).model_dump_json()
    assert result_of(folder).model_dump_json() == first
    assert sorted(folder.rglob("*")) == before


def test_the_whole_series_is_kept(tmp_path: Path) -> None:
    seconds = (9.0, 9.0, 1.0, 3.0, 2.0, 2.0)
    steps = extract(write_run(tmp_path, make_case(), seconds=seconds)).steps
    assert tuple(step.seconds for step in steps) == seconds
    assert [step.kind for step in steps] == ["warmup"] * 2 + ["train"] * 4


def test_peak_memory_is_the_largest_ranks(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=3))
    figures = result_of(write_run(tmp_path, case)).figures
    assert figures is not None
    assert figures.peak_anonymous_bytes == 502 * 2**20
    assert figures.samples_per_sec == 24.0


def with_events(*events: tuple[str, Any, dict[str, Any]]) -> str:
    """A good log without a peak of memory, and these events: key, value and metadata."""
    lines = log_text(make_case(), seconds=(1.0,) * 6).splitlines(keepends=True)
    log = "".join(line for line in lines if '"peak_' not in line)
    contents = (
        {"namespace": "dlperf", "key": key, "value": value, "metadata": {"rank": 0, **metadata}}
        for key, value, metadata in events
    )
    return log + "".join(f":::MLLOG {json.dumps(content)}\n" for content in contents)


def test_each_kind_of_memory_has_a_name_of_its_own(tmp_path: Path) -> None:
    log = with_events(
        ("peak_device_bytes", 9 << 30, {}),
        ("peak_allocated_bytes", 5 << 30, {}),
        ("peak_reserved_bytes", 7 << 30, {}),
    )
    result = result_of(write_run(tmp_path, make_case(), log=log))
    assert result.figures is not None
    assert {
        "peak_device_bytes": 9 << 30,
        "peak_allocated_bytes": 5 << 30,
        "peak_reserved_bytes": 7 << 30,
    } == result.figures.peaks
    assert result.figures.peak_memory_bytes is None
    assert result.peak_unknown is None


def test_a_log_of_an_older_run_gives_the_result_that_it_gave(tmp_path: Path) -> None:
    log = with_events(("peak_memory_bytes", 500 << 20, {"source": "resident set"}))
    result = result_of(write_run(tmp_path, make_case(), log=log))
    assert result.figures is not None
    assert {"peak_memory_bytes": 500 << 20} == result.figures.peaks
    written = json.loads(result.model_dump_json())
    assert "peak_unknown" not in written
    assert ["peak_memory_bytes"] == [name for name in written["figures"] if "peak" in name]


def test_a_peak_that_a_rank_could_not_measure_is_none_and_says_why(tmp_path: Path) -> None:
    log = with_events(
        ("peak_device_bytes", 9 << 30, {}),
        ("peak_device_bytes", None, {"reason": "nvidia-smi gives no list of processes"}),
        ("peak_reserved_bytes", 7 << 30, {}),
    )
    result = result_of(write_run(tmp_path, make_case(), log=log))
    assert result.figures is not None
    assert {"peak_reserved_bytes": 7 << 30} == result.figures.peaks
    assert "peak device memory: nvidia-smi gives no list of processes" == result.peak_unknown


def test_a_log_that_ends_early_is_incomplete_although_all_exit_codes_are_0(tmp_path: Path) -> None:
    result = result_of(write_run(tmp_path, make_case(), seconds=(1.0,) * 5))
    assert result.status is Status.INCOMPLETE
    assert result.figures is None
    assert result.reason is not None
    assert "3 of 4 measured iterations" in result.reason


def test_the_rank_whose_own_group_the_kernel_killed_in_ran_out_of_memory(tmp_path: Path) -> None:
    """Rank 0 failed first, as the connection to rank 1 broke; its log knows of no memory."""
    case = make_case(topology=Topology(nodes=1, devices_per_node=2), memory_bytes=1 << 30)
    ends = [
        {"rank": 0, "exit_code": 1, "signal": None, "seconds": 3.0, "oom_kills": 0},
        {"rank": 1, "exit_code": None, "signal": 9, "seconds": 3.1, "oom_kills": 1},
    ]
    outcome = {"reason": "rank_failed", "ranks": ends, "first_failed_rank": 0, "memory_held_by": "cgroup"}
    result = result_of(write_run(tmp_path, case, seconds=(1.0,), outcome=outcome))
    assert result.status is Status.OOM
    assert result.reason == "rank 1 was ended by SIGKILL: the kernel ended it for lack of memory"
    assert result.memory_held_by == "cgroup"


def test_a_last_line_cut_in_the_middle_makes_it_incomplete(tmp_path: Path) -> None:
    whole = log_text(make_case(), seconds=(1.0,) * 6)
    cut = whole[: whole.rindex('"tracked_stats"') + 30]
    result = result_of(write_run(tmp_path, make_case(), log=cut))
    assert result.status is Status.INCOMPLETE


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (failed("time_limit"), Status.TIMEOUT),
        (failed("stall_limit"), Status.STALLED),
        (failed("lease_lost"), Status.INCOMPLETE),
        (failed("stopped"), Status.INCOMPLETE),
        (failed("start_failed"), Status.CRASH),
        (failed("rank_failed"), Status.CRASH),
        (failed("rank_failed", signal=9), Status.KILLED),
        (failed("something new"), Status.CRASH),
    ],
)
def test_the_supervisors_reason_decides_the_status(
    tmp_path: Path, outcome: dict[str, Any], status: Status
) -> None:
    result = result_of(write_run(tmp_path, make_case(), seconds=(1.0,) * 3, outcome=outcome))
    assert result.status is status
    assert result.figures is None
    assert result.reason


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB", Status.OOM),
        ("terminate called after throwing an instance of 'std::bad_alloc'", Status.OOM),
        ("MXNetError: Failed to allocate CPU Memory", Status.OOM),
        ("Killed", Status.KILLED),
        ("Traceback (most recent call last):\n  File 'x'\nValueError: no such layer", Status.CRASH),
    ],
)
def test_a_failed_rank_is_named_by_the_line_that_shows_it(tmp_path: Path, text: str, status: Status) -> None:
    log = f"importing\n{text}\nfinalizing\n"
    folder = write_run(tmp_path, make_case(), log=log, outcome=failed("rank_failed"))
    result = result_of(folder)
    last = text.splitlines()[-1]
    assert result.status is status
    assert result.evidence == f"logs/rank0.log:{log.splitlines().index(last) + 1}: {last}"


def test_the_first_rank_to_fail_is_the_one_that_is_asked(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=2))
    folder = write_run(tmp_path, case, outcome=failed("rank_failed", rank=1))
    (folder / "logs" / "rank0.log").write_text("RuntimeError: connection reset by peer\n")
    (folder / "logs" / "rank1.log").write_text("starting\nValueError: label out of range\n")
    result = result_of(folder)
    assert result.evidence == "logs/rank1.log:2: ValueError: label out of range"
    assert result.reason == "rank 1 ended with exit code 1: ValueError: label out of range"


def test_one_killed_rank_of_several_is_a_crash_that_names_it(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=2))
    folder = write_run(tmp_path, case, outcome=failed("rank_failed", rank=1, signal=9))
    (folder / "logs" / "rank0.log").write_text("step 1\n")
    (folder / "logs" / "rank1.log").write_text("step 1\n")

    result = result_of(folder)

    assert (Status.CRASH, "rank 1 was ended by SIGKILL") == (result.status, (result.reason or "")[:27])


def test_a_run_whose_supervisor_died_is_incomplete(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    (folder / "outcome.json").unlink()
    result = result_of(folder)
    assert result.status is Status.INCOMPLETE
    assert result.reason is not None
    assert "no outcome.json" in result.reason


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"completed"', '{"reason": 3}', "[" * 100_000, '{"reason": "\\ud800"}']
)
def test_a_damaged_outcome_never_makes_a_run_good(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path, make_case())
    (folder / "outcome.json").write_text(text)
    result = result_of(folder)
    assert result.status is not Status.OK
    result.model_dump_json()


@pytest.mark.parametrize("seconds", ["long", 10**400])
def test_a_damaged_detail_of_an_outcome_is_left_out(tmp_path: Path, seconds: object) -> None:
    folder = write_run(
        tmp_path, make_case(), outcome={"seconds": seconds, "ranks": [1, {"rank": "x"}], "started_at": 5}
    )
    result = result_of(folder)
    assert result.status is Status.OK
    assert (result.seconds, result.started_at) == (None, None)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_keeps_the_rate_and_is_said(tmp_path: Path, loss: float) -> None:
    folder = write_run(tmp_path, make_case(), losses=[4.0, 3.0, 2.0, loss, loss, loss])
    result = result_of(folder)
    assert result.status is Status.OK
    assert result.figures is not None
    assert result.figures.loss_last is None
    assert result.reason == f"loss not finite: {loss} at step 3"
    assert result.evidence is not None
    assert result.evidence.startswith("logs/rank0.log:")
    assert (
        str(loss).lower()
        in (folder / "logs" / "rank0.log")
        .read_text()
        .splitlines()[int(result.evidence.split(":")[1]) - 1]
        .lower()
    )


def test_a_rank_without_a_log_and_binary_rubbish_do_no_harm(tmp_path: Path) -> None:
    case = make_case(topology=Topology(nodes=1, devices_per_node=3))
    folder = write_run(tmp_path, case)
    (folder / "logs" / "rank1.log").unlink()
    (folder / "logs" / "rank2.log").write_bytes(b"\xff\xfe\x00" * 1000)
    (folder / "logs" / "core.12").write_bytes(b"not a log")
    assert result_of(folder).status is Status.OK


def test_a_number_that_nothing_can_hold_is_none(tmp_path: Path) -> None:
    huge = 10**400
    log = with_events(
        ("matmul_flops_per_second", huge, {}),
        ("peak_anonymous_bytes", 500 << 20, {}),
        ("peak_anonymous_bytes", huge, {}),
        ("tracked_stats", {"seconds": 1.0}, {"step": 6, "samples": huge, "kind": "train"}),
    )
    result = result_of(write_run(tmp_path, make_case(), log=log))
    assert (Status.OK, None) == (result.status, result.engine.matmul_flops_per_second)
    assert result.figures is not None
    assert (8.0, 500 << 20) == (result.figures.samples_per_sec, result.figures.peak_anonymous_bytes)


def test_facts_are_flat_and_can_be_stored(tmp_path: Path) -> None:
    fact = {"libraries": {"mkl": "2024", "deep": {"x": 1}}, "list": [1, 2], "none": None, "bad": "\ud800"}
    result = result_of(write_run(tmp_path, make_case(), log=with_events(("framework", fact, {}))))
    assert result.engine.facts == {
        "bad": "?",
        "libraries.deep.x": 1,
        "libraries.mkl": "2024",
        "list": "[1, 2]",
    }
    result.model_dump_json().encode()


def test_a_folder_without_a_case_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        result_of(tmp_path / "r1")


def test_a_damaged_case_is_named_with_its_field(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case())
    content = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps({**content, "num_classes": "many"}))
    with pytest.raises(UserError, match="num_classes"):
        result_of(folder)


def test_a_run_folder_tells_its_repeat_by_its_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_case(), repeat=12)
    assert result_of(folder).repeat == 12
    renamed = folder.rename(folder.with_name("twelfth"))
    with pytest.raises(UserError, match="r<repeat>"):
        result_of(renamed)
