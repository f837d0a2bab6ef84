"""Which failure a log and an exit code name, and which line shows it."""

from __future__ import annotations

import pytest

from dlperf.logs.endings import Outcome, RankEnd
from dlperf.logs.events import event_line
from dlperf.logs.failures import Failure, classify

CLEAN = ["train: iter 0, loss 44.1, throughput: 12.500", "train: iter 1, loss 44.0, throughput: 12.600"]


def verdict(text: list[str], outcome: Outcome | None = None) -> tuple[str, str] | None:
    found = classify((("a.log", number, line) for number, line in enumerate(text, 1)), outcome)
    return None if found is None else (str(found.kind), found.evidence.text)


def outcome(reason: str, *, exit_code: int | None = None, signal: int | None = None) -> Outcome:
    return Outcome(
        reason=reason,
        detail=None,
        hosts=("host",),
        started_at=None,
        seconds=1.0,
        ranks=(RankEnd(rank=0, exit_code=exit_code, signal=signal),),
        first_failed_rank=0,
    )


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.78 GiB total capacity)",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "mxnet.base.MXNetError: [10:11:12] src/storage/./x.h:157: cudaMalloc failed: out of memory",
        "src/storage/./pooled_storage_manager.h:161: cudaMalloc retry failed: out of memory",
        "Check failed: error == cudaSuccess (2 vs. 0) out of memory",
        "F0301 10:00:00.1 12 cuda_util.cpp:10] Check failed: e == cudaSuccess (2 vs. 0) : out of memory",
        "oneflow::RuntimeException: CUDA error: out of memory",
        "oneflow._oneflow_internal.exception.RuntimeException: allocate failed",
        "c10::out_of_memory_error: 12",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
        "MXNetError: Failed to allocate CPU Memory",
        "oneflow._oneflow_internal.exception.RuntimeError: Error: allocate failed",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you",
        "ImportError: liboneflow-6f2d67ec.so: failed to map segment from shared object",
        "MemoryError",
        "[ 12.3] Out of memory: Killed process 4711 (python3) total-vm:1kB",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "what():  std::bad_alloc",
        "[1,0]<stderr>:out_of_memory_error",
    ],
)
def test_each_wording_of_a_lack_of_memory_is_oom(line: str) -> None:
    assert verdict([*CLEAN, line]) == ("oom", line)


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: NCCL error in: /x/ProcessGroupNCCL.cpp:784, invalid usage, NCCL version 2.7.8",
        "F0301 nccl_util.h:30] Check failed: ncclGroupEnd() : unhandled system error",
        "horovod.common.exceptions.HorovodInternalError: ncclCommInitRank failed: unhandled system error",
        "unhandled system error",
    ],
)
def test_each_wording_of_an_nccl_error_is_nccl(line: str) -> None:
    assert verdict([*CLEAN, line, "Traceback (most recent call last):", "ValueError: x"]) == ("nccl", line)


@pytest.mark.parametrize(
    "line",
    [
        "Killed",
        "[1,0]<stderr>:Killed",
        "./run.sh: line 3: 4711 Killed   python train.py",
        "RuntimeError: DataLoader worker (pid 12) is killed by signal: Killed.",
        "Terminated",
        "slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2021-03-01T10:00:00 ***",
    ],
)
def test_a_killed_line_is_killed(line: str) -> None:
    found = verdict([*CLEAN, line])
    assert found is not None
    assert found[0] == "killed"


@pytest.mark.parametrize(
    "consequence",
    [
        "[1] Signal 15 (SIGTERM) received by PID 4711",
        "srun: error: node1: task 1: Killed",
        "./run.sh: line 3: 4711 Terminated   python train.py",
    ],
)
def test_what_a_launcher_ends_after_a_crash_does_not_make_it_a_kill(consequence: str) -> None:
    crash = ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "KeyError: 'x'"]
    assert verdict([*CLEAN, *crash, consequence]) == ("crash", "KeyError: 'x'")
    assert verdict([*CLEAN, consequence, *crash]) == ("killed", consequence)
    assert verdict([*CLEAN, *crash, "Killed"]) == ("killed", "Killed")


def test_a_floating_point_exception_is_a_crash() -> None:
    line = "run.sh: line 3: 4711 Floating point exception (core dumped) python train.py"
    assert verdict([*CLEAN, line]) == ("crash", line)


def test_the_kernels_killer_makes_a_killed_process_an_oom() -> None:
    assert verdict(["Out of memory: Killed process 12 (python)", "Killed"], Outcome.of_exit(137)) == (
        "oom",
        "Out of memory: Killed process 12 (python)",
    )


def test_exit_137_alone_is_killed() -> None:
    assert verdict(CLEAN, Outcome.of_exit(137)) == ("killed", "rank 0 was ended by SIGKILL")


def test_an_abort_by_the_process_itself_is_a_crash_unless_the_text_says_more() -> None:
    assert verdict(CLEAN, outcome("rank_failed", signal=6)) == ("crash", CLEAN[-1])
    assert verdict([*CLEAN, "RuntimeException: allocate failed"], outcome("rank_failed", exit_code=134)) == (
        "oom",
        "RuntimeException: allocate failed",
    )


