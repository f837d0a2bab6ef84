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
from operator import lt
from pathlib import Path
from typing import IO, NamedTuple, Never, Self

from dlperf.data.records import (
    CHUNK_BYTES,
    MOST_RECORD_BYTES,
    Batch,
    Content,
    Fault,
    RecordFile,
    Skip,
    report,
    write_buffers,
)
from dlperf.errors import UserError
from dlperf.files import open_regular

MAGIC = struct.pack("<I", 0xCED7230A)
HEADER = struct.Struct("<IfQQ")  # flag: how many labels follow; label, where the flag is 0; two ids
_FRAME = struct.Struct("<4sI")
_FRAME_AND_LABEL = struct.Struct("<4sIIf")
_HEADER_END = _FRAME.size + HEADER.size
_LABEL = struct.Struct("<f")
_KIND_SHIFT, _LENGTH_MASK = 29, (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_FIND_MAGIC = re.compile(re.escape(MAGIC))
_MOST_LABELS = 1 << 16
# Labels are float32, in which larger whole numbers are not exact.
LARGEST_LABEL = 1 << 24
_SEARCH_BYTES = 1 << 14  # at first; four times as many at each step
_INDEX_BYTES = 1 << 16  # of an index, read at a time
_SHOWN_BYTES = 64
_PADDING = [bytes(length) for length in range(4)]


class Record(NamedTuple):
    """A record: its labels (of an image at least one), and the image, which may be empty."""

    labels: tuple[float, ...]
    content: bytes


def read_record(file: RecordFile, offset: int) -> Record:
    """The record that begins at `offset`. Raises Fault, with the number 0, where it is damaged."""
    content, _ = _read_parts(file, offset, 0)
    flag, label, begin = _read_header(content, file.path, 0, offset)
    labels = struct.unpack_from(f"<{flag}f", content, HEADER.size) if flag else (label,)
    return Record(labels, content[begin:])


def read_batches(file: RecordFile, *, skip: Skip | None = None) -> Iterator[Batch[float]]:
    """All records in the file's order, each with its first label.

    Raises Fault where one is damaged; with `skip` that gets the fault, and reading goes on with the next
    record that can be found.
    """
    number = offset = 0
    while offset < file.size:
        chunk = file.read(offset, CHUNK_BYTES)
        at = 0
        while at < len(chunk):
            batch, at, regular = _read_chunk(chunk, at, file.path, number, offset)
            if batch.offsets:
                yield batch
                number += len(batch.offsets)
            if regular and at:  # the next record does not end in the chunk
                break
            begin = offset + at
            try:
                content, end = _read_parts(file, begin, number)
                _, label, start = _read_header(content, file.path, number, begin)
            except Fault as fault:
                report(fault, skip)
                end = _next_start(file, begin + 4)
            else:
                yield Batch(file.path, [number], [begin], [label], [content[start:]])
            number += 1
            at = end - offset
        offset += at


def _read_chunk(
    chunk: bytes, at: int, path: Path, number: int, offset: int
) -> tuple[Batch[float], int, bool]:
    """The records from `at` on in a chunk of the file that begins at the byte `offset`, and where they end.

    The last value is true where they end because the next record does not end in the chunk, and false where
    that is damaged or in parts.
    """
    view, size = memoryview(chunk), len(chunk)
    unpack, frame_size, header_end = _FRAME_AND_LABEL.unpack_from, _FRAME.size, _HEADER_END
    offsets: list[int] = []
    labels: list[float] = []
    contents: list[Content] = []
    regular = True
    while at + header_end <= size:
        magic, word, flag, label = unpack(chunk, at)
        start, end = at + header_end, at + frame_size + word
        if flag and flag <= _MOST_LABELS:
            start += 4 * flag
            if start <= size:
                (label,) = _LABEL.unpack_from(chunk, at + header_end)
        if magic != MAGIC or start > end or flag > _MOST_LABELS or word > _LENGTH_MASK:
            regular = False
            break
        following = end + 3 & ~3
        if following > size:
            break
        offsets.append(offset + at)
        labels.append(label)
        contents.append(view[start:end])
        at = following
    numbers = range(number, number + len(offsets))
    return Batch(path, numbers, offsets, labels, contents), at, regular


def _read_header(content: bytes, path: Path, number: int, offset: int) -> tuple[int, float, int]:
    """Flag, first label and beginning of the image in the content of a record; raises Fault."""
    if len(content) < HEADER.size:
        problem = f"{len(content)} bytes are too few for the header of an image, which has {HEADER.size}"
        raise Fault(path, number, offset, problem)
    flag, label, _, _ = HEADER.unpack_from(content)
    begin = HEADER.size + 4 * flag
    if flag > _MOST_LABELS or begin > len(content):
        raise Fault(path, number, offset, f"{flag} labels announced in {len(content)} bytes")
    if flag:
        (label,) = _LABEL.unpack_from(content, HEADER.size)
    return flag, label, begin


def _read_parts(file: RecordFile, offset: int, number: int) -> tuple[bytes, int]:
    """Content and end of a record that is long, in parts, or damaged, which raises Fault."""
    parts: list[bytes] = []
    at, kind, total = offset, _WHOLE, 0
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
        total += length + len(MAGIC)
        problem = file.shortage(begin, length)
        if problem is None and total > MOST_RECORD_BYTES + len(MAGIC):
            problem = f"its parts have more than {MOST_RECORD_BYTES >> 20} MiB"
        if problem is None and at > file.size:
            problem = "cut short: its padding is missing"
        if problem is not None:
            raise Fault(file.path, number, offset, problem)
        parts.append(file.read(begin, length))
    return MAGIC.join(parts), at


def _next_start(file: RecordFile, offset: int) -> int:
    """Where the first record begins that begins at `offset` or behind it; the end of the file without one."""
    offset = offset + 3 & ~3
    wanted = _SEARCH_BYTES
    while offset < file.size:
        chunk = file.read(offset, wanted)
        for match in _FIND_MAGIC.finditer(chunk):
            at = match.start()
            if at % 4 == 0 and at + _FRAME.size <= len(chunk):
                _, word = _FRAME.unpack_from(chunk, at)
                if word >> _KIND_SHIFT in (_WHOLE, _FIRST):
                    return offset + at
        if len(chunk) < wanted:
            break
        offset += len(chunk) - _FRAME.size & ~3
        wanted = min(4 * wanted, CHUNK_BYTES)
    return file.size


class Index:
    """The lines of an index, read in order: keys, and the bytes at which their records begin."""

    def __init__(self, path: Path) -> None:
        """Open the file; UserError where there is none, or it is no regular file."""
        self.path = path
        self._line = 1  # of the first that has not been taken
        self._keys: list[int] = []
        self._offsets: list[int] = []
        self._rest = b""
        self._last = -1
        try:
            self._stream = open_regular(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def peek(self, count: int) -> tuple[list[int], list[int]]:
        """Keys and offsets of the next lines: `count`, or fewer at the end.

        UserError where a line is no key and offset, or lies before the one above it.
        """
        while len(self._keys) < count and self._read():
            pass
        return self._keys[:count], self._offsets[:count]

    def take(self, count: int) -> int:
        """Go on behind the next `count` lines; the number of the first, from 1."""
        first = self._line
        del self._keys[:count], self._offsets[:count]
        self._line += count
        return first

    def _read(self) -> bool:
        """Read some lines more; whether there were any."""
        content = self._rest + self._stream.read(_INDEX_BYTES)
        end = content.rfind(b"\n") + 1
        if not end:  # the last line, which has no end, or one that is far too long
            end = len(content)
        self._rest = content[end:]
        lines = content[:end].splitlines()
        try:
            numbers = list(map(int, content[:end].split()))
        except ValueError:
            numbers = []
        keys, offsets = numbers[::2], numbers[1::2]
        ordered = all(map(lt, [self._last, *offsets], offsets))
        if len(numbers) != 2 * len(lines) or not ordered:
            self._explain(lines)
        self._keys += keys
        self._offsets += offsets
        self._last = offsets[-1] if offsets else self._last
        return bool(lines)

    def _explain(self, lines: list[bytes]) -> Never:
        """UserError for the first line that is wrong."""
        last = self._last
        for number, line in enumerate(lines, self._line + len(self._keys)):
            try:
                _, offset = map(int, line.split())
            except ValueError:
                shown = line[:_SHOWN_BYTES].decode(errors="replace")
                raise UserError(f"{self.path}:{number}: {shown!r} is no key, tab and offset") from None
            if offset <= last:
                raise UserError(
                    f"{self.path}:{number}: byte {offset} does not lie behind byte {last} of the line above; "
                    "an index must be in the order of its file"
                )
            last = offset
        raise AssertionError("a line is wrong")


class RecordWriter:
    """Writes records and their index."""

    def __init__(self, records: IO[bytes], index: IO[bytes]) -> None:
        """Write to the files `records`, which is not buffered, and `index`, from their beginning."""
        self._records, self._index = records, index
        self._offset = 0

    def write(self, key: int, labels: Sequence[float | Sequence[float]], contents: Sequence[Content]) -> None:
        """Write records with the keys from `key` on.

        A record with several labels, such as a range of keys, has them behind its header.
        """
        buffers: list[Content] = []
        lines: list[bytes] = []
        for number, label, content in zip(count(key), labels, contents, strict=False):
            lines.append(b"%d\t%d\n" % (number, self._offset))
            if isinstance(label, Sequence):
                head = HEADER.pack(len(label), 0.0, number, 0) + struct.pack(f"<{len(label)}f", *label)
            else:
                head = HEADER.pack(0, label, number, 0)
            if MAGIC in head or _FIND_MAGIC.search(content):
                record: list[Content] = [_in_parts(head + content)]
            else:
                length = len(head) + len(content)
                record = [_FRAME.pack(MAGIC, length) + head, content, _PADDING[-length % 4]]
            buffers += record
            self._offset += sum(map(len, record))
        write_buffers(self._records.fileno(), buffers)
        self._index.write(b"".join(lines))


def _in_parts(content: bytes) -> bytes:
    """A record that is cut at each magic number that begins at a multiple of 4 bytes."""
    starts = (match.start() for match in _FIND_MAGIC.finditer(content))
    cuts = [start for start in starts if start % 4 == 0]
    kinds = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if cuts else [_WHOLE]
    begins = [0, *(cut + len(MAGIC) for cut in cuts)]
    parts = []
    for kind, begin, end in zip(kinds, begins, [*cuts, len(content)], strict=True):
        frame = _FRAME.pack(MAGIC, kind << _KIND_SHIFT | end - begin)
        parts += [frame, content[begin:end], _PADDING[-(end - begin) % 4]]
    return b"".join(parts)
