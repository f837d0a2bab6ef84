"""The bytes of logs, in chunks of whole lines, out of plain files, compressed files and archives.

Compression and archives are recognised by their first bytes. Nothing is extracted to disk, and memory does
not grow with the file. A compressed file that is cut off ends there; one that unpacks to an absurd size,
through whatever layers, is refused.
"""

import bz2
import codecs
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, Self, cast

import zstandard

from dlperf.errors import UserError

CHUNK_BYTES = 2 << 20
# A longer line is read in pieces; a carriage return, as a progress bar leaves them, is the place to cut it.
LONGEST_LINE = 1 << 20
MOST_MEMBERS = 100_000
# Logs repeat themselves and shrink well; a kilobyte that becomes a gigabyte is not a log.
LARGEST_RATIO = 5_000
MOST_UNPACKED_BYTES = 64 << 30
_RATIO_FREE_BYTES = 64 << 20
_HEAD_BYTES = 512
_TAR_MAGIC = slice(257, 262)
_ZIP_MAGIC = b"PK\x03\x04"
_BUFFER_BYTES = 1 << 16
_LARGEST_ZSTD_WINDOW = 1 << 27
_DAMAGES = (zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, tarfile.TarError, OSError)
_DAMAGED_HEADERS = frozenset({"InvalidHeaderError", "TruncatedHeaderError"})  # tarfile does not export them
_REPLACEMENT = "\ufffd"
_BYTE_ORDER_MARK = "\ufeff"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(slots=True, kw_only=True)
class Log:
    """One log: a file or a member of an archive."""

    name: str  # for people, such as `runs.tar.gz!1n8g/r100_b64_fp32_1.log`
    stream: IO[bytes]  # its bytes, uncompressed
    warnings: list[str] = field(default_factory=list)  # what was odd; complete when it has been read
    is_member: bool = False  # of an archive, and not a file of its own
    chunk_bytes: int = CHUNK_BYTES  # read at a time

    def chunks(self) -> Iterator[tuple[bytearray, bool]]:
        """The log once, from its beginning: whole lines, and whether the log ends with them.

        They end with a line feed, except at the end of some logs and in a piece of a long line. UserError
        where it cannot be read, or it is a decompression bomb.
        """
        rest, decoder, is_first = b"", None, True
        while True:
            # Read behind the rest of the last line: joining them would copy everything once more.
            data = bytearray(len(rest) + self.chunk_bytes)
            data[: len(rest)] = rest
            count = self._read_into(data, len(rest))
            del data[len(rest) + count :]
            if not count:
                break
            if is_first and (encoding := _UTF16.get(bytes(data[:2]))):
                decoder = codecs.getincrementaldecoder(encoding)("replace")
            if decoder:
                text = decoder.decode(data[len(rest) :])
                data[len(rest) :] = text.removeprefix(_BYTE_ORDER_MARK).encode()
            is_first = False
            end = _cut(data, before=len(rest))
            rest = bytes(data[end:])
            if end:
                del data[end:]
                yield data, False
        yield data, True

    def start(self) -> bytes:
        """Its first bytes, which are still to be read; empty where nothing can be read."""
        try:
            return cast("io.BufferedReader", self.stream).peek(_BUFFER_BYTES)
        except (OSError, UserError):
            return b""  # reading it says why

    def _read_into(self, data: bytearray, start: int) -> int:
        try:
            with memoryview(data)[start:] as free:
                return cast("io.BufferedReader", self.stream).readinto(free)
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error


def _cut(data: bytearray, *, before: int) -> int:
    """Where to cut: behind the last line feed; within a line that is too long, at a carriage return.

    `before` is how long the last line was when it was read on. 0 means that no line ends here.
    """
    end = data.rfind(b"\n", before) + 1
    if end or len(data) < LONGEST_LINE:
        return end
    return data.rfind(b"\r", before) + 1 or len(data)


class _Guard:
    """What one file gives through all layers and members, against what it holds."""

    def __init__(self, *, packed: int = 0) -> None:
        self.packed, self.unpacked = packed, 0

    def add(self, name: str, count: int) -> None:
        """Count bytes that a layer gave."""
        self.unpacked += count
        if self.unpacked > max(_RATIO_FREE_BYTES, self.packed * LARGEST_RATIO):
            raise UserError(f"{name}: unpacks to more than {LARGEST_RATIO} times its size; refused as a bomb")
        if self.unpacked > MOST_UNPACKED_BYTES:
            most = f"{MOST_UNPACKED_BYTES >> 30} GiB"
            raise UserError(f"{name}: unpacks to more than {most}; unpack it and give the files")


def open_logs(path: Path) -> Iterator[Log]:
    """The logs in a file: itself, or each member of an archive. Use one before you ask for the next.

    UserError where the file cannot be read, is damaged, or unpacks to an absurd size.
    """
    name = printable(str(path))
    try:
        with path.open("rb") as stream:
            if stream.peek(2)[:2] == b"PK" and zipfile.is_zipfile(path):
                yield from _zip_members(path)
            else:
                yield from open_stream(name, stream)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def open_stream(name: str, stream: IO[bytes]) -> Iterator[Log]:
    """The same for an open stream, such as standard input; a zip archive must be a file."""
    guard = _Guard()
    log = _open(name, stream, guard)
    if _is_archive(log):
        yield from _tar_members(log, guard)
    else:
        yield log


