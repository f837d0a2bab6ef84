"""What the supervisor reads and writes: launch.json, lines on standard output, outcome.json.

docs/formats.md, "Supervisor", describes all three.
"""

import contextlib
import json
import os
import queue
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

ECHO_LINES, ECHO_CHARACTERS, ECHO_CLOSE_SECONDS = 1000, 4000, 1.0
# Of one read of a rank's output; the rest of the queue is for the ends of ranks.
ECHO_LINES_PER_READ = 100
# A worker that shows no sign of life for so long is stopped, or its disk does not answer.
SILENCE_SECONDS = 60.0
# Of one rank: a program that prints without end would fill the disk.
LOG_LIMIT_BYTES = 4 << 30


class RankSpec(NamedTuple):
    """One process to start; empty `cpus` leave it unbound.

    `env` is added to what it inherits. What it inherits replaces `defaults` of the same name, and follows
    `paths` of the same name. `memory_bytes` is its budget; None: no budget.
    """

    rank: int
    argv: List[str]
    env: Dict[str, str]
    cpus: List[int]
    log: str
    memory_bytes: Optional[int] = None
    defaults: Mapping[str, str] = MappingProxyType({})
    paths: Mapping[str, str] = MappingProxyType({})


class Launch(NamedTuple):
    """launch.json. A limit of None means no limit."""

    ranks: List[RankSpec]
    inherit: List[str]
    time_limit: Optional[float]
    stall_limit: Optional[float]
    lease: Optional[float]
    grace: float
    silence: float
    log_limit: int
    files: Mapping[str, str] = MappingProxyType({})
    telemetry: Optional[Dict[str, Any]] = None  # for frameworks/node/telemetry.py; None: nothing is sampled


# Of an original program, in the run folder: a copy of its source, for as long as the run goes on.
WORK_FOLDER = "work"


def write_files(launch: Launch) -> None:
    """Write the files that launch.json carries; ValueError where a name is more than that of a file here."""
    for name, text in launch.files.items():
        if Path(name).name != name:
            raise ValueError(f"files: {name!r} is not the name of a file")
        Path(name).write_text(text, encoding="utf-8")


def read_launch(path: str) -> Launch:
    """Read launch.json; OSError, ValueError, KeyError or TypeError if it is invalid."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if content["schema_version"] != 1:
        raise ValueError("schema_version is {!r}, not 1".format(content["schema_version"]))
    return Launch(
        ranks=[RankSpec(**rank) for rank in content["ranks"]],
        inherit=content["inherit"],
        time_limit=content["time_limit_seconds"],
        stall_limit=content["stall_limit_seconds"],
        lease=content["lease_seconds"],
        grace=content["grace_seconds"],
        silence=content.get("silence_seconds", SILENCE_SECONDS),
        log_limit=content.get("log_limit_bytes", LOG_LIMIT_BYTES),
        files=content.get("files", {}),
        telemetry=content.get("telemetry"),
    )


class Echo:
    """JSON lines on standard output, for watching only.

    A thread writes them: a reader that is slow or gone loses lines and delays nothing.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[Optional[bytes]] = queue.Queue(ECHO_LINES)
        self._thread = threading.Thread(target=self._write, daemon=True)

    @property
    def room(self) -> int:
        """How many lines of output are worth making now."""
        return max(0, min(ECHO_LINES_PER_READ, ECHO_LINES // 2 - self._lines.qsize()))

    def start(self) -> None:
        """Begin to write; only after the ranks were forked, as fork and threads do not mix."""
        self._thread.start()

    def send(self, event: str, *, wait: float = 0.0, **content: Any) -> None:
        """Send a line if there is room for it within `wait` seconds."""
        line = json.dumps(dict(content, event=event)).encode() + b"\n"
        with contextlib.suppress(queue.Full):
            self._lines.put(line, block=wait > 0, timeout=wait or None)

    def close(self) -> None:
        """Give the reader a moment to take the remaining lines."""
        try:
            self._lines.put(None, timeout=ECHO_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(ECHO_CLOSE_SECONDS)

    def _write(self) -> None:
        line = self._lines.get()
        while line is not None:
            try:
                while line:
                    line = line[os.write(1, line) :]
            except OSError:
                return  # the reader is gone; the queue fills up and the rest is dropped
            line = self._lines.get()


class OutcomeFile:
    """outcome.json, written whole or not at all; its space is reserved first, in case the disk fills up."""

    def __init__(self, ranks: int) -> None:
        self._unfinished = Path(".outcome.json.unfinished").absolute()
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._unfinished, flags, 0o644)
        with self._whole_or_gone():
            os.posix_fallocate(self._descriptor, 0, 4096 + 256 * ranks)

    def write(self, content: Dict[str, Any]) -> None:
        """Put the content in place, whole."""
        data = json.dumps(content, indent=1).encode() + b"\n"
        with self._whole_or_gone():
            os.pwrite(self._descriptor, data, 0)
            os.ftruncate(self._descriptor, len(data))
            os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._unfinished.rename("outcome.json")
        folder = os.open(".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    @contextlib.contextmanager
    def _whole_or_gone(self) -> Iterator[None]:
        """Remove the file if the block fails; the error names it."""
        try:
            yield
        except OSError as error:
            self._unfinished.unlink()
            raise OSError(error.errno, error.strerror, str(self._unfinished)) from None
