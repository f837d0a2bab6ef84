"""One rank: its process, the pipe of its output, its log. For the supervisor, on Linux."""

import contextlib
import fcntl
import fnmatch
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from frameworks.process_tree import die_with_parent
from frameworks.rank_memory import RankMemory, group_name
from frameworks.supervisor_io import ECHO_CHARACTERS, Echo, RankSpec

F_SETPIPE_SZ = 1031
PIPE_BYTES = 1 << 20
# If memory runs out, the kernel should kill a rank, not the supervisor, the harness or the node's sshd.
RANK_OOM_SCORE = 500


class Rank:
    """One started process and the pipe of its output."""

    def __init__(self, spec: RankSpec, inherit: List[str]) -> None:
        """Start it; OSError with the reason if that fails."""
        self.number = spec.rank
        self.status: Optional[int] = None
        self.seconds: Optional[float] = None
        self.log_error: Optional[OSError] = None
        self.log_bytes = 0
        self._log_path = spec.log
        self._unfinished = b""
        Path(spec.log).parent.mkdir(parents=True, exist_ok=True)
        self._log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.pipe, write_end = os.pipe()
        os.set_blocking(self.pipe, False)
        with contextlib.suppress(OSError):  # the user may have no pipe memory left
            fcntl.fcntl(write_end, F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self.memory = RankMemory(group_name(os.getppid(), spec.rank), budget=spec.memory_bytes)
            self.pid = _start(spec, inherit, write_end, self.memory)
        finally:
            os.close(write_end)
        self.started = time.monotonic()

    def take_output(self, echo: Echo) -> Optional[int]:
        """Move at most one pipe full of output to the log; the number of bytes, or None if there was nothing.

        0 means the end of the pipe. It does not read until the pipe is empty, because a rank that prints
        without end would keep us here.
        """
        try:
            data = os.read(self.pipe, PIPE_BYTES)
        except BlockingIOError:
            return None
        self._write_log(data)
        self._show(data or (b"\n" if self._unfinished else b""), echo)
        return len(data)

    def _write_log(self, data: bytes) -> None:
        self.log_bytes += len(data)
        try:
            while data and self.log_error is None:
                data = data[os.write(self._log, data) :]
        except OSError as error:
            error.filename = self._log_path
            self.log_error = error

    def _show(self, data: bytes, echo: Echo) -> None:
        """Echo the first lines; of a flood, which nobody could read as it comes, the log has the rest."""
        *lines, rest = (self._unfinished + data).split(b"\n", echo.room)
        for line in lines:
            text = line[:ECHO_CHARACTERS].decode("utf-8", "replace").rstrip("\r")
            echo.send("output", rank=self.number, text=text)
        self._unfinished = rest[rest.rfind(b"\n") + 1 :][:ECHO_CHARACTERS]

    def ended(self, status: int) -> None:
        """Keep the status that waitpid returned."""
        self.status, self.seconds = status, time.monotonic() - self.started

    @property
    def failed(self) -> bool:
        """Whether it has ended with anything but exit code 0."""
        return bool(self.status)

    def as_json(self) -> Dict[str, Any]:
        """Its entry in outcome.json."""
        exit_code = number = None
        if self.status is not None and os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
        elif self.status is not None:
            exit_code = os.WEXITSTATUS(self.status)
        seconds = None if self.seconds is None else round(self.seconds, 3)
        entry = {"rank": self.number, "exit_code": exit_code, "signal": number, "seconds": seconds}
        if self.memory.oom_kills is not None:
            entry["oom_kills"] = self.memory.oom_kills
        return entry

    def close(self) -> None:
        """Flush the log to disk."""
        try:
            os.fsync(self._log)
            os.close(self._log)
        except OSError as error:
            error.filename = self._log_path
            self.log_error = self.log_error or error
        os.close(self.pipe)
        self.memory.close()


def _variables(spec: RankSpec, inherit: List[str]) -> Dict[str, str]:
    """The environment of a rank; an empty part of a search path would stand for the working folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in inherit)
    }
    found = {**spec.defaults, **kept, **spec.env}
    for name, path in spec.paths.items():
        found[name] = f"{path}:{kept[name]}" if kept.get(name) else path
    return found


def _start(spec: RankSpec, inherit: List[str], output: int, memory: RankMemory) -> int:
    supervisor, everywhere = os.getpid(), os.sched_getaffinity(0)

    def prepare() -> None:
        die_with_parent(signal.SIGKILL, supervisor)
        memory.enter()

    if spec.cpus:
        os.sched_setaffinity(0, spec.cpus)  # the child inherits it; errors are readable here
    try:
        process = subprocess.Popen(
            spec.argv,
            env=_variables(spec, inherit),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  no threads yet
        )
    finally:
        os.sched_setaffinity(0, everywhere)
    process.returncode = 0  # reaped by pid, together with the orphans
    with contextlib.suppress(OSError):
        Path("/proc", str(process.pid), "oom_score_adj").write_text(str(RANK_OOM_SCORE))
    return process.pid