def open_log(name: str, stream: IO[bytes]) -> Log:
    """The log in an open stream, its compression taken off; archives are not opened."""
    return _open(name, stream, _Guard())


def _open(name: str, stream: IO[bytes], guard: _Guard) -> Log:
    # A pipe may give few bytes at first; a buffer of our own waits for enough to recognise what it is.
    is_file = isinstance(stream, io.BufferedReader) and stream.seekable()
    plain = Log(name=name, stream=stream if is_file else _buffered(stream.read))
    if _unpacker(plain.stream) is None and not _is_archive(plain):
        return plain  # counting its bytes would cost a copy of them

    def count(size: int) -> bytes:
        data = plain.stream.read(size)
        guard.packed += len(data)
        return data

    return _uncompressed(name, _buffered(count), guard)


def printable(name: str) -> str:
    """A file's name as it may be shown and stored, with U+FFFD for what cannot be printed."""
    return "".join(letter if letter.isprintable() else _REPLACEMENT for letter in name)


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Raw(io.RawIOBase):
    """A stream of what a function reads."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _buffered(read: Callable[[int], bytes]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Raw(read), _BUFFER_BYTES))


def _head(stream: IO[bytes]) -> bytes:
    return cast("io.BufferedReader", stream).peek(_HEAD_BYTES)[:_HEAD_BYTES]


def _is_archive(log: Log) -> bool:
    return _head(log.stream)[_TAR_MAGIC] == b"ustar"


def _layer(name: str, stream: _Readable, guard: _Guard, *, kind: str, warnings: list[str]) -> IO[bytes]:
    """A stream out of a compressed file or an archive that says what is wrong with it."""

    def read(size: int) -> bytes:
        try:
            data = stream.read1(size)
        except EOFError:
            warnings[:] = ["the compressed data stops in its middle; read up to there"]
            return b""
        except _DAMAGES as error:
            raise UserError(f"{name}: damaged {kind}: {error}") from error
        guard.add(name, len(data))
        return data

    return _buffered(read)


class _Header(tarfile.TarInfo):
    """A member's header; a damaged one is an error, where tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ in _DAMAGED_HEADERS:
                raise tarfile.ReadError(str(error)) from error
            raise


def _zstd(raw: IO[bytes]) -> _Readable:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
    return cast("_Readable", decompressor.stream_reader(raw, read_across_frames=True))


_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], _Readable]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def _unpacker(stream: IO[bytes]) -> Callable[[IO[bytes]], _Readable] | None:
    """How to take the stream's compression off; None where it has none."""
    head = _head(stream)
    return next((unpack for magic, unpack in _COMPRESSIONS.items() if head.startswith(magic)), None)


def _uncompressed(name: str, stream: IO[bytes], guard: _Guard) -> Log:
    """One compression taken off, if there is one; the stream can be peeked into."""
    log = Log(name=name, stream=stream)
    unpack = _unpacker(stream)
    if unpack is not None:
        log.stream = _layer(name, unpack(stream), guard, kind="compressed data", warnings=log.warnings)
    return log


def _member(name: str, stream: _Readable, guard: _Guard, *, kind: str) -> Log:
    """A damaged member says so when it is read, so that the others come all the same."""
    problem: UserError | None = None
    try:
        log = _uncompressed(name, _layer(name, stream, guard, kind=kind, warnings=[]), guard)
        if _is_archive(log) or _head(log.stream).startswith(_ZIP_MAGIC):
            problem = UserError(f"{name}: an archive within an archive; unpack it and give the files")
    except UserError as error:
        problem = error
    if problem is not None:

        def fail(_size: int, problem: UserError = problem) -> bytes:
            raise problem

        log = Log(name=name, stream=_buffered(fail))
    log.is_member = True
    return log


def _tar_members(archive: Log, guard: _Guard) -> Iterator[Log]:
    """What is in a tar archive; archives within it are not opened."""
    try:
        with tarfile.open(fileobj=archive.stream, mode="r|", tarinfo=_Header) as opened:
            for number, member in enumerate(opened):
                _check_count(archive.name, number)
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None:
                    name = f"{archive.name}!{printable(member.name)}"
                    yield _member(name, cast("_Readable", content), guard, kind="archive")
    except tarfile.TarError as error:
        raise UserError(f"{archive.name}: damaged tar archive: {error}") from error


def _zip_members(path: Path) -> Iterator[Log]:
    archive = printable(str(path))
    guard = _Guard(packed=path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as opened:
            for number, member in enumerate(opened.infolist()):
                _check_count(archive, number)
                if member.is_dir():
                    continue
                name = f"{archive}!{printable(member.filename)}"
                with opened.open(member) as content:
                    yield _member(name, cast("_Readable", content), guard, kind="compressed data")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: zip archive that cannot be read: {error}") from error


def _check_count(name: str, number: int) -> None:
    if number >= MOST_MEMBERS:
        raise UserError(f"{name}: more than {MOST_MEMBERS} members; unpack it and give the files")
