"""Every way in which a run is ended from outside: what is left, what is reported, how long it takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import HungDisk, hanging_disk
from processes import PROMISED_SECONDS, until
from supervisor_lab import LOOSE_CHILD, Lab

from frameworks.rank_memory import node_oom_kills

WORKS_FOREVER = "import time\nprint('working')\ntime.sleep(600)"
# The rank and its loose grandchild both ignore SIGTERM.
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)" + LOOSE_CHILD + WORKS_FOREVER
LOOSE_CHILD_AND_WORK = LOOSE_CHILD + WORKS_FOREVER


def started(lab: Lab) -> subprocess.Popen[bytes]:
    process = lab.start()
    lab.until_log(b"working\n")
    return process


def worker_of(guard: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def until_gone(lab: Lab) -> float:
    return until(lambda: not lab.left(), limit=PROMISED_SECONDS, what="nothing is left of the run")


def test_the_end_of_standard_input_ends_everything(lab: Lab) -> None:
    """What happens when the harness is killed: the kernel closes its end of the pipe."""
    lab.launch(STUBBORN, STUBBORN)
    process = started(lab)
    lab.until_log(b"working\n", rank=1)
    assert process.stdin is not None
    process.stdin.close()
    until_gone(lab)
    assert process.wait(timeout=60) == 1
    assert lab.outcome["reason"] == "lease_lost"
    assert lab.outcome["detail"] == "standard input ended"
    assert lab.outcome["first_failed_rank"] is None


def test_a_lease_that_is_not_renewed_ends_everything(lab: Lab) -> None:
    lab.launch(LOOSE_CHILD_AND_WORK, lease_seconds=2, grace_seconds=0.2)
    process = lab.start()
    assert process.wait(timeout=60) == 1
    assert lab.outcome["reason"] == "lease_lost"
    assert lab.outcome["detail"] == "standard input was silent"
    assert lab.left() == set()


def test_a_renewed_lease_keeps_the_run_going(lab: Lab) -> None:
    lab.launch("import time\nprint('working')\ntime.sleep(5)", lease_seconds=3)
    process = started_with_beats(lab)
    assert process.wait(timeout=60) == 0
    assert lab.outcome["reason"] == "completed"


def test_without_a_lease_standard_input_does_not_matter(lab: Lab) -> None:
    lab.launch("print('done')", lease_seconds=None)
    process = lab.start(stdin=subprocess.DEVNULL)
    assert process.wait(timeout=60) == 0


def test_silence_of_every_rank_is_a_stall(lab: Lab) -> None:
    lab.launch(LOOSE_CHILD_AND_WORK, stall_limit_seconds=3, grace_seconds=0.2)
    process = lab.start()
    assert process.wait(timeout=60) == 1
    assert lab.outcome["reason"] == "stall_limit"
    assert b"working\n" in lab.log()
    assert lab.left() == set()


@pytest.mark.slow
def test_output_of_one_rank_keeps_the_others_from_stalling(lab: Lab) -> None:
    speaks = "import time\nfor _ in range(24): print('.', end='', flush=True); time.sleep(0.25)"
    lab.launch("import time; time.sleep(5.5)", speaks, stall_limit_seconds=4)
    code, _ = lab.run()
    assert code == 0
    assert lab.outcome["seconds"] > 5


def test_the_time_limit_ends_a_rank_that_prints(lab: Lab) -> None:
    lab.launch("import time\nwhile True: print('.'); time.sleep(0.05)", time_limit_seconds=1)
    code, _ = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "time_limit"
    assert 1 <= lab.outcome["seconds"] < 30
    assert lab.outcome["ranks"][0]["signal"] == signal.SIGTERM


def test_a_rank_that_prints_without_a_pause_is_ended_too(lab: Lab) -> None:
    lab.launch("import os\nwhile True: os.write(1, b'x' * 100 + b'\\n')", time_limit_seconds=1)
    code, _ = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "time_limit"
    assert lab.outcome["seconds"] < 30


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"\\n", b"x" * 63 + b"\\n"], ids=["newlines", "lines of 64 bytes"])
def test_a_flood_of_lines_goes_into_the_log_at_speed(lab: Lab, line: bytes) -> None:
    """The harness renews its lease and reads as fast as it can."""
    size = 400_000_000 if len(line) > 2 else 80_000_000
    block = f"b'{line.decode()}' * {(1 << 16) // (len(line) - 1)}"
    lab.launch(
        f"import os\nblock = {block}\nleft = {size}\nwhile left > 0: left -= os.write(1, block)",
        lease_seconds=5,
        time_limit_seconds=600,
    )
    process = started_with_beats(lab)
    assert process.stdout is not None
    events = [json.loads(text) for text in process.stdout]
    assert process.wait() == 0
    assert (lab.folder / "logs" / "rank0.log").stat().st_size >= size
    assert lab.outcome["seconds"] < size / 4e6  # the disk of the test and its other work have limits, too
    kinds = [event["event"] for event in events]
    assert kinds[-2:] == ["rank_exit", "finished"]  # the flood has taken no other event's room


def started_with_beats(lab: Lab) -> subprocess.Popen[bytes]:
    """Start the supervisor, and a thread that renews its lease."""
    process = lab.start()
    assert process.stdin is not None
    stdin = process.stdin.fileno()

    def beat() -> None:
        with contextlib.suppress(OSError):
            while process.poll() is None:
                os.write(stdin, b".")
                time.sleep(0.2)

    threading.Thread(target=beat, daemon=True).start()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_ranks_and_keeps_their_last_output(lab: Lab, number: signal.Signals) -> None:
    lab.launch(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('last word'), sys.exit(0)))\n" + WORKS_FOREVER,
        grace_seconds=600,
    )
    process = started(lab)
    process.send_signal(number)
    assert process.wait(timeout=60) == 1
    assert lab.outcome["reason"] == "stopped"
    assert lab.outcome["detail"] == f"signal {number.name}"
    assert lab.log() == b"working\nlast word\n"


def test_a_rank_that_ignores_sigterm_is_killed_after_the_grace_period(lab: Lab) -> None:
    lab.launch(STUBBORN, grace_seconds=1)
    process = started(lab)
    before = time.monotonic()
    process.terminate()
    process.wait(timeout=60)
    assert time.monotonic() - before >= 1
    assert lab.outcome["ranks"][0]["signal"] == signal.SIGKILL
    assert lab.left() == set()


def test_the_second_signal_kills_at_once(lab: Lab) -> None:
    lab.launch(STUBBORN, grace_seconds=600)
    process = started(lab)

    def gone_after_another_signal() -> bool:
        process.terminate()  # two that come too close are one for the kernel
        return not lab.left()

    until(gone_after_another_signal, limit=PROMISED_SECONDS)
    process.wait(timeout=60)
    assert lab.outcome["reason"] == "stopped"


@pytest.mark.parametrize(("byte", "ended_by"), [(b"s", signal.SIGTERM), (b"k", signal.SIGKILL)])
def test_the_harness_stops_and_kills_through_standard_input(
    lab: Lab, byte: bytes, ended_by: signal.Signals
) -> None:
    lab.launch(WORKS_FOREVER)
    process = started(lab)
    assert process.stdin is not None
    process.stdin.write(byte)
    process.stdin.flush()
    assert process.wait(timeout=60) == 1
    assert lab.outcome["reason"] == "stopped"
    assert lab.outcome["detail"] == "asked to by the harness"
    assert lab.outcome["ranks"][0]["signal"] == ended_by


def test_a_stopped_process_is_woken_and_ended(lab: Lab) -> None:
    lab.launch("import os, signal\nprint('working')\nos.kill(os.getpid(), signal.SIGSTOP)")
    process = started(lab)
    process.terminate()
    assert process.wait(timeout=60) == 1
    assert lab.left() == set()


def test_kill_9_of_the_supervisor_leaves_nothing(lab: Lab) -> None:
    lab.launch(STUBBORN, grace_seconds=1)
    process = started(lab)
    process.kill()
    until_gone(lab)
    until((lab.folder / "outcome.json").exists)
    assert lab.outcome["reason"] == "stopped"


def test_kill_9_of_the_supervisors_guard_leaves_nothing(lab: Lab) -> None:
    lab.launch(STUBBORN)
    process = started(lab)
    os.kill(worker_of(process), signal.SIGKILL)
    until_gone(lab)
    assert process.wait(timeout=60) == 4
    assert not (lab.folder / "outcome.json").exists()


def test_a_supervisor_that_stands_still_is_killed_by_its_guard(lab: Lab) -> None:
    lab.launch(STUBBORN, silence_seconds=1)
    process = started(lab)
    os.kill(worker_of(process), signal.SIGSTOP)
    assert process.wait(timeout=60) == 6
    assert lab.left() == set()
    assert process.stderr is not None
    assert process.stderr.read() == b"supervisor.py: stood still for 1 s\n"


def test_a_guard_that_was_suspended_finds_the_signs_of_life_of_meanwhile(lab: Lab) -> None:
    lab.launch("import time\nprint('working')\ntime.sleep(6)", silence_seconds=2)
    process = started(lab)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # longer than the guard would wait
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    assert lab.outcome["reason"] == "completed"


@pytest.fixture
def hung_disk(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HungDisk]:
    """A disk where the run folder is, which can be made to answer no more."""
    with hanging_disk(lab.folder, image=tmp_path_factory.mktemp("disk") / "image") as disk:
        yield disk


@pytest.mark.slow
def test_a_disk_that_does_not_answer_ends_the_ranks(lab: Lab, hung_disk: HungDisk) -> None:
    lab.launch("import time\nwhile True: print('working'); time.sleep(0.05)", silence_seconds=1)
    process = started(lab)
    worker = worker_of(process)
    hung_disk.hang()
    until(lambda: lab.left() == set())  # a rank does not wait for the disk
    assert process.wait(timeout=60) == 6
    assert Path(f"/proc/{worker}").exists()  # the kernel ends it when the disk answers
    hung_disk.answer()
    until(lambda: not Path(f"/proc/{worker}").exists())


def test_kill_9_of_both_halves_at_once_ends_the_ranks(lab: Lab) -> None:
    lab.launch(WORKS_FOREVER, WORKS_FOREVER)
    process = started(lab)
    worker = worker_of(process)
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot act on the end of the other
    os.kill(worker, signal.SIGKILL)
    process.kill()
    until_gone(lab)


@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Path]:
    """A file system of 256 KiB where the run folder is."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a full disk needs root, to mount a small tmpfs")
    options = ["-t", "tmpfs", "-o", "size=256k"]
    done = subprocess.run(
        ["mount", *options, "dlperf-test", str(lab.folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, which cannot be mounted here: {done.stderr.strip()}")
    yield lab.folder
    until(lambda: not lab.left())
    subprocess.run(["umount", "-l", str(lab.folder)], check=True)


def test_a_full_disk_ends_the_run_and_is_reported(lab: Lab, small_disk: Path) -> None:
    lab.launch(LOOSE_CHILD + "while True: print('x' * 1000); time.sleep(0.001)", grace_seconds=0.3)
    code, _ = lab.run()
    assert code == 1
    assert lab.outcome["reason"] == "stopped"
    assert lab.outcome["detail"] == "[Errno 28] No space left on device: 'logs/rank0.log'"
    assert shutil.disk_usage(small_disk).free <= 4096
    assert lab.left() == set()


def test_a_disk_that_is_full_at_the_start_is_reported(lab: Lab, small_disk: Path) -> None:
    lab.launch("print('never')")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"x" * free)
    process = lab.start()
    _, errors = process.communicate()
    assert process.returncode == 5
    file = lab.folder / ".outcome.json.unfinished"
    assert errors.decode() == f"supervisor.py: {file}: No space left on device\n"
    assert not file.exists()


def test_the_kernels_out_of_memory_kills_are_counted(lab: Lab) -> None:
    """Those of the whole machine, where other tests may run out of memory."""
    lab.launch("print('small')")
    before = node_oom_kills()
    lab.run()
    assert 0 <= lab.outcome["oom_kills"] <= node_oom_kills() - before


def test_the_kernel_kills_a_rank_first_when_memory_runs_out(lab: Lab) -> None:
    lab.launch("import time\nprint('working')\ntime.sleep(600)")
    process = started(lab)
    (rank,) = lab.left()
    until(lambda: Path(f"/proc/{rank}/oom_score_adj").read_text() == "500\n")
    assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) < 500
