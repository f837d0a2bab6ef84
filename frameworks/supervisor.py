"""`supervisor.py LAUNCH_FILE` starts the ranks of one node, logs their output, and leaves nothing running.

It runs in the run folder, on Linux, and needs only Python 3.8 and the modules in this folder.
docs/formats.md, "Supervisor", describes launch.json, outcome.json and the lines on standard output;
docs/reliability.md describes what happens when something dies.

Standard input is the lease: any byte renews it, `s` asks the ranks to end, `k` kills them. Its end means that
the harness is gone.
"""

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python -I` leaves it out

from frameworks.process_tree import (
    ENDING_SIGNALS,
    cpu_seconds_of_children,
    descendants,
    guarded,
    kill_all,
    signal_all,
)
from frameworks.rank import PIPE_BYTES, Rank
from frameworks.rank_memory import group_oom_kills, node_oom_kills, remove_left_groups
from frameworks.sampler import Sampler
from frameworks.supervisor_io import (
    ECHO_CLOSE_SECONDS,
    WORK_FOLDER,
    Echo,
    Launch,
    OutcomeFile,
    read_launch,
    write_files,
)

EXIT_COMPLETED, EXIT_NOT_COMPLETED, EXIT_BAD_LAUNCH = 0, 1, 2  # process_tree.py has more

# Output is read at most this often, so that a rank that prints a line per step is not slowed down by us.
READ_INTERVAL_SECONDS = 0.02
# A rank that fills half its pipe meanwhile waits for us.
FLOOD_BYTES = PIPE_BYTES // 2
TICK_SECONDS = 0.25
# Once the harness is gone, the ranks get less time to end.
ORPHAN_GRACE_SECONDS = 1.0


Ending = Tuple[str, Optional[str]]  # reason and detail of outcome.json


def _is_over(limit: Optional[float], seconds: float) -> bool:
    return limit is not None and seconds > limit


class Supervisor:
    """The ranks of one node from their start until nothing of them is left."""

    def __init__(self, launch: Launch, beat: Callable[[], None]) -> None:
        self._launch, self._beat = launch, beat
        self._echo = Echo()
        self._ranks: List[Rank] = []
        self._sampler: Optional[Sampler] = None
        self._open: Dict[int, Rank] = {}  # by the pipe of its output
        self._first_failed: Optional[int] = None
        self._stop: Optional[str] = None
        self._kill = self._harness_gone = self._over = False
        self._poll = select.poll()
        self._wake, wake_write = os.pipe()
        for end in (self._wake, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in ENDING_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wake-up pipe gets a byte
        self._poll.register(self._wake, select.POLLIN)
        if launch.lease is not None:
            self._poll.register(0, select.POLLIN)
        self._started = self._last_beat = self._last_output = time.monotonic()

    def run(self) -> Dict[str, Any]:
        """Run the ranks to their end and kill what is left; the content of outcome.json."""
        started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        node_before, group_before = node_oom_kills(), group_oom_kills()
        try:
            reason, detail = self._run_ranks()
        finally:
            left = self._end_all()
        if reason == "completed" and self._log_error() is not None:
            reason, detail = "stopped", self._log_error()
        node_after, group_after = node_oom_kills(), group_oom_kills()
        held_by = [rank.memory.held_by for rank in self._ranks if rank.memory.held_by is not None]
        outcome = {
            "schema_version": 1,
            "reason": reason,
            "detail": detail,
            "host": socket.gethostname(),
            "started_at": started_at,
            "seconds": round(time.monotonic() - self._started, 3),
            "ranks": [rank.as_json() for rank in self._ranks],
            "first_failed_rank": self._first_failed,
            "oom_kills": node_after - node_before,
            "cpu_seconds": round(cpu_seconds_of_children(), 3),
            "processes_left": sorted(left),
        }
        if self._sampler is not None:
            outcome["cpu_seconds"] = round(cpu_seconds_of_children() - self._sampler.cpu_seconds, 3)
            outcome["telemetry_cpu_seconds"] = round(self._sampler.cpu_seconds, 3)
        if group_before is not None and group_after is not None:
            outcome["group_oom_kills"] = group_after - group_before
        if held_by:
            outcome["memory_held_by"] = held_by[0]
        return outcome

    def finish(self, outcome: Dict[str, Any]) -> None:
        """Send the outcome as the last line."""
        self._echo.send("finished", wait=ECHO_CLOSE_SECONDS, outcome=outcome)
        self._echo.close()

    def _run_ranks(self) -> Ending:
        failure = self._start_ranks()
        if failure is None and self._launch.telemetry is not None:
            self._sampler = Sampler(self._launch.telemetry, [rank.pid for rank in self._ranks], self._cpus())
        self._echo.start()
        if failure is not None:
            return failure
        self._echo.send("started", pid=os.getpid(), ranks=[rank.pid for rank in self._ranks])
        ending = None
        while ending is None:
            self._turn(TICK_SECONDS)
            ending = self._ending()
        self._harness_gone = ending[0] == "lease_lost"
        return ending

    def _start_ranks(self) -> Optional[Ending]:
        for spec in self._launch.ranks:
            try:
                rank = Rank(spec, self._launch.inherit)
            except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
                return "start_failed", f"rank {spec.rank}: {error}"
            self._ranks.append(rank)
            self._open[rank.pipe] = rank
            self._poll.register(rank.pipe, select.POLLIN)
        return None

    def _cpus(self) -> List[int]:
        """Those that ranks may use."""
        ranks = self._launch.ranks
        bound = all(spec.cpus for spec in ranks)
        return sorted({cpu for spec in ranks for cpu in spec.cpus} if bound else os.sched_getaffinity(0))

    def _turn(self, timeout: float) -> None:
        """Wait for something to happen and record it."""
        self._beat()
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout * 1000)]
        outputs = [self._open[descriptor] for descriptor in ready if descriptor in self._open]
        if self._wake in ready:
            os.read(self._wake, 4096)
        if 0 in ready:
            self._read_lease()
        taken = 0
        for rank in outputs:
            taken += self._take_output(rank)
            if self._launch.lease is not None and not self._harness_gone and select.select([0], [], [], 0)[0]:
                self._read_lease()  # many ranks that print much may take long
        self._reap()
        if outputs:
            self._last_output = time.monotonic()
            if taken < FLOOD_BYTES:
                time.sleep(READ_INTERVAL_SECONDS)

    def _take_output(self, rank: Rank) -> int:
        """The number of bytes of one read; after 0 there may be no more."""
        count = rank.take_output(self._echo)
        if count == 0:
            del self._open[rank.pipe]
            self._poll.unregister(rank.pipe)
        return count or 0

    def _read_lease(self) -> None:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        self._last_beat = time.monotonic()
        if not data:
            self._poll.unregister(0)
            self._harness_gone = True
        if b"s" in data or b"k" in data:
            self._stop = "asked to by the harness"
        self._kill = self._kill or b"k" in data

    def _on_signal(self, number: int, _frame: Any) -> None:
        self._kill = self._stop is not None  # the second one
        self._stop = f"signal {signal.Signals(number).name}"

    def _reap(self) -> None:
        ranks = {rank.pid: rank for rank in self._ranks if rank.status is None}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._sampler is not None and pid == self._sampler.pid:
                self._sampler.ended(usage)
            rank = ranks.get(pid)
            if rank is None:
                continue  # an orphan, which is now our child
            rank.ended(status)
            if rank.pipe in self._open:
                self._take_output(rank)  # log its last output before its end
            if rank.failed and self._first_failed is None and not self._over:
                self._first_failed = rank.number
            self._echo.send("rank_exit", **rank.as_json())

    def _ending(self) -> Optional[Ending]:
        """Why the run ends now; None: it goes on."""
        launch, now = self._launch, time.monotonic()
        log_error = self._log_error()
        full = (rank.number for rank in self._ranks if rank.log_bytes > launch.log_limit)
        flooding, most_mib = next(full, None), launch.log_limit >> 20
        endings = (
            (self._stop is not None, ("stopped", self._stop)),
            (log_error is not None, ("stopped", log_error)),
            (self._first_failed is not None, ("rank_failed", None)),
            (flooding is not None, ("log_limit", f"rank {flooding} printed more than {most_mib} MiB")),
            (all(rank.status is not None for rank in self._ranks), ("completed", None)),
            (self._harness_gone, ("lease_lost", "standard input ended")),
            (_is_over(launch.lease, now - self._last_beat), ("lease_lost", "standard input was silent")),
            (_is_over(launch.time_limit, now - self._started), ("time_limit", None)),
            (_is_over(launch.stall_limit, now - self._last_output), ("stall_limit", None)),
        )
        return next((ending for holds, ending in endings if holds), None)

    def _log_error(self) -> Optional[str]:
        return next((str(rank.log_error) for rank in self._ranks if rank.log_error is not None), None)

    def _end_all(self) -> Set[int]:
        """Ask every descendant to end, then kill it; the processes that survive even SIGKILL."""
        self._over, grace = True, self._launch.grace
        if self._harness_gone:
            grace = min(grace, ORPHAN_GRACE_SECONDS)
        if self._kill or not signal_all(signal.SIGTERM):
            grace = 0.0
        signal_all(signal.SIGCONT)  # a stopped process cannot answer SIGTERM
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self._kill and descendants():
            self._turn(READ_INTERVAL_SECONDS)
        left = kill_all(lambda: self._turn(READ_INTERVAL_SECONDS))
        for rank in self._ranks:
            while rank.pipe in self._open and self._take_output(rank):
                pass  # no process is left that could write more
            self._beat()
            rank.close()
        return left


def supervise(launch: Launch, beat: Callable[[], None]) -> int:
    """Run the ranks and write outcome.json; the exit code."""
    remove_left_groups(mine=False)
    supervisor = Supervisor(launch, beat)
    file = OutcomeFile(len(launch.ranks))
    outcome = supervisor.run()
    file.write(outcome)
    supervisor.finish(outcome)
    return EXIT_COMPLETED if outcome["reason"] == "completed" else EXIT_NOT_COMPLETED


def main() -> int:
    """Do what the command line says; the exit code."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        print("usage: supervisor.py LAUNCH_FILE", file=sys.stderr)
        return EXIT_BAD_LAUNCH
    path = sys.argv[1]
    try:
        launch = read_launch(path)
        # Held until both processes are gone: whoever gets this lock knows that nothing runs in this folder.
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_files(launch)
    except BlockingIOError:
        print(f"supervisor.py: {path}: another supervisor runs here", file=sys.stderr)
        return EXIT_BAD_LAUNCH
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"supervisor.py: {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_BAD_LAUNCH
    try:
        return guarded(lambda beat: supervise(launch, beat), launch.silence)
    finally:
        if launch.files:
            shutil.rmtree(WORK_FOLDER, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
