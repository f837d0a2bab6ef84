"""Logs that were once read wrongly, each with its kind: which process, which run, how it ended, which fields."""

# ruff: noqa: E501  log lines are as long as they are

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from dlperf.cli import main

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "Training: 2024-05-01 {:02d}:00:00,000-rank_id: 0"
TRACEBACK = ("Traceback (most recent call last):", '  File "train.py", line 10, in <module>', "    main()")


def torch(step: int, rate: float, hour: int = 10) -> str:
    return (
        f"Training: 2024-05-01 {hour:02d}:00:{step % 60:02d},250-Speed {rate:.2f} samples/sec   Loss 40.1000   "
        f"LearningRate 0.1000   Epoch: 0   Global Step: {step}   Required: 12 hours"
    )


def mxnet(batch: int, rate: float, accuracy: float = 0.1, metric: str = "accuracy") -> str:
    return f"INFO:root:Epoch[0] Batch [{batch}]\tSpeed: {rate} samples/sec\t{metric}={accuracy:.6f}"


def oneflow(step: int, rate: float) -> str:
    return f"train: iter {step}, loss 40.1, throughput: {rate:.3f}"


class Parsed:
    """What `dlperf parse` says of one log."""

    def __init__(
        self, folder: Path, lines: list[str], *options: str, end: str = "\n", name: str = "a.log"
    ) -> None:
        path = folder / name
        path.write_bytes(("\n".join(lines) + end).encode())
        result = CliRunner().invoke(main, ["parse", str(path), "--json", *options])
        self.exit_code = result.exit_code
        self.messages = result.stderr.replace(f"{path}", "a.log")
        content = json.loads(result.stdout)
        self.records: list[dict[str, Any]] = content["records"]
        self.dialect = content["dialect"]
        self.failure = content["failure"]
        self.kind = None if self.failure is None else self.failure["kind"]

    def column(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


# Which process.


def test_two_workers_without_a_tag_are_two_even_where_their_rates_agree(tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [mxnet(20, 11.46, 0.001), mxnet(20, 11.46, 0.002)])
    assert [(0, 20), (0, 20)] == list(zip(parsed.column("run"), parsed.column("iteration"), strict=True))


def test_two_workers_that_repeat_their_line_once_a_metric_are_two(tmp_path: Path) -> None:
    lines = [mxnet(20, 11.46, 0.1, metric) for metric in ("Train-acc", "Train-lossvalue")]
    assert 1 == len(Parsed(tmp_path, lines).records)
    assert 2 == len(Parsed(tmp_path, lines * 2).records)
    assert 2 == len(Parsed(tmp_path, [lines[0], *lines, lines[1]]).records)


@pytest.mark.parametrize(
    "tag", ["Node[{}] 06:49:12 ", "Worker[{}] - ", "[rank {}] INFO - ", "RANK={} pid=12 "]
)
def test_a_tag_away_from_the_record_names_its_rank(tag: str, tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [tag.format(rank) + mxnet(20, 161.8) for rank in (0, 1)])
    assert [0, 1] == parsed.column("rank")
    parsed = Parsed(tmp_path, [tag.format(rank) + oneflow(20, 161.8) for rank in (1, 1)])
    assert [1] == parsed.column("rank")


@pytest.mark.parametrize(
    ("prefix", "rank"),
    [
        ("[1,mpirank:3,algo-1]<stdout>:", 3),
        ("[3] ", 3),
        ("2024-05-01 10:00:00,250 [rank 3] ", 3),
        ("May 01 10:00:00 node7 python[42]: ", None),
        ("(RayTrainWorker pid=42) ", None),
        ("node7: ", None),
        ("worker-0: ", None),
    ],
)
def test_launchers_name_ranks_hosts_and_processes(prefix: str, rank: int | None, tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [prefix + line for line in (mxnet(20, 161.8), *TRACEBACK, "ValueError: wrong")])
    assert [rank] == parsed.column("rank")
    assert ("crash", prefix + "ValueError: wrong") == (parsed.kind, parsed.failure["evidence"])
    assert "killed" == Parsed(tmp_path, [prefix + oneflow(20, 161.8), prefix + "Killed"]).kind


def test_the_json_of_docker_is_unpacked(tmp_path: Path) -> None:
    lines = [
        json.dumps({"log": text + "\n", "stream": "stdout", "time": "2024-05-01T08:00:00Z"})
        for text in (mxnet(20, 501.25), *TRACEBACK, "ValueError: wrong")
    ]
    parsed = Parsed(tmp_path, lines)
    assert [(20, 501.25, 1714550400000)] == [
        (record["iteration"], record["samples_per_sec"], record["time"]) for record in parsed.records
    ]
    assert ("crash", 5) == (parsed.kind, parsed.failure["line"])


# Which run.


@pytest.mark.parametrize("line", [mxnet, torch, oneflow])
def test_workers_out_of_step_are_one_run(line: Any, tmp_path: Path) -> None:
    steps = [(20, 100.1), (20, 100.2), (40, 101.1), (60, 102.1), (40, 101.2), (60, 102.2)]
    parsed = Parsed(tmp_path, [line(*step) for step in steps])
    assert {0} == set(parsed.column("run"))
    assert [20, 20, 40, 60, 40, 60] if line is mxnet else [20, 40, 60] == parsed.column("iteration")


def test_a_run_that_starts_again_is_another_although_its_two_workers_were_not_level(tmp_path: Path) -> None:
    steps = [(20, 1.1), (20, 1.2), (40, 1.1), (40, 1.2), (60, 1.1), (20, 1.3), (20, 1.4), (40, 1.3)]
    assert [0] * 5 + [1] * 3 == Parsed(tmp_path, [mxnet(*step) for step in steps]).column("run")


def test_a_worker_that_printed_once_does_not_wait_for_the_next_run(tmp_path: Path) -> None:
    first = [mxnet(20, 1.1), mxnet(20, 1.2), *(mxnet(step, 1.1) for step in range(40, 4020, 20))]
    parsed = Parsed(tmp_path, [*first, *first])
    assert [0] * len(first) + [1] * len(first) == parsed.column("run")


@pytest.mark.parametrize("line", [torch, oneflow])
def test_several_writers_of_the_whole_jobs_rate_count_once_a_step(line: Any, tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [line(10, 100.0), line(10, 100.1), line(20, 101.0), line(20, 101.1)])
    assert [(0, 10, 100.0), (0, 20, 101.0)] == [
        (record["run"], record["iteration"], record["samples_per_sec"]) for record in parsed.records
    ]


@pytest.mark.parametrize("steps", [[10, 510, 20, 520, 30, 530], [500, 510, 10, 520, 20, 530, 30, 540]])
@pytest.mark.parametrize("line", [mxnet, torch, oneflow])
def test_two_jobs_in_one_file_are_refused_with_the_reason(
    line: Any, steps: list[int], tmp_path: Path
) -> None:
    parsed = Parsed(tmp_path, [line(step, 100.0) for step in steps])
    assert 2 == parsed.exit_code
    place = steps.index(30)
    assert (
        f"dlperf: a.log: two jobs print into this log: step 30 in line {place + 1} goes on from step 20, "
        f"with step {steps[place - 1]} between them; split the file\n" == parsed.messages
    )


@pytest.mark.parametrize(
    ("marker", "line"),
    [
        (MARKER.format(12), torch),
        ("Called with argument: Namespace(batch_size=64)", mxnet),
        ("Running insightface: num_gpu_per_node = 8, num_nodes = 1.", oneflow),
        (
            "rank-id:0:2024-05-01 12:00:00,000-rank_id: 0",
            lambda step, rate: (
                f"rank-id:0:2024-05-01 10:00:00,000-Iter:{step} Rank:1.00 it/sec Total:{rate:.2f} it/sec [0][l]:1.00 "
            ),
        ),
        (
            "Training: 2024-05-01 12:00:00,000 - rank: 0",
            lambda step, rate: (
                f"loss 1.0, lr: 0.1, epoch: 0, step: {step}, eta: 1.00 hours, throughput: {rate} imgs/sec"
            ),
        ),
        (
            "[2024/05/01 12:00:00] plsc INFO: train with paddle 2.4.0 and device Place(gpu:0)",
            lambda step, rate: (
                f"[2024/05/01 10:00:00] plsc INFO: [Train][Epoch 1/2][Iter: {step}/90]lr: 0.1, loss: 1.0, ips: {rate} images/sec, eta: 1:00:00"
            ),
        ),
        (
            ':::MLLOG {"namespace": "", "time_ms": 1, "key": "run_start", "value": null, "metadata": {"rank": 0}}',
            lambda step, rate: (
                f':::MLLOG {{"time_ms": 1, "key": "throughput", "value": {rate}, "metadata": {{"rank": 0, "step": {step}}}}}'
            ),
        ),
    ],
)
def test_a_start_that_the_program_prints_begins_a_run(marker: str, line: Any, tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [marker, marker, line(10, 100), marker, line(20, 50), line(40, 50.1)])
    assert [0, 1, 1] == parsed.column("run")
    parsed = Parsed(tmp_path, [marker, line(20, 100), marker, line(20, 100)])
    assert [0, 1] == parsed.column("run")


def test_a_start_of_a_rank_that_has_not_yet_printed_a_record_begins_no_run(tmp_path: Path) -> None:
    marker = "[1,{}]<stderr>:Called with argument: Namespace(batch_size=64)"
    lines = [
        marker.format(0),
        f"[1,0]<stderr>:{mxnet(20, 1.1)}",
        marker.format(1),
        f"[1,1]<stderr>:{mxnet(20, 1.2)}",
    ]
    assert [0, 0] == Parsed(tmp_path, lines).column("run")


# How it ended.


def test_a_log_that_ends_within_a_traceback_is_a_crash(tmp_path: Path) -> None:
    parsed = Parsed(tmp_path, [torch(10, 1.0), *TRACEBACK])
    assert ("crash", 2, TRACEBACK[0]) == (parsed.kind, parsed.failure["line"], parsed.failure["evidence"])
    assert "killed" == Parsed(tmp_path, [torch(10, 1.0), *TRACEBACK], "--exit-code", "137").kind


@pytest.mark.parametrize("prefix", ["", "[1,0]<stderr>:", "node7: "])
@pytest.mark.parametrize("last", [["ValueError: image skipped"], []])
def test_a_traceback_behind_which_training_goes_on_is_no_failure(
    prefix: str, last: list[str], tmp_path: Path
) -> None:
    lines = [torch(10, 1.0), *TRACEBACK, *last, torch(20, 1.0), torch(30, 1.0)]
    assert Parsed(tmp_path, [prefix + line for line in lines]).failure is None
    end = [*TRACEBACK, "KeyError: 'x'"]
    parsed = Parsed(tmp_path, [prefix + line for line in (*lines, *end)])
    assert ("crash", f"{prefix}KeyError: 'x'") == (parsed.kind, parsed.failure["evidence"])


def test_a_traceback_of_another_rank_is_survived_when_the_job_goes_on_for_long(tmp_path: Path) -> None:
    broken = [f"[1,3]<stderr>:{line}" for line in (*TRACEBACK, "ValueError: image skipped")]
    records = [f"[1,0]<stdout>:{torch(step, 1.0)}" for step in range(10, 120, 10)]
    assert "crash" == Parsed(tmp_path, [records[0], *broken, *records[1:3]]).kind
    assert Parsed(tmp_path, [records[0], *broken, *records[1:]]).failure is None


@pytest.mark.parametrize("line", ["RuntimeError: CUDA out of memory, batch skipped", "NCCL error: retrying"])
def test_what_ten_records_stand_behind_was_survived(line: str, tmp_path: Path) -> None:
    records = [torch(step, 1.0) for step in range(10, 120, 10)]
    assert Parsed(tmp_path, [records[0], line, *records[1:2]]).failure is not None
    assert Parsed(tmp_path, [records[0], line, *records[1:]]).failure is None


def test_what_a_run_survived_does_not_count_against_it_when_another_follows(tmp_path: Path) -> None:
    first = [torch(10, 1.0), *TRACEBACK, "ValueError: image skipped", torch(20, 1.0)]
    parsed = Parsed(tmp_path, [*first, torch(10, 1.0), torch(20, 1.0)])
    assert [0, 0, 1, 1] == parsed.column("run")
    assert parsed.failure is None


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("oom", "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed."),
        ("oom", "python.service: A process of this unit has been killed by the OOM killer."),
        ("oom", "python.service: Failed with result 'oom-kill'."),
        ("oom", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit."),
        ("oom", "=>> PBS: job killed: vmem 2097152kb exceeded limit 1048576kb"),
        ("killed", "trainer-1 exited with code 137"),
        ("killed", "    Exit Code:    137"),
        ("killed", "subprocess.CalledProcessError: Command 'python' died with <Signals.SIGKILL: 9>."),
        ("killed", "  exitcode  : -9 (pid: 4711)"),
        ("killed", "[1]+  Killed                  "),
        ("killed", "=>> PBS: job killed: walltime 3605 exceeded limit 3600"),
        ("killed", "TERM_RUNLIMIT: job killed after reaching LSF run time limit."),
        ("killed", "slurmstepd: error: *** JOB 12 ON node7 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***"),
        ("killed", "python.service: Main process exited, code=killed, status=9/KILL"),
        ("killed", "python.service: Main process exited, code=killed, status=15/TERM"),
        ("killed", "trainer-1 exited with code 143"),
        ("crash", "python.service: Main process exited, code=exited, status=1/FAILURE"),
        ("crash", "python.service: Main process exited, code=dumped, status=11/SEGV"),
        ("crash", "trainer-1 exited with code 1"),
        ("crash", "FatalError: `Segmentation fault` is detected by the operating system."),
        (
            "crash",
            "ERROR 2024-05-01 10:00:00,000 utils.py:644] ABORT!!! Out of all 8 trainers, the trainer process with rank=[3] was aborted. Please check its log.",
        ),
        (
            "nccl",
            "[rank1]:[F501 10:00:00.1 ProcessGroupNCCL.cpp:1252] [PG 0 Rank 1] ProcessGroupNCCL's watchdog got stuck for 600 seconds without making progress in monitoring enqueued collectives.",
        ),
        ("nccl", "[rank0]:[E501 10:00:00.123456789 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught something"),
        ("nccl", "[E ProcessGroupNCCL.cpp:737] Some NCCL operations have failed or timed out."),
    ],
)  # fmt: skip
def test_each_ending_is_named(kind: str, line: str, tmp_path: Path) -> None:
    assert kind == Parsed(tmp_path, [torch(10, 1.0), line]).kind


