"""One long step of a batch system as the way to a node: the commands of a run share its pipes.

frameworks/node/channels.py at the other end describes the frames. To what uses it, a `StepChannel` is what a
channel of paramiko is: the standard streams of one command.
"""

from __future__ import annotations

import json
import queue
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader, RawIOBase
from typing import Final

from dlperf.files import shipped_folder
from dlperf.running.transports.session import LinkError, one_line

_OPEN, _DATA, _END, _CLOSE, _ERRORS, _EXIT, _FAILED, _HELLO, _TAKEN = range(1, 10)
_HEADER: Final = struct.Struct("!IBI")
_MOST_FRAME_BYTES: Final = 1 << 20  # a longer one is the noise of another program on the same stream
_CHUNK_BYTES: Final = 1 << 16
_WINDOW_BYTES: Final = 1 << 20
# As on the node: a small frame can hold the next one back.
_TAKEN_BYTES: Final = _WINDOW_BYTES // 4
_LONGEST_COMPLAINT: Final = 2000
_CLOSE_SECONDS: Final = 10.0
_LOST = -1  # the exit code of a command whose step was lost, as paramiko has it


Frame = tuple[int, bytes]  # kind and content


class StepChannel:
    """The standard streams of one command."""

    def __init__(self, argv: Sequence[str], send: Callable[[Sequence[Frame]], None]) -> None:
        """`send` writes frames of this channel at once.

        The command starts with the first use of the channel, so that what it is to read goes along.
        """
        self._opening: list[Frame] = [(_OPEN, json.dumps(list(argv)).encode())]
        self._send, self._sending = send, threading.Lock()
        self._untold = 0
        self._output: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._left, self._over = b"", False
        self._errors = bytearray()
        self._room, self._changed = _WINDOW_BYTES, threading.Condition()
        self._ended, self._code = threading.Event(), _LOST
        self._seconds: float | None = None
        self.closed = False

    def take(self, kind: int, content: bytes) -> None:
        """A frame from the node."""
        if kind == _DATA:
            self._output.put(content)
        elif kind == _ERRORS:
            self._errors = (self._errors + content)[-_LONGEST_COMPLAINT:]
            self._taken(len(content))
        elif kind == _TAKEN:
            with self._changed:
                self._room += int(content)
                self._changed.notify_all()
        elif kind == _FAILED:
            self._errors += content
            self.end(127)
        elif kind == _END:
            self._output.put(b"")
        elif kind == _EXIT:
            self.end(int(content))

    def end(self, code: int = _LOST) -> None:
        """The command has ended, or its step is lost."""
        if not self._ended.is_set():
            self._code = code
            self._ended.set()
            self._output.put(b"")
            with self._changed:
                self._changed.notify_all()

    def _taken(self, size: int) -> None:
        with self._changed:
            self._untold += size
            told = self._untold if self._untold >= _TAKEN_BYTES else 0
            self._untold -= told
        if told:
            self._tell(_TAKEN, str(told).encode())

    def _write(self, *frames: Frame) -> None:
        with self._sending:
            opening, self._opening = self._opening, []
            if opening or frames:
                self._send([*opening, *frames])

    def _tell(self, kind: int, content: bytes = b"") -> None:
        with suppress(OSError):  # its step is lost, as its end says
            self._write((kind, content))

    def _start(self) -> None:
        if self._opening:
            try:
                self._write()
            except OSError:
                self.end()

    def settimeout(self, seconds: float | None) -> None:
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        """At most `size` bytes of its output; b"" at its end. TimeoutError after the timeout."""
        self._start()
        if not self._left and not self._over:
            try:
                self._left = self._output.get(timeout=self._seconds)
            except queue.Empty:
                raise TimeoutError from None
            self._over = not self._left
            if self._left:
                self._taken(len(self._left))
        data, self._left = self._left[:size], self._left[size:]
        return data

    def recv_stderr(self, size: int) -> bytes:
        """The end of its standard error, once it has ended."""
        self._start()
        self._ended.wait()
        data = bytes(self._errors[:size])
        del self._errors[:size]
        return data

    def sendall(self, data: bytes) -> None:
        """Write to its standard input; OSError if it has ended."""
        view = memoryview(data)
        while view:
            part = view[:_CHUNK_BYTES]
            with self._changed:
                self._changed.wait_for(lambda: self._room > 0 or self._ended.is_set() or self.closed)
                if self._ended.is_set() or self.closed:
                    raise OSError("the command has ended")
                self._room -= len(part)
            self._write((_DATA, bytes(part)))
            view = view[len(part) :]

    def shutdown_write(self) -> None:
        self._tell(_END)

    def recv_exit_status(self) -> int:
        """Wait for its end; -1 where a signal ended it or its step is lost."""
        self._start()
        self._ended.wait()
        return max(self._code, _LOST)

    def exit_status_ready(self) -> bool:
        self._start()
        return self._ended.is_set()

    def makefile(self, *mode: str) -> BufferedReader:
        """Its output as a file; `mode` is `rb`."""
        if mode != ("rb",):
            raise ValueError(mode)
        return BufferedReader(_Output(self))

    def close(self) -> None:
        """Close its standard streams, which ends what reads or writes them."""
        if not self.closed:
            self.closed = True
            if not self._ended.is_set():  # else a frame for nobody holds back the next command's
                self._tell(_CLOSE)
            self._output.put(b"")
            with self._changed:
                self._changed.notify_all()


