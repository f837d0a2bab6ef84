"""A supervisor behind ssh, and what comes back over its channel."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from dlperf.results.store import write_atomically
from dlperf.running.run_folder import OUTCOME_NAME
from dlperf.running.transports.ssh_link import LinkError

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

    from paramiko.channel import Channel

    from dlperf.running.transports.ssh_code import Code

CHUNK_BYTES = 1 << 16
_LONGEST_COMPLAINT = 2000
_BEGIN_SECONDS = 60.0
_LONGEST_SHOWN = 60  # bytes


class SshConnection:
    """A supervisor at the other end of a channel."""

    def __init__(self, channel: Channel, *, is_up: Callable[[], bool], removal_command: str) -> None:
        # The channel must be kept: paramiko closes one that nobody holds, and the run ends with it.
        self._channel, self._is_up = channel, is_up
        self.removal_command = removal_command

    def receive(self) -> bytes:
        """See Connection."""
        return self._channel.recv(CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        """See Connection."""
        try:
            self._channel.sendall(data)
        except EOFError as error:
            raise OSError("the connection is closed") from error

    def exit_code(self) -> int | None:
        """See Connection; -1 where a signal ended the supervisor."""
        code = self._channel.recv_exit_status()
        return None if code < 0 and not self._is_up() else code

    def complaint(self) -> str:
        """See Connection."""
        return errors_of(self._channel)

    def hang_up(self) -> None:
        """See Connection."""
        if not self._channel.closed:
            self._channel.shutdown_write()

    def close(self) -> None:
        """See Connection."""
        self._channel.close()


def begun(channel: Channel, *, code: Code, python: str) -> bytes:
    """Hear from a node that `attending` has begun there, and send the code where it is missing.

    Gives what came behind that.

    Raises:
        LinkError: it has not; with the reason.
    """
    channel.settimeout(_BEGIN_SECONDS)
    said, unread = _first_line(channel)
    if said == b"missing":
        channel.sendall(code.content)
    elif not said:
        words = errors_of(channel) or "it ended without a word"
        raise LinkError(f"{python} does not start dlperf there: {words}")
    elif said != b"there":
        shown = said[:_LONGEST_SHOWN].decode(errors="replace")
        raise LinkError(
            f"its login shell or the prefix prints {shown!r} before any command; let startup files (such as "
            "~/.bashrc) print nothing where there is no terminal"
        )
    channel.settimeout(None)
    return unread


def _first_line(channel: Channel) -> tuple[bytes, bytes]:
    """The first line, and what came behind it."""
    data = b""
    while b"\n" not in data:
        part = channel.recv(CHUNK_BYTES)
        if not part:
            break
        data += part
    line, _, rest = data.partition(b"\n")
    return line, rest


def errors_of(channel: Channel) -> str:
    """What a program that has ended wrote to standard error, on one line, its end where it is long."""
    text = b""
    with contextlib.suppress(OSError, EOFError):
        while data := channel.recv_stderr(CHUNK_BYTES):
            text = (text + data)[-_LONGEST_COMPLAINT:]
    return " ".join(text.decode(errors="replace").split())


def sent(channel: Channel, content: IO[bytes]) -> tuple[int, str]:
    """Send all of `content` to a program that takes it; its exit code and what it wrote to standard error."""
    with contextlib.suppress(OSError, EOFError):  # it has ended, or the connection has: its exit code tells
        while data := content.read(1 << 20):
            channel.sendall(data)
        channel.shutdown_write()
    return channel.recv_exit_status(), errors_of(channel)


def unpack(archive: tarfile.TarFile, folder: Path, *, outcome: str) -> None:
    """Take logs and outcome out of what a node sends, and nothing else."""
    (folder / "logs").mkdir(exist_ok=True)
    for entry in archive:
        stream = archive.extractfile(entry) if entry.isfile() else None
        path = PurePosixPath(entry.name)
        if stream is None:
            continue
        if entry.name == OUTCOME_NAME:
            write_atomically(folder / outcome, stream.read())
        elif path.parent == PurePosixPath("logs") and path.match("rank*.log"):
            with (folder / "logs" / path.name).open("wb") as log:
                while data := stream.read(1 << 20):
                    log.write(data)
                log.flush()
                os.fsync(log.fileno())