def test_paddles_report_of_a_termination_is_a_kill_and_behind_the_launchers_report_a_consequence(
    tmp_path: Path,
) -> None:
    terminated = [
        "FatalError: `Termination signal` is detected by the operating system.",
        '  [TimeInfo: *** Aborted at 1714550400 (unix time) try "date -d @1714550400" if you are using GNU date ***]',
        "  [SignalInfo: *** SIGTERM (@0x1267) received by PID 4711 (TID 0x7f) from PID 4710 ***]",
    ]  # fmt: skip
    assert "killed" == Parsed(tmp_path, [torch(10, 1.0), *terminated]).kind
    report = (
        "ABORT!!! Out of all 8 trainers, the trainer process with rank=[3] was aborted. Please check its log."
    )
    parsed = Parsed(tmp_path, [torch(10, 1.0), report, *terminated])
    assert ("crash", report) == (parsed.kind, parsed.failure["evidence"])


@pytest.mark.parametrize(
    "line",
    [
        "memory.oom.group: 0, oom_kill 0",
        "OOM killer disabled: true",
        "oom_kill_disable 0",
        "trainer-1 exited with code 0",
        "HTTP status 200",
        "evaluation returned 12 pairs",
        "[rank0]:[W501 10:00:00.1 ProcessGroupNCCL.cpp:1250] Warning: process group has NOT been destroyed before we destruct ProcessGroupNCCL.",
    ],
)
def test_harmless_lines_are_no_ending(line: str, tmp_path: Path) -> None:
    assert Parsed(tmp_path, [torch(10, 1.0), line]).failure is None


