"""RecordIO, the format of MXNet's data sets: records with labels, and an index of where each begins.

A record is the magic number, a word with its length (29 bits) and the kind of its part (3 bits), the content,
and zeros up to a multiple of 4 bytes. A content that holds the magic number at such a multiple is cut there
into parts, without the number, so that a reader finds the next record wherever it begins to look. The content
of an image is a header (flag, label, two ids), `flag` labels more, and the encoded image. All numbers are
little-endian. An index has a line per record: its key, a tab, its offset in bytes.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

from dlperf.data.records import CHUNK_BYTES, Content, Fault, RecordFile, Skip, report
from dlperf.errors import UserError
from dlperf.files import open_regular

MAGIC = struct.pack("<I", 0xCED7230A)
HEADER = struct.Struct("<IfQQ")  # flag: how many labels follow; label, where the flag is 0; two ids
_FRAME = struct.Struct("<4sI")
_KIND_SHIFT, _LENGTH_MASK = 29, (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_FIND_MAGIC = re.compile(re.escape(MAGIC))
_MOST_LABELS = 1 << 16
_LINE_BYTES = 64  # of an index; two numbers of 64 bits have 40 digits


class Record(NamedTuple):
    """A record: where it is, its labels (of an image at least one), and the image, which may be empty."""

    number: int
    offset: int
    flag: int
    labels: tuple[float, ...]
    content: Content


def read_records(file: RecordFile, *, start: int = 0, skip: Skip | None = None) -> Iterator[Record]:
    """The records from the byte `start`, in the file's order.

    Raises Fault where one is damaged; with `skip` that gets the fault, and reading goes on with the next
    record that can be found.
    """
    size = HEADER.size
    unpack = HEADER.unpack_from
    for number, offset, content in _contents(file, start, skip):
        if len(content) >= size:
            flag, label, _, _ = unpack(content)
            if not flag:
                yield Record(number, offset, 0, (label,), content[size:])
                continue
            end = size + 4 * flag
            if flag <= _MOST_LABELS and end <= len(content):
                yield Record(
                    number, offset, flag, struct.unpack_from(f"<{flag}f", content, size), content[end:]
                )
                continue
            problem = f"{flag} labels announced in a record of {len(content)} bytes"
        else:
            problem = f"{len(content)} bytes are too few for the header of an image, which has {size}"
        report(Fault(file.path, number, offset, problem), skip)


def read_record(file: RecordFile, offset: int) -> Record:
    """The record that begins at `offset`, as an index says; its number is 0. Raises Fault."""
    return next(read_records(file, start=offset))


def _contents(file: RecordFile, offset: int, skip: Skip | None) -> Iterator[tuple[int, int, Content]]:
    """Number, offset and content of each record."""
    number = 0
    unpack = _FRAME.unpack_from
    while offset < file.size:
        chunk = file.read(offset, CHUNK_BYTES)
        view = memoryview(chunk)
        at, last = 0, len(chunk) - _FRAME.size
        while at <= last:
            magic, word = unpack(chunk, at)
            begin = at + _FRAME.size
            end = begin + (word + 3 & ~3)
            # A word beyond the mask is a part, and no chunk is as long.
            if magic != MAGIC or end > len(chunk):
                break
            yield number, offset + at, view[begin : begin + word]
            number += 1
            at = end
        offset += at
        if at:
            continue
        try:
            content, end = _read_parts(file, offset, number)
        except Fault as fault:
            report(fault, skip)
            offset = _next_start(file, offset + 4)
        else:
            yield number, offset, content
            offset = end
        number += 1


def _read_parts(file: RecordFile, offset: int, number: int) -> tuple[bytes, int]:
    """Content and end of a record that is long, in parts, or damaged, which raises Fault."""
    parts: list[bytes] = []
    at, kind = offset, _WHOLE
    while kind not in (_WHOLE, _LAST) or not parts:
        frame = file.read(at, _FRAME.size)
        if len(frame) < _FRAME.size:
            raise Fault(file.path, number, offset, f"cut short: the file ends at byte {file.size}")
        magic, word = _FRAME.unpack(frame)
        kind, length = word >> _KIND_SHIFT, word & _LENGTH_MASK
        if magic != MAGIC:
            where = f" in its part at byte {at}" if parts else ""
            raise Fault(file.path, number, offset, f"wrong magic number {magic[::-1].hex()}{where}")
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise Fault(file.path, number, offset, f"a part of kind {kind} stands at byte {at}")
        begin = at + _FRAME.size
        at = begin + (length + 3 & ~3)
        problem = file.shortage(begin, sum(map(len, parts)) + length if parts else length)
        if problem is None and at > file.size:
            problem = "cut short: its padding is missing"
        if problem is not None:
            raise Fault(file.path, number, offset, problem)
        parts.append(file.read(begin, length))
    return MAGIC.join(parts), at


def _next_start(file: RecordFile, offset: int) -> int:
    """Where the first record begins that begins at `offset` or behind it; the end of the file without one."""
    offset = offset + 3 & ~3
    while offset < file.size:
        chunk = file.read(offset, CHUNK_BYTES)
        for match in _FIND_MAGIC.finditer(chunk):
            at = match.start()
            if at % 4 == 0 and at + _FRAME.size <= len(chunk):
                _, word = _FRAME.unpack_from(chunk, at)
                if word >> _KIND_SHIFT in (_WHOLE, _FIRST):
                    return offset + at
        if len(chunk) <= _FRAME.size:
            break
        offset += len(chunk) - _FRAME.size & ~3
    return file.size


class IndexLine(NamedTuple):
    """A line of an index: its number from 1, the key, and the byte at which the record begins."""

    line: int
    key: int
    offset: int


def read_index(path: Path) -> Iterator[IndexLine]:
    """The lines of an index; UserError where one is no key and offset, or lies before the one above it."""
    try:
        stream = open_regular(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    previous = -1
    with stream:
        for number in count(1):
            line = stream.readline(_LINE_BYTES)
            if not line:
                return
            try:
                key, offset = map(int, line.split(b"\t"))
            except ValueError:
                shown = line.decode(errors="replace").rstrip("\n")
                raise UserError(
                    f"{path}:{number}: {shown!r} is no key and offset with a tab between"
                ) from None
            if offset <= previous:
                raise UserError(
                    f"{path}:{number}: byte {offset} does not lie behind byte {previous} of the line above; "
                    "an index must be in the order of its file"
                )
            previous = offset
            yield IndexLine(number, key, offset)


class RecordWriter:
    """Writes records and their index."""

    def __init__(self, records: IO[bytes], index: IO[bytes]) -> None:
        self._records, self._index = records, index
        self._offset = 0

    def write(self, key: int, label: float | Sequence[float], content: Content) -> None:
        """Write a record; several labels, such as a range of keys, stand behind the header."""
        if isinstance(label, Sequence):
            head = HEADER.pack(len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label)
        else:
            head = HEADER.pack(0, label, key, 0)
        self._index.write(b"%d\t%d\n" % (key, self._offset))
        write = self._records.write
        length = len(head) + len(content)
        if MAGIC in head or _FIND_MAGIC.search(content):
            self._offset += self._write_parts(head + content)
            return
        padding = -length % 4
        write(_FRAME.pack(MAGIC, length) + head)
        write(content)
        if padding:
            write(bytes(padding))
        self._offset += _FRAME.size + length + padding

    def _write_parts(self, content: bytes) -> int:
        """Cut at each magic number that begins at a multiple of 4 bytes; the size of what was written."""
        starts = (match.start() for match in _FIND_MAGIC.finditer(content))
        cuts = [start for start in starts if start % 4 == 0]
        kinds = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if cuts else [_WHOLE]
        begins = [0, *(cut + len(MAGIC) for cut in cuts)]
        written = 0
        for kind, begin, end in zip(kinds, begins, [*cuts, len(content)], strict=True):
            frame = _FRAME.pack(MAGIC, kind << _KIND_SHIFT | end - begin)
            written += self._records.write(frame + content[begin:end] + bytes(-(end - begin) % 4))
        return written
