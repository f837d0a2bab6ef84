"""Bytes of logs, in chunks of whole lines and constant memory, out of files, compressed files and archives.

Nothing is extracted to disk. A compressed file that stops in its middle ends there; one that grows beyond all
reason is refused.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.importing.archives import contents, members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.importing.archives import Content

CHUNK_BYTES = 2 << 20
# A longer line is read in pieces; a carriage return, as a progress bar leaves them, is the place to cut it.
LONGEST_LINE = 1 << 20
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Whole lines.

    Attributes:
        data: they end with a line feed, but for the end of some logs and a piece of a long line.
        last: whether this is the end of the log.
    """

    data: bytes
    last: bool


@dataclass(slots=True, kw_only=True)
class Log:
    """One log: a file or a member of an archive.

    Attributes:
        name: for people, such as `runs.tar.gz!1n8g/r100_b64_fp32_1.log`.
        stream: its bytes, uncompressed.
        warnings: what was odd about it; complete when it has been read.
        is_member: whether it is in an archive, and no file of its own.
        chunk_bytes: how much is read at a time.
    """

    name: str
    stream: IO[bytes]
    warnings: list[str] = field(default_factory=list)
    is_member: bool = False
    chunk_bytes: int = CHUNK_BYTES

    def chunks(self) -> Iterator[Chunk]:
        """The log once, from its beginning.

        Raises:
            UserError: it cannot be read, or it is a decompression bomb.
        """
        rest = b""
        for block in self._blocks():
            end = _cut(block, before=len(rest))
            if end:
                yield Chunk(data=b"".join((rest, memoryview(block)[:end])), last=False)
                rest = block[end:]
            else:
                rest += block
        yield Chunk(data=rest, last=True)

    def _blocks(self) -> Iterator[bytes]:
        decoder = None
        first = True
        while block := self._read():
            if first:
                encoding = _UTF16.get(block[:2])
                decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
                block = block[2:] if encoding else block
                first = False
            yield decoder.decode(block).encode() if decoder else block

    def _read(self) -> bytes:
        try:
            return self.stream.read(self.chunk_bytes)
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error


def _cut(block: bytes, *, before: int) -> int:
    """Where to cut: behind the last line feed; within a line that is too long, at a carriage return.

    `before` is how long the last line was when the block began. 0 means that no line ends here.
    """
    end = block.rfind(b"\n") + 1
    if end or before + len(block) < LONGEST_LINE:
        return end
    return block.rfind(b"\r") + 1 or len(block)


def open_logs(path: Path) -> Iterator[Log]:
    """The logs in a file: itself, or each member of an archive. Use one before you ask for the next.

    Raises:
        UserError: there is no such file, it is a folder, or an archive that cannot be read.
    """
    yield from map(_log, members(path))


def open_stream(name: str, stream: IO[bytes]) -> Iterator[Log]:
    """The same for an open stream, such as standard input."""
    yield from map(_log, contents(name, stream))


def _log(content: Content) -> Log:
    return Log(
        name=content.name,
        stream=content.stream,
        warnings=content.warnings,
        is_member=content.is_member,
    )