# Fields and forms.


@pytest.mark.parametrize(
    "name", ["total_loss", "train.total_loss", "step_loss", "average_loss", "train.loss"]
)
def test_every_name_of_a_loss_is_read_and_no_other_number(name: str, tmp_path: Path) -> None:
    line = "DLL 2024-05-01 10:00:00.000000 - Epoch: 0 Iteration: 20  val.loss : 1.5 loss_scale : 8 {} : 11.0512 train.ips : 9.5 "
    assert [11.0512] == Parsed(tmp_path, [line.format(name)]).column("loss")
    assert [None] == Parsed(tmp_path, [line.format("other")]).column("loss")


def test_plsc_prints_the_whole_jobs_rate(tmp_path: Path) -> None:
    line = (
        "[2022/11/09 10:00:00] plsc INFO: [Train][Epoch 1/25][Iter: 100/5061]lr: {}, top1: 0.12500, loss: 45.30000, "
        "batch_cost: 0.39000s, reader_cost: 0.00100, ips: 2607.10000 images/sec, eta: {}"
    )
    parsed = Parsed(tmp_path, [line.format("0.100000", "1:00:00")])
    assert "plsc" == parsed.dialect
    assert [
        {
            "run": 0, "line": 1, "iteration": 100, "epoch": 1, "rank": None, "samples_per_sec": 2607.1, "loss": 45.3,
            "lr": 0.1, "time": 1667988000000,
        }
    ] == parsed.records  # fmt: skip
    assert [None] == Parsed(tmp_path, [line.format("none", "1 day, 1:00:00")], end="").column("lr")
    assert [] == Parsed(tmp_path, [line.replace("plsc", "ppcls").format("0.1", "1:00:00")]).records


