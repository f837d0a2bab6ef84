"""The processes of an original program: started, read line by line, and ended with all that they started."""

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

TICK_SECONDS = 0.1
GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
# From SIGKILL to the end of a process that is not stuck in the kernel.
KILL_SECONDS = 10.0
# What outlives the processes and holds their output is listened to no longer than this.
_LAST_WORDS_SECONDS = 1.0
# A longer line is passed on in pieces.
LONGEST_LINE = 1 << 20
_READ_BYTES = 1 << 16


class ProcessSpec(NamedTuple):
    """One process to start: its variables are added to ours; empty `cpus` leave it on ours."""

    argv: List[str]
    env: Dict[str, str]
    folder: str
    cpus: List[int]


class _Process:
    """A started process and the pipe of its output."""

    def __init__(self, spec: ProcessSpec, work: Path) -> None:
        everywhere = os.sched_getaffinity(0)
        try:
            if spec.cpus:
                os.sched_setaffinity(0, spec.cpus)  # the child inherits it
            self.popen = subprocess.Popen(
                spec.argv,
                cwd=str(work / spec.folder),
                env={**os.environ, **spec.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, everywhere)
        pipe = self.popen.stdout.fileno()  # type: ignore[union-attr]
        os.set_blocking(pipe, False)
        self.pipe: Optional[int] = pipe
        self._unfinished = b""

    def read(self) -> List[bytes]:
        """The whole lines that have come, with their ends; at the end of the pipe what is left."""
        if self.pipe is None:
            return []
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self.close()
            left, self._unfinished = self._unfinished, b""
            return [left + b"\n"] if left else []
        lines = (self._unfinished + data).splitlines(keepends=True)
        self._unfinished = b""
        if lines[-1][-1:] != b"\n" and len(lines[-1]) <= LONGEST_LINE:
            self._unfinished = lines.pop()
        return lines

    def close(self) -> None:
        """Read no more."""
        self.pipe = None
        self.popen.stdout.close()  # type: ignore[union-attr]

    def signal(self, number: int) -> None:
        """Send a signal to the process and its group."""
        with contextlib.suppress(OSError):  # nothing is left of it
            os.killpg(self.popen.pid, number)

    @property
    def has_ended(self) -> bool:
        """Whether the process itself has; what it started may go on."""
        return self.popen.poll() is not None


class Processes:
    """All processes of a program, in the order of their specifications."""

    def __init__(self, specs: List[ProcessSpec], work: Path) -> None:
        """Start them; OSError where one cannot be started, and then none is left."""
        self._all: List[_Process] = []
        try:
            for spec in specs:
                self._all.append(_Process(spec, work))
        except OSError:
            self.end(kill=True)
            raise

    def lines(self) -> Iterator[Optional[Tuple[int, bytes]]]:
        """Process and line, as they come, until all have ended or one has failed; None where none came."""
        while self.failure is None and not all(process.has_ended for process in self._all):
            came = False
            for line in self._read(TICK_SECONDS):
                came = True
                yield line
            if not came:
                yield None
        yield from self._rest()

    @property
    def failure(self) -> Optional[int]:
        """The exit code of the first process that failed, negative for a signal; None where none has."""
        codes = (process.popen.poll() for process in self._all)
        return next((code for code in codes if code), None)

    def end(self, *, kill: bool = False) -> List[Tuple[int, bytes]]:
        """Ask all to end, then kill them and what is left of their groups; their last lines."""
        last = [] if kill else list(self._signalled(signal.SIGTERM, GRACE_SECONDS))
        last += self._signalled(signal.SIGKILL, KILL_SECONDS)
        last += self._rest()
        for process in self._all:
            process.close()
        return last

    def _rest(self) -> Iterator[Tuple[int, bytes]]:
        """What is in the pipes."""
        deadline, came = time.monotonic() + _LAST_WORDS_SECONDS, True
        while came and time.monotonic() < deadline:
            came = False
            for line in self._read(0.0):
                came = True
                yield line

    def _signalled(self, number: int, seconds: float) -> Iterator[Tuple[int, bytes]]:
        for process in self._all:
            process.signal(number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(process.has_ended for process in self._all):
            yield from self._read(TICK_SECONDS)

    def _read(self, seconds: float) -> Iterator[Tuple[int, bytes]]:
        """Wait up to `seconds` for output; the lines of one read of each process."""
        pipes = [process.pipe for process in self._all if process.pipe is not None]
        if not pipes:
            time.sleep(seconds)
            return
        ready = set(select.select(pipes, [], [], seconds)[0])
        for number, process in enumerate(self._all):
            if process.pipe in ready:
                for line in process.read():
                    yield number, line
