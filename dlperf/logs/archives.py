"""Files inside files: gzip, bzip2, xz, zstd, tar and zip, told by their first bytes and streamed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, cast

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


class _Unpacked(io.RawIOBase):
    """A decompressed stream that says what is wrong with it, and stops a bomb."""

    def __init__(self, name: str, stream: IO[bytes], compressed: _Counted) -> None:
        self._name, self._stream, self._compressed = name, stream, compressed
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            raise UserError(f"{self._name}: damaged compressed data: {error}") from error
        buffer[: len(data)] = data
        self._unpacked += len(data)
        if self._unpacked > max(_RATIO_FREE_BYTES, self._compressed.count * LARGEST_RATIO):
            raise UserError(
                f"{self._name}: unpacks to more than {LARGEST_RATIO} times its size; refused as a bomb"
            )
        return len(data)


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=True)
    return cast("IO[bytes]", reader)


_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda raw: cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb")),
    b"BZh": lambda raw: cast("IO[bytes]", bz2.BZ2File(raw)),
    b"\xfd7zXZ\x00": lambda raw: cast("IO[bytes]", lzma.LZMAFile(raw)),  # noqa: SIM115  closed with `raw`
    b"\x28\xb5\x2f\xfd": _zstd,
}


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each log in the file; the content is good until the next is asked for."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    with stream:
        try:
            if zipfile.is_zipfile(path) and stream.peek(2)[:2] == b"PK":
                yield from _zip_members(path)
            else:
                yield from contents(str(path), cast("IO[bytes]", stream))
        except IsADirectoryError as error:
            raise UserError(f"{path}: a folder, not a log") from error


def contents(name: str, stream: IO[bytes], *, depth: int = 0) -> Iterator[tuple[str, IO[bytes]]]:
    """The same for a stream; a zip archive must be a file."""
    buffered = (
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", stream))
    )
    head = buffered.peek(_HEAD_BYTES)
    unpack = next((way for magic, way in _COMPRESSIONS.items() if head.startswith(magic)), None)
    if unpack is not None and depth < 2:  # noqa: PLR2004  a compressed tar and a compressed member
        counted = _Counted(cast("IO[bytes]", buffered))
        inner = _Unpacked(name, unpack(cast("IO[bytes]", io.BufferedReader(counted))), counted)
        yield from contents(name, cast("IO[bytes]", inner), depth=depth + 1)
    elif head[_TAR_MAGIC] == b"ustar":
        yield from _tar_members(name, cast("IO[bytes]", buffered))
    else:
        yield name, cast("IO[bytes]", buffered)


def _tar_members(name: str, stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for number, member in enumerate(archive):
                _check_count(name, number)
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield from _compressed_member(f"{name}!{member.name}", content)
                archive.getmembers().clear()  # the list of a long archive would grow
    except tarfile.TarError as error:
        raise UserError(f"{name}: damaged tar archive: {error}") from error


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(archive.infolist()):
                _check_count(str(path), number)
                name = f"{path}!{member.filename}"
                if member.is_dir():
                    continue
                with archive.open(member) as content:
                    counted = _Counted(content)
                    counted.count = member.compress_size
                    yield from _compressed_member(name, _Unpacked(name, content, counted))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: zip archive that cannot be read: {error}") from error


def _compressed_member(name: str, content: IO[bytes] | io.RawIOBase) -> Iterator[tuple[str, IO[bytes]]]:
    """A member may be compressed itself; an archive within an archive is not looked into."""
    buffered = io.BufferedReader(cast("io.RawIOBase", content))
    head = buffered.peek(_HEAD_BYTES)
    unpack = next((way for magic, way in _COMPRESSIONS.items() if head.startswith(magic)), None)
    if unpack is None:
        yield name, cast("IO[bytes]", buffered)
        return
    counted = _Counted(cast("IO[bytes]", buffered))
    inner = _Unpacked(name, unpack(cast("IO[bytes]", io.BufferedReader(counted))), counted)
    yield name, cast("IO[bytes]", io.BufferedReader(inner))


def _check_count(name: str, number: int) -> None:
    if number >= MOST_MEMBERS:
        raise UserError(f"{name}: more than {MOST_MEMBERS} members; unpack it and give the files")