@pytest.mark.parametrize(
    "line",
    [
        "Training: 2024-05-01 10:00:00,250-Speed 9.50 samples/sec   Loss 40.1000   Epoch: 0   Step:   10/500   Required: 3.1 hours",
        "INFO:root:Epoch[0] Batch [10/500]\tSpeed: 9.5 samples/sec\taccuracy=0.1",
        "train: iter 10/500, loss 40.1, throughput: 9.500",
        "Iter:10/500 Rank:1.00 it/sec Total:9.50 it/sec [0][loss]:43.21 ",
        "loss 1.0, lr: 0.1, epoch: 0/20, step: 10/500, eta: 1.00 hours, throughput: 9.5 imgs/sec",
        "DLL 2024-05-01 10:00:00.000000 - Epoch: 0/90 Iteration: 10/500  train.ips : 9.5 ",
    ],
)
def test_a_step_may_say_of_how_many(line: str, tmp_path: Path) -> None:
    assert [10] == Parsed(tmp_path, [line]).column("iteration")


@pytest.mark.parametrize("space", ["\u00a0", "\u202f", "\u2003", "\u3000"])
@pytest.mark.parametrize("line", [mxnet, torch, oneflow])
def test_spaces_of_a_pasted_log_are_spaces(line: Any, space: str, tmp_path: Path) -> None:
    text = line(20, 161.8).replace("\t", "    ")
    plain, pasted = Parsed(tmp_path, [text]), Parsed(tmp_path, [text.replace(" ", space)])
    assert 1 == len(plain.records)
    assert plain.records == pasted.records


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (torch, "Loss 40."),
        (torch, "Epoch: 0   Glo"),
        (oneflow, "throughput: 100.0"),
        (mxnet, "Speed: 100.0 samp"),
    ],
)
def test_a_last_line_that_is_cut_is_told(line: Any, kept: str, tmp_path: Path) -> None:
    last = line(40, 100.0)
    parsed = Parsed(tmp_path, [line(20, 100.0), last[: last.index(kept) + len(kept)]], end="")
    assert [20] == parsed.column("iteration")
    assert "dlperf: a.log: the last line is cut; its record is left out\n" == parsed.messages
    assert "" == Parsed(tmp_path, [line(20, 100.0), last], end="").messages
    assert "" == Parsed(tmp_path, [line(20, 100.0), "done"], end="").messages


def test_a_file_without_records_has_no_run_that_could_have_failed(tmp_path: Path) -> None:
    lines = ["starting", *TRACEBACK, "ValueError: wrong"]
    parsed = Parsed(tmp_path, lines, name="old_error.log")
    assert (2, None) == (parsed.exit_code, parsed.failure)
    assert (
        "dlperf: a.log: no throughput record of a known program in 5 lines; the first line is 'starting'; "
        "line 5 shows a crash: ValueError: wrong\n" == parsed.messages
    )
    assert "crash" == Parsed(tmp_path, lines, "--dialect", "arcface_torch").kind