class _Output(RawIOBase):
    def __init__(self, channel: StepChannel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class StepLink:
    """A step, for any number of commands at once."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        python: str,
        limit_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the step with `command`, which starts a program on the node, such as srun with its options.

        LinkError, with what it says, if it does not begin within the limit.
        """
        source = (shipped_folder("frameworks") / "node" / "channels.py").read_text(encoding="utf-8")
        self._channels: dict[int, StepChannel] = {}
        self._writing, self._count, self._up = threading.Lock(), 0, True
        self._noise = ""  # what another program printed where the first frame was to come
        self._greeted = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the link
        try:
            self._process = subprocess.Popen(
                [*command, python, "-I", "-B", "-c", one_line(source)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal reaches dlperf, which then decides
            )
        except OSError as error:
            self._errors.close()
            program = (*command, python)[0]
            raise LinkError(f"{program} cannot be started: {error.strerror}", hopeless=True) from error
        assert self._process.stdin is not None  # noqa: S101  PIPE was asked for
        assert self._process.stdout is not None  # noqa: S101
        self._input, self._output = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        in_time = self._greeted.wait(limit_seconds)
        if not in_time or not self._up:
            words = self._complaint() or self._noise
            self.close()
            late = f"the step did not begin within {limit_seconds:g} s"
            raise LinkError(words or (late if not in_time else "the step ended without a message"))

    def _complaint(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().decode(errors="replace").split())[-_LONGEST_COMPLAINT:]

    @property
    def is_up(self) -> bool:
        """Whether the step goes on."""
        return self._up

    def start(self, argv: Sequence[str]) -> StepChannel:
        """Start a command on the node; LinkError where the step is lost."""
        if not self._up:
            raise LinkError("no command can be started: the step has ended")
        with self._writing:
            self._count += 1
            number = self._count
        channel = StepChannel(argv, lambda frames: self._send(number, frames))
        self._channels[number] = channel
        return channel

    def _send(self, number: int, frames: Sequence[Frame]) -> None:
        if not self._up:
            raise OSError("the step has ended")
        packed = (_HEADER.pack(number, kind, len(content)) + content for kind, content in frames)
        data = memoryview(b"".join(packed))
        with self._writing:
            while data:
                data = data[self._input.write(data) :]

    def _read(self) -> None:
        try:
            while (header := self._exactly(_HEADER.size)) is not None:
                number, kind, size = _HEADER.unpack(header)
                content = self._exactly(size) if size <= _MOST_FRAME_BYTES else None
                if content is None or (kind != _HELLO and not self._greeted.is_set()):
                    shown = header.decode(errors="replace")
                    self._noise = f"something prints {shown!r} where dlperf's program was to answer"
                    break
                if kind == _HELLO:
                    self._greeted.set()
                channel = self._channels.get(number)
                if channel is not None:
                    channel.take(kind, content)
                    if kind in (_EXIT, _FAILED):
                        self._channels.pop(number, None)
        finally:
            self._up = False
            self._greeted.set()
            for channel in list(self._channels.values()):
                channel.end()

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self._output.read(size - len(data))
            except (OSError, ValueError):  # closed
                return None
            if not part:
                return None
            data += part
        return data

    def close(self) -> None:
        """End the step, and with it whatever it carries."""
        self._up = False
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_CLOSE_SECONDS)
        self._output.close()
        self._errors.close()