def test_the_evidence_of_a_traceback_is_the_exceptions_own_line() -> None:
    text = [
        "Traceback (most recent call last):",
        '  File "train.py", line 10, in <module>',
        "    main()",
        "ValueError: no such network: 'r101'",
        "and its second line",
    ]
    assert verdict([*CLEAN, *text]) == ("crash", "ValueError: no such network: 'r101'")


def test_of_a_chain_the_exception_that_ended_the_process_counts() -> None:
    text = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in f',
        "KeyError: 'x'",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "a.py", line 3, in f',
        "ValueError: unknown key x",
        "Traceback (most recent call last):",
        '  File "launch.py", line 3, in f',
        "RuntimeError: a later one",
    ]
    assert verdict(text) == ("crash", "ValueError: unknown key x")


def test_interleaved_tracebacks_of_ranks_are_kept_apart() -> None:
    text = [
        "[1,1]<stderr>:Traceback (most recent call last):",
        "[1,0]<stderr>:Traceback (most recent call last):",
        '[1,1]<stderr>:  File "a.py", line 1, in f',
        '[1,0]<stderr>:  File "a.py", line 1, in f',
        "[1,1]<stderr>:TypeError: rank one",
        "[1,0]<stderr>:ConnectionResetError: rank zero",
    ]
    assert verdict(text) == ("crash", "[1,1]<stderr>:TypeError: rank one")


def test_what_a_launcher_says_does_not_hide_the_workers_exception() -> None:
    text = [
        "Traceback (most recent call last):",
        '  File "run.py", line 1, in f',
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
        "IndexError: the worker's, behind it",
    ]
    assert verdict(text) == ("crash", "IndexError: the worker's, behind it")
    assert verdict(text[:3]) == ("crash", text[2])


@pytest.mark.parametrize(
    "line",
    [
        "host:12:34 [0] NCCL INFO ncclCommInitRank comm 0x7f rank 0 nranks 8 cudaDev 0 - Init COMPLETE",
        "torch/serialization.py:1: UserWarning: may run out of memory",
        "NCCL_ASYNC_ERROR_HANDLING=1",
        "I0301 10:00:00.1 12 nccl_util.h:30] ncclCommInitRank done",
        "Namespace(oom_retry=False, handle_out_of_memory=True)",
        "retry on out of memory: true",
        "'out_of_memory': False,",
        "out of memory: 0",
        "# skips the batch if CUDA out of memory happens",
        "WARNING: out of memory errors are retried",
        "Warning: low memory; may run out of memory",
        "max_memory: out_of_memory_fraction=0.1",
        "bad_alloc_retry=0",
        "the process was Killed",
        "Killed 0 stale workers",
        "exit code 0",
    ],
)
def test_harmless_lines_are_no_failure(line: str) -> None:
    assert verdict([*CLEAN, line]) is None


def test_an_exception_that_python_ignored_is_no_failure() -> None:
    text = [
        "Exception ignored in: <function f>",
        "Traceback (most recent call last):",
        '  File "x"',
        "TypeError: x",
    ]
    assert verdict(text) is None


def test_stall_limit_is_a_hang_unless_the_text_names_a_cause() -> None:
    assert verdict(CLEAN, outcome("stall_limit", signal=9)) == ("hang", CLEAN[-1])
    found = verdict(
        [*CLEAN, "Traceback (most recent call last):", "  x", "OSError: y"], outcome("stall_limit")
    )
    assert found == ("crash", "OSError: y")


def test_a_completed_run_has_no_failure_whatever_its_log_says() -> None:
    assert verdict(["CUDA out of memory", "Killed"], outcome("completed", exit_code=0)) is None


def test_a_source_line_within_a_traceback_is_no_sign_of_anything() -> None:
    text = [
        "Traceback (most recent call last):",
        '  File "train.py", line 10, in <module>',
        "    raise MemoryError if is_full else RuntimeError('NCCL error')",
        "ValueError: neither",
    ]
    assert verdict(text) == ("crash", "ValueError: neither")


def test_the_evidence_is_the_line_as_it_came_but_for_its_colours() -> None:
    assert verdict(["\x1b[31m[1,3]<stderr>:CUDA out of memory\x1b[0m"]) == (
        "oom",
        "[1,3]<stderr>:CUDA out of memory",
    )


def test_evidence_names_file_and_line() -> None:
    found = classify([("logs/rank3.log", 17, "CUDA out of memory")])
    assert isinstance(found, Failure)
    assert str(found.evidence) == "logs/rank3.log:17: CUDA out of memory"


def test_an_image_that_cannot_be_read_is_told_by_the_program_and_outranks_what_others_say() -> None:
    value = {"file": "/data/train.rec", "record": 7, "offset": 123, "what": "the file ends within the record"}
    text = [
        *CLEAN,
        "terminate called after throwing an instance of 'dmlc::Error'",
        "RuntimeError: CUDA out of memory.",
        event_line("data_error", value).rstrip(),
    ]
    said = "/data/train.rec: record 7 at byte 123: the file ends within the record"
    assert ("data", said) == verdict(text, outcome("rank_failed", exit_code=74))


def test_a_data_error_without_a_record_and_a_torn_one() -> None:
    value = {"file": "/data/train.rec", "record": None, "offset": None, "what": "No such file or directory"}
    line = event_line("data_error", value).rstrip()
    assert ("data", "/data/train.rec: No such file or directory") == verdict([*CLEAN, line])
    assert verdict([*CLEAN, line[:-20]]) is None
