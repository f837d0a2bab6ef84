"""What a connection to a node carries: code, requests and answers, a supervisor's streams, files."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import queue
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from dlperf.files import shipped_folder, write_atomically
from dlperf.layout import LOGS_FOLDER, MOST_TELEMETRY_BYTES, OUTCOME_NAME, is_telemetry

# A node is lost if a beat has no answer for so long.
BEAT_SECONDS, SILENCE_SECONDS = 2.5, 9.5
# When this process was stopped and goes on, the answer may lie in a buffer, unread.
_SECOND_LOOK_SECONDS = 1.0
# From the loss of a node until the user is told: the pause between beats, the silence, and some work of ours.
LOSS_SECONDS = BEAT_SECONDS + SILENCE_SECONDS + 0.5
_ANSWER_SECONDS = 120.0
_GREETING_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_LONGEST_COMPLAINT = 2000
_LONGEST_SHOWN = 60  # bytes
_STARTUP_FILES = "let startup files (such as ~/.bashrc)"

# For any Python. WORK HASH BYTES PROGRAM: say whether the code is there, receive it if not, become PROGRAM.
# The rest of standard input is for PROGRAM, so nothing is read ahead.
_BOOTSTRAP = """
import io, os, sys, tarfile, tempfile
work, name, size = os.path.expanduser(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if sys.version_info < (3, 8):
    sys.exit("dlperf needs Python 3.8 or newer on the node, this is %s" % sys.version.split()[0])
codes = os.path.join(os.path.abspath(work), "code")
code = os.path.join(codes, name)
there = os.path.isdir(code)
try:
    os.makedirs(codes, exist_ok=True)
except OSError as error:
    sys.exit("the working folder cannot be made: %s" % error)
os.write(1, b"there\\n" if there else b"missing\\n")
if not there:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit("the code came only in part")
        parts.append(part)
        size -= len(part)
    made = tempfile.mkdtemp(prefix=".coming-", dir=codes)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(made)
    os.chmod(made, 0o755)
    try:
        os.rename(made, code)
    except OSError:
        if not os.path.isdir(code):
            raise
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-I", "-c", sys.argv[4], code, sys.argv[1]])
"""
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from frameworks.node.__main__ import main; sys.exit(main())"
)


class LinkError(Exception):
    """There is no connection; `hopeless`: another attempt would change nothing."""

    def __init__(self, text: str, *, hopeless: bool = False) -> None:
        self.hopeless = hopeless
        super().__init__(text)


class Channel(Protocol):
    """The standard streams of one command on a node, as paramiko has them."""

    closed: bool

    def settimeout(self, timeout: float | None, /) -> None:
        """How long `recv` waits, in seconds; None: for ever."""

    def recv(self, nbytes: int, /) -> bytes:
        """At most so many bytes of standard output; b"" at its end. TimeoutError after the timeout."""

    def recv_stderr(self, nbytes: int, /) -> bytes:
        """At most so many bytes of standard error; b"" at its end."""

    def sendall(self, data: bytes, /) -> None:
        """Write to standard input; OSError or EOFError where that is closed."""

    def shutdown_write(self) -> None:
        """End standard input."""

    def recv_exit_status(self) -> int:
        """Wait for the exit code; -1 where a signal ended the command or the connection broke."""

    def exit_status_ready(self) -> bool:
        """Whether the command has ended."""

    def makefile(self, *mode: str) -> Any:
        """Standard output as a file."""

    def close(self) -> None:
        """Close the streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a node needs of dlperf: a tar, and the hash of its files as its name."""

    name: str
    content: bytes


@cache
def shipped_code() -> Code:
    """All Python files of `frameworks/`; the same files give the same bytes."""
    root = shipped_folder("frameworks")
    digest, stream = hashlib.sha256(), io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(Path("frameworks") / path.relative_to(root)))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
            digest.update(entry.name.encode() + b"\0" + content + b"\0")
    return Code(name=digest.hexdigest()[:16], content=stream.getvalue())


def attend_command(python: str, *, work: str, code: Code) -> list[str]:
    """The command that receives the code if it is missing and then answers requests."""
    words = [work, code.name, str(len(code.content)), one_line(_PROGRAM)]
    return [python, "-I", "-B", "-c", one_line(_BOOTSTRAP), *words]


def node_command(python: str, *, code: Path, work: str, words: Sequence[str]) -> list[str]:
    """The command for anything else that `frameworks/node` does."""
    # Each run starts such a program twice: with byte code, as the folder of the code is dlperf's own, and
    # without the packages of the interpreter (-S), which can take longer to find than all else.
    return [python, "-I", "-S", "-c", one_line(_PROGRAM), str(code), work, *words]


def one_line(source: str) -> str:
    """Python source without a character that a login shell could change."""
    packed = base64.b64encode(source.encode()).decode()
    return f"import base64;exec(base64.b64decode('{packed}'))"


class Silent(Exception):
    """The node no longer answers."""


class Refusal(Exception):
    """The node answers that it cannot; the text says why."""


class Attendant:
    """`frameworks/node/attend.py` at the other end of a channel. It takes one request at a time."""

    def __init__(self, channel: Channel, *, lost: Callable[[str], None], unread: bytes = b"") -> None:
        """`unread` was read from the channel already; `lost` is called at most once, from a thread."""
        self._channel, self._lost, self._unread = channel, lost, unread
        self._asking = threading.Lock()
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._beaten, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._beat)]
        for thread in self._threads:
            thread.start()

    def ask(
        self,
        op: str,
        *,
        progress: Callable[[str], None] = lambda _text: None,
        limit_seconds: float | None = _ANSWER_SECONDS,
        **arguments: Any,
    ) -> dict[str, Any]:
        """The answer to a request; Refusal or Silent if there is none. `progress` receives lines."""
        with self._asking:
            self._send({"op": op, **arguments})
            while True:
                try:
                    answer = self._answers.get(timeout=limit_seconds)
                except queue.Empty:
                    raise Silent(f"no answer to {op!r} within {limit_seconds:g} s") from None
                if answer is None:
                    self._answers.put(None)  # for whoever asks next
                    raise Silent("the connection broke")
                if "progress" in answer:
                    progress(str(answer["progress"]))
                elif "refused" in answer:
                    raise Refusal(str(answer["refused"]))
                else:
                    return answer

    def close(self) -> None:
        """End it, which releases what it holds on the node."""
        self._end()
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _end(self) -> bool:
        """End the thread that beats; whether this call ended it."""
        was_over = self._over.is_set()
        self._over.set()
        self._beaten.set()
        return not was_over

    def _send(self, content: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(content).encode() + b"\n")
        except (OSError, EOFError) as error:
            raise Silent("the connection broke") from error

    def _read(self) -> None:
        unfinished = self._unread
        while True:
            *lines, unfinished = unfinished.split(b"\n")
            for line in lines:
                self._take(line)
            try:
                data = self._channel.recv(1 << 16)
            except (OSError, EOFError):
                data = b""
            if not data:
                break
            unfinished += data
        self._answers.put(None)
        if self._end():
            self._lost(errors_of(self._channel) or "the connection broke")

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "beat" in answer:
                self._beaten.set()
            elif isinstance(answer, dict):
                self._answers.put(answer)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._beaten.clear()
            if self._over.is_set():  # which woke us before, or does below
                return
            with contextlib.suppress(Silent):
                self._send({"beat": 1})
            first_look = SILENCE_SECONDS - _SECOND_LOOK_SECONDS
            if not self._beaten.wait(first_look) and not self._beaten.wait(_SECOND_LOOK_SECONDS):
                if self._end():
                    self._lost(f"no sign of life for {SILENCE_SECONDS:g} s")
                return


def greet(channel: Channel, *, code: Code, python: str) -> bytes:
    """Wait until `attend_command` has started, and send the code if it is missing; Refusal if it fails.

    Returns what was read after the greeting.
    """
    channel.settimeout(_GREETING_SECONDS)
    data = b""
    try:
        while b"\n" not in data and (part := channel.recv(_CHUNK_BYTES)):
            data += part
    except TimeoutError:
        raise Refusal(
            f"its login shell or the prefix started no command within {_GREETING_SECONDS:g} s; "
            f"{_STARTUP_FILES} neither sleep nor read standard input where there is no terminal"
        ) from None
    greeting, _, unread = data.partition(b"\n")
    if greeting == b"missing":
        channel.sendall(code.content)
    elif not greeting:
        words = errors_of(channel) or "it ended without a message"
        if words.startswith("Unknown option: -I"):
            words = "dlperf needs Python 3.8 or newer on the node, this is older than 3.4"
        raise Refusal(f"{python} does not start dlperf there: {words}")
    elif greeting != b"there":
        shown = greeting[:_LONGEST_SHOWN].decode(errors="replace")
        raise Refusal(
            f"its login shell or the prefix prints {shown!r} before any command; "
            f"{_STARTUP_FILES} print nothing where there is no terminal"
        )
    channel.settimeout(None)
    return unread


@dataclass(frozen=True, slots=True)
class RemoteConnection:
    """A supervisor at the other end of a channel."""

    _channel: Channel  # kept, because paramiko closes one that nobody holds
    _is_up: Callable[[], bool]
    removal_command: str
    kill_tree: Callable[[], None]
    give_up: Callable[[], None]

    def receive(self) -> bytes:
        return self._channel.recv(_CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except EOFError as error:
            raise OSError("the connection is closed") from error

    def exit_code(self) -> int | None:
        """See Connection; -1 where a signal ended the supervisor."""
        code = self._channel.recv_exit_status()
        return None if code < 0 and not self._is_up() else code

    def complaint(self) -> str:
        return errors_of(self._channel)

    def hang_up(self) -> None:
        if not self._channel.closed:
            self._channel.shutdown_write()

    def has_ended(self) -> bool:
        return self._channel.exit_status_ready()

    def close(self) -> None:
        self._channel.close()


def errors_of(channel: Channel) -> str:
    """The end of the standard error of a program that has ended, as one line."""
    text = b""
    with contextlib.suppress(OSError, EOFError):
        while data := channel.recv_stderr(_CHUNK_BYTES):
            text = (text + data)[-_LONGEST_COMPLAINT:]
    return " ".join(text.decode(errors="replace").split())


def send_all(channel: Channel, content: IO[bytes]) -> tuple[int, str]:
    """Send `content` to a program; returns its exit code and its standard error."""
    with contextlib.suppress(OSError, EOFError):  # the program or the connection ended: its exit code tells
        while data := content.read(1 << 20):
            channel.sendall(data)
        channel.shutdown_write()
    return channel.recv_exit_status(), errors_of(channel)


def unpack(archive: tarfile.TarFile, folder: Path, *, outcome: str) -> None:
    """Extract logs, telemetry and outcome from a node's archive, and nothing else."""
    (folder / LOGS_FOLDER).mkdir(exist_ok=True)
    for entry in archive:
        stream = archive.extractfile(entry) if entry.isfile() else None
        path = PurePosixPath(entry.name)
        if stream is None:
            continue
        if entry.name == OUTCOME_NAME:
            write_atomically(folder / outcome, stream.read())
        elif is_telemetry(entry.name):
            write_atomically(folder / entry.name, stream.read(MOST_TELEMETRY_BYTES))
        elif path.parent == PurePosixPath(LOGS_FOLDER) and path.match("rank*.log"):
            with (folder / LOGS_FOLDER / path.name).open("wb") as log:
                while data := stream.read(1 << 20):
                    log.write(data)
                log.flush()
                os.fsync(log.fileno())
