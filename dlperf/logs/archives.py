"""Files inside files: gzip, bzip2, xz, zstd, tar and zip, told by their first bytes and streamed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, cast

import zstandard

from dlperf.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HEAD_BYTES = 512
_TAR_MAGIC = slice(257, 262)
MOST_MEMBERS = 100_000
# Logs repeat themselves and shrink well; a kilobyte that becomes a gigabyte is no log.
LARGEST_RATIO = 5_000
_RATIO_FREE_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 16
_LARGEST_ZSTD_WINDOW = 1 << 27


@dataclass(frozen=True, slots=True)
class Content:
    """A file found in another; `warnings` fills while it is read."""

    name: str
    stream: IO[bytes]
    warnings: list[str]


class _Counted(io.RawIOBase):
    """Counts what is read from a compressed file."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """A decompressed stream that says what is wrong with it, and stops a bomb."""

    def __init__(self, name: str, stream: _Readable, compressed: _Counted) -> None:
        self._name, self._stream, self._compressed = name, stream, compressed
        self._unpacked = 0
        self.warnings: list[str] = []

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read1(len(buffer))
        except EOFError:
            self.warnings[:] = ["the compressed data stops in its middle; read up to there"]
            data = b""
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            raise UserError(f"{self._name}: damaged compressed data: {error}") from error
        buffer[: len(data)] = data
        self._unpacked += len(data)
        if self._unpacked > max(_RATIO_FREE_BYTES, self._compressed.count * LARGEST_RATIO):
            raise UserError(
                f"{self._name}: unpacks to more than {LARGEST_RATIO} times its size; refused as a bomb"
            )
        return len(data)


def _zstd(raw: IO[bytes]) -> _Readable:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
    return cast("_Readable", decompressor.stream_reader(raw, read_across_frames=True))


_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], _Readable]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def members(path: Path) -> Iterator[Content]:
    """Each log in the file; its stream is good until the next is asked for.

    Raises:
        UserError: the file cannot be read, is damaged, or unpacks beyond reason.
    """
    try:
        with path.open("rb") as stream:
            if stream.peek(2)[:2] == b"PK" and zipfile.is_zipfile(path):
                yield from _zip_members(path)
            else:
                yield from contents(str(path), stream)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def contents(name: str, stream: IO[bytes]) -> Iterator[Content]:
    """The same for a stream; a zip archive must be a file."""
    content = _uncompressed(name, stream)
    if _head(content.stream)[_TAR_MAGIC] == b"ustar":
        yield from _tar_members(content)
    else:
        yield content


def _head(stream: IO[bytes]) -> bytes:
    return cast("io.BufferedReader", stream).peek(_HEAD_BYTES)[:_HEAD_BYTES]


def _uncompressed(name: str, stream: IO[bytes] | io.RawIOBase) -> Content:
    """One compression taken off, if there is one; the stream can be peeked into."""
    buffered = cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", stream), _BUFFER_BYTES))
    head = _head(buffered)
    unpack = next((way for magic, way in _COMPRESSIONS.items() if head.startswith(magic)), None)
    if unpack is None:
        return Content(name, buffered, [])
    counted = _Counted(buffered)
    inner = _Unpacked(name, unpack(cast("IO[bytes]", io.BufferedReader(counted))), counted)
    return Content(name, cast("IO[bytes]", io.BufferedReader(inner, _BUFFER_BYTES)), inner.warnings)


def _tar_members(archive: Content) -> Iterator[Content]:
    """What is in a tar archive; archives within it are not looked into."""
    try:
        with tarfile.open(fileobj=archive.stream, mode="r|") as opened:
            for number, member in enumerate(opened):
                _check_count(archive.name, number)
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield _uncompressed(f"{archive.name}!{member.name}", content)
    except tarfile.TarError as error:
        raise UserError(f"{archive.name}: damaged tar archive: {error}") from error


def _zip_members(path: Path) -> Iterator[Content]:
    try:
        with zipfile.ZipFile(path) as opened:
            for number, member in enumerate(opened.infolist()):
                _check_count(str(path), number)
                if member.is_dir():
                    continue
                name = f"{path}!{member.filename}"
                with opened.open(member) as content:
                    counted = _Counted(content)
                    counted.count = member.compress_size
                    yield _uncompressed(name, _Unpacked(name, cast("_Readable", content), counted))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: zip archive that cannot be read: {error}") from error


def _check_count(name: str, number: int) -> None:
    if number >= MOST_MEMBERS:
        raise UserError(f"{name}: more than {MOST_MEMBERS} members; unpack it and give the files")
