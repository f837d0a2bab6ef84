"""The lines of a chunk of a log: which hold records, and what the records say.

A line's layout, the line with its digits masked, is looked up in a table; only a layout seen for the first
time is searched with the dialects' patterns. Lines of layouts already known are found among thousands without
looking at any of them in Python: a template compares whole lines with a layout. Where the layout has text the
bytes must be equal, where it has digits they must be digits. Of several templates of one length, a few words
of each line tell which one may fit: the pattern of digits and other bytes in them.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import itemgetter
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.columnar.cells import MASK, CellTable, Found, find_records, texts_at
from dlperf.importing.dialects.base import NUMBER, Dialect
from dlperf.importing.records import LOSS, SAMPLES_PER_SEC, Batch
from dlperf.logs.failures import is_suspicious

WORD = 8
UNKNOWN = -1
_ZERO, _NINE = ord("0"), ord("9")
_LONGEST = 4096
_FEWEST_LINES = 8
_TOGETHER = 16
_MOST_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 17  # that a processor's cache holds, intermediate results included
# The words that tell templates apart; eight patterns of eight bytes fill the 64 bits of a key.
_MOST_TELLING = 8
_SLOT_BITS = 12
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio: Fibonacci hashing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """One layout; `width` is its length in whole words.

    A byte b fits where b - text <= limit, modulo 256: text is the byte itself and limit 0; where the layout
    has a digit they are "0" and 9; behind the line's end everything fits. The constants are repeated, so that
    numpy has long rows.
    """

    code: int
    width: int
    line: bytes  # that it was made of
    text: NDArray[np.uint8]  # [_TOGETHER x width]
    limit: NDArray[np.uint8]

    @classmethod
    def of(cls, line: bytes, code: int) -> Self:
        """The template of a line's layout."""
        width = -(-len(line) // WORD) * WORD
        text = np.frombuffer(line.ljust(width, b"\0"), np.uint8)
        is_digit = (text >= _ZERO) & (text <= _NINE)
        limit = np.where(is_digit, _NINE - _ZERO, np.where(np.arange(width) < len(line), 0, 255))
        return cls(
            code=code,
            width=width,
            line=line,
            text=np.tile(np.where(is_digit, _ZERO, text).astype(np.uint8), _TOGETHER),
            limit=np.tile(limit.astype(np.uint8), _TOGETHER),
        )

    def fits(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the lines, [n, width], have this layout; the lines are overwritten."""
        whole = len(rows) // _TOGETHER * _TOGETHER
        step = max(1, _BLOCK_BYTES // self.width // _TOGETHER) * _TOGETHER
        parts = [self._fit(rows[at : min(at + step, whole)], _TOGETHER) for at in range(0, whole, step)]
        if whole < len(rows):
            parts.append(self._fit(rows[whole:], 1))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fit(self, rows: NDArray[np.uint8], together: int) -> NDArray[np.bool_]:
        count, constants = len(rows), self.width * together
        rows = rows.reshape(-1, constants)
        rows -= self.text[:constants]
        wrong = rows > self.limit[:constants]
        if not wrong.any():
            return np.ones(count, np.bool_)
        fits: NDArray[np.bool_] = np.bitwise_or.reduce(wrong.view(np.uint64).reshape(count, -1), axis=1) == 0
        return fits


class _OneLength:
    """The templates of one length, and how to tell which of them a line may fit."""

    def __init__(self) -> None:
        self._templates: list[_Template] = []
        self._buckets: list[list[_Template]] = []
        self._telling: list[int] = []  # bytes at which a telling word begins
        self._slots = np.zeros(1 << _SLOT_BITS, np.uint16)

    def add(self, new: _Template) -> None:
        """Take one more."""
        self._templates.append(new)
        self._buckets = []

    def find(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        index: NDArray[np.int64],
        codes: NDArray[np.int32],
    ) -> None:
        """Write the codes of the lines in `index`, [n], that fit; the others keep theirs."""
        width = self._templates[0].width
        if starts[index[-1]] + width > len(buffer):
            index = index[starts[index] + width <= len(buffer)]
        if not self._buckets:
            self._sort_into_buckets()
        bounds = [0, len(index)]
        if len(self._buckets) > 1:
            slots = self._slots[_slots(_keys(buffer, starts[index], self._telling))]
            index = index[np.argsort(slots, kind="stable")]
            bounds = [0, *np.cumsum(np.bincount(slots, minlength=len(self._buckets))).tolist()]
        rows = texts_at(buffer, starts[index], width)
        for bucket, begin, end in zip(self._buckets, bounds[:-1], bounds[1:], strict=True):
            mine, some = index[begin:end], rows[begin:end]
            for template in bucket if begin < end else ():
                fits = template.fits(some if len(bucket) == 1 else some.copy())
                codes[mine[fits]] = template.code  # no two fit the same line

    def _sort_into_buckets(self) -> None:
        lines = np.frombuffer(b"".join(template.line for template in self._templates), np.uint8)
        lines = lines.reshape(len(self._templates), -1)
        self._telling = _telling_words(lines)
        starts = np.arange(len(lines)) * lines.shape[1]
        slots = _slots(_keys(lines.ravel(), starts, self._telling))
        used, bucket_of = np.unique(slots, return_inverse=True)
        self._buckets = [[] for _slot in used]
        for template, bucket in zip(self._templates, bucket_of.tolist(), strict=True):
            self._buckets[bucket].append(template)
        self._slots[:] = 0  # a line of no template's key is tried with the first bucket, and does not fit
        self._slots[used] = np.arange(len(used))


def _telling_words(lines: NDArray[np.uint8]) -> list[int]:
    """Where the words begin that have the most patterns of digits among the lines, [n, length]."""
    whole = lines[:, : lines.shape[1] // WORD * WORD]
    patterns = np.packbits((whole >= _ZERO) & (whole <= _NINE), axis=1)
    kinds = np.array([len(np.unique(pattern)) for pattern in patterns.T])
    telling = np.argsort(-kinds, kind="stable")[:_MOST_TELLING]
    return [int(word) * WORD for word in telling if kinds[word] > 1]


def _keys(buffer: NDArray[np.uint8], starts: NDArray[np.int64], telling: list[int]) -> NDArray[np.uint64]:
    """Which bytes of the telling words of each line, [n], are no digits."""
    keys = np.zeros(len(starts), np.uint64)
    for number, at in enumerate(telling):
        words = texts_at(buffer, starts + at, WORD).view("<u8").ravel()
        words ^= np.uint64(0x3030303030303030)  # digits become 0 to 9
        high = words & np.uint64(0x7F7F7F7F7F7F7F7F)
        high += np.uint64(0x7676767676767676)  # what is above 9 gets its highest bit
        high |= words
        high &= np.uint64(0x8080808080808080)
        high >>= np.uint64(number)
        keys |= high
    return keys


def _slots(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return ((keys * _SPREAD) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)


class Templates:
    """The layouts that many lines had, by length."""

    def __init__(self) -> None:
        self._by_length: dict[int, _OneLength] = {}
        self._codes: set[int] = set()
        self._bytes = 0

    def add(self, line: bytes, code: int) -> None:
        """Remember the layout of a line; what is too long, or one too many, is passed over."""
        if code in self._codes or not 0 < len(line) <= _LONGEST or self._bytes > _MOST_BYTES:
            return
        new = _Template.of(line, code)
        self._codes.add(code)
        self._bytes += new.text.nbytes + new.limit.nbytes
        self._by_length.setdefault(len(line), _OneLength()).add(new)

    def find(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        codes: NDArray[np.int32],
    ) -> None:
        """Write the code of every line that fits into `codes`; all arrays but `buffer` are [n]."""
        if not self._codes:
            return
        short = np.minimum(lengths, _LONGEST + 1).astype(np.uint16)
        counts = np.bincount(short)
        for length, templates in self._by_length.items():
            if length < len(counts) and counts[length] >= _FEWEST_LINES:
                templates.find(buffer, starts, np.flatnonzero(short == length), codes)


NOISE, WATCH, FIRST_ENTRY = 0, 1, 2
# The table is emptied when it grows beyond this: text without end, in which no layout comes twice.
_MOST_LAYOUTS = 20_000
_MOST_LAYOUT_BYTES = 16 << 20
_MOST_MATCHES = 200_000  # of lines that hold thousands of records, as carriage returns make them
_LONGEST_KEPT_LINE = 4096
_FEWEST_FOR_TEMPLATE = 16  # looking up fewer lines of a chunk is as fast
_SAMPLE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A layout that holds something."""

    recorded: tuple[Dialect, ...]  # the dialects of its records
    is_read: bool  # it gives a record or a loss; else it only marks the start of a run
    watch: bool  # its rest may show a failure


class ChunkLines:
    """The lines of one chunk. `codes` int32 [n]: NOISE, WATCH (may show a failure), or an entry."""

    def __init__(self, data: bytes | bytearray, entries: Sequence[_Entry], table: CellTable) -> None:
        self._data = memoryview(data)
        self._entries = entries
        self._table = table
        self.buffer = np.frombuffer(data, np.uint8)
        feeds = np.flatnonzero(self.buffer == ord("\n"))
        ends = feeds if data.endswith(b"\n") else np.append(feeds, len(data))
        self.starts = np.empty_like(ends)
        self.starts[:1] = 0
        self.starts[1:] = ends[:-1] + 1
        self.lengths = ends - self.starts
        self.codes = np.full(len(ends), UNKNOWN, np.int32)

    def __len__(self) -> int:
        return len(self.codes)

    def text(self, index: int) -> bytes:
        """A line without its line feed."""
        start = self.starts[index]
        return bytes(self._data[start : start + self.lengths[index]])

    def texts(self, indices: NDArray[np.int64]) -> bytes:
        """Some lines, rising, with line feeds between them."""
        first, end = int(indices[0]), int(indices[-1]) + 1
        if len(indices) == end - first:
            return bytes(self._data[self.starts[first] : self.starts[end - 1] + self.lengths[end - 1]])
        return b"\n".join(map(self.text, indices.tolist()))

    def worth_watching(self) -> NDArray[np.int64]:
        """The lines that may speak of a failure, rising."""
        watched = [FIRST_ENTRY + number for number, entry in enumerate(self._entries) if entry.watch]
        if not watched:
            return np.flatnonzero(self.codes == WATCH)
        return np.flatnonzero((self.codes == WATCH) | np.isin(self.codes, watched))

    def without_records(self) -> Iterator[int]:
        """The lines that gave nothing and are not blank."""
        marks = [FIRST_ENTRY + number for number, entry in enumerate(self._entries) if not entry.is_read]
        unread = self.codes < FIRST_ENTRY
        for index in np.flatnonzero(unread | np.isin(self.codes, marks) if marks else unread).tolist():
            if self.text(index).strip():
                yield index

    def first_records(self, *, besides: Dialect | None) -> list[tuple[int, Dialect]]:
        """The dialects with records here, in the order of their first lines, which stand before them."""
        found = [
            (int((self.codes == code).argmax()), dialect)
            for code in self.entry_codes
            for dialect in self._entries[code - FIRST_ENTRY].recorded
            if dialect is not besides
        ]
        firsts: dict[str, tuple[int, Dialect]] = {}
        for at, dialect in sorted(found, key=itemgetter(0)):
            firsts.setdefault(dialect.name, (at, dialect))
        return list(firsts.values())

    @cached_property
    def entry_codes(self) -> list[int]:
        """The layouts with records that occur here."""
        counts = np.bincount(self.codes)
        return (np.flatnonzero(counts[FIRST_ENTRY:]) + FIRST_ENTRY).tolist()

    def rows(self, dialect: Dialect) -> Batch:
        """Everything of one dialect, as `CellTable.read` gives it."""
        return self._table.read(self.buffer, self.starts, self.codes, dialect)


_MOST_TEXTS = 2000
_LONGEST_TEXT = 4096
_NUMBERS = re.compile(rb"(?:" + NUMBER + rb")")


def _is_whole(found: Found, line: bytes, text: bytes, seen: Iterable[bytes]) -> bool:
    """Whether a record at the end of a log without a last line feed is all there, by those before it."""
    shape, shapes = _shape(text), set(map(_shape, seen))
    if shape in shapes:
        return True
    outline = shape[0]
    if any(known.startswith(outline) and known != outline for known, _last in shapes):
        return False
    ending = found.dialect.ending
    return not shapes if ending is None else ending.fullmatch(line, found.start) is not None


def _begins_a_record(line: bytes, seen: Iterable[bytes]) -> bool:
    """Whether the line stops within a record like those before it."""
    for outline in {_shape(text)[0] for text in seen}:
        begin = outline.partition(b"#")[0]
        at = line.rfind(begin) if begin else -1
        start = _shape(line[at:])[0] if at >= 0 else b""
        if b"#" in start and outline.startswith(start):
            return True
    return False


def _shape(text: bytes) -> tuple[bytes, bytes]:
    """The text without its numbers, and the decimals of a number at its very end: a cut one has fewer."""
    text = text.rstrip()
    last = b""
    for match in _NUMBERS.finditer(text):
        number = match[0].translate(MASK)
        if match.end() == len(text):
            last = number.partition(b".")[2] if b"0" in number else number
    return _NUMBERS.sub(b"#", text), last


class LineReader:
    """Remembers the layouts of one log."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = dialects
        self._codes: dict[bytes, int] = {}
        self._entries: list[_Entry] = []
        self._bytes = 0
        self._seen: deque[bytes] = deque(maxlen=_MOST_TEXTS)  # the latest texts of new layouts
        self.has_cut_record = False  # whether the log stops within a record
        self._table = CellTable()
        self._templates = Templates()

    def read(self, data: bytes | bytearray, *, is_cut: bool) -> ChunkLines:
        """Look at the whole lines of a chunk, of which the last one may lack its line feed.

        `is_cut`: because the log ends there. A record whose like was never seen whole is then taken for cut.
        """
        if (
            len(self._entries) + len(self._codes) > _MOST_LAYOUTS
            or len(self._table) > _MOST_MATCHES
            or self._bytes > _MOST_LAYOUT_BYTES
        ):
            self._codes, self._entries, self._bytes = {}, [], 0
            self._table, self._templates = CellTable(), Templates()
        lines = ChunkLines(data, self._entries, self._table)
        last = len(lines) - 1 if is_cut else None
        self._templates.find(lines.buffer, lines.starts, lines.lengths, lines.codes)
        unknown = np.flatnonzero(lines.codes == UNKNOWN)
        if len(unknown) > 2 * _SAMPLE:
            # Templates of the first lines find most of the others.
            self._find_codes(lines, unknown[:_SAMPLE], last=last)
            self._templates.find(lines.buffer, lines.starts, lines.lengths, lines.codes)
            unknown = np.flatnonzero(lines.codes == UNKNOWN)
        if len(unknown):
            self._find_codes(lines, unknown, last=last)
        return lines

    def _find_codes(self, lines: ChunkLines, unknown: NDArray[np.int64], *, last: int | None) -> None:
        """Look the lines numbered so up one by one; remember layouts that many have. `last` may be cut."""
        layouts = lines.texts(unknown).translate(MASK).split(b"\n")
        found = list(map(self._codes.get, layouts, repeat(UNKNOWN)))
        if UNKNOWN in found:
            for place, (index, layout) in enumerate(zip(unknown.tolist(), layouts, strict=True)):
                if found[place] == UNKNOWN:
                    code = self._codes.get(layout)
                    if code is None:
                        code = self._learn(lines.text(index), layout, may_be_cut=index == last)
                    found[place] = code
        codes = np.array(found, np.int32)
        lines.codes[unknown] = codes
        for code in np.flatnonzero(np.bincount(codes) >= _FEWEST_FOR_TEMPLATE).tolist():
            # Harmless lines and lines to watch have no layout in common.
            if code >= FIRST_ENTRY:
                self._templates.add(lines.text(int(unknown[int((codes == code).argmax())])), code)

    def _learn(self, line: bytes, layout: bytes, *, may_be_cut: bool) -> int:
        found = find_records(line, self._dialects)
        ends = [item.start for item in found[1:]] + [len(line)]
        texts = [line[item.start : end].partition(b"\r")[0] for item, end in zip(found, ends, strict=False)]
        if may_be_cut and found and not _is_whole(found[-1], line, texts[-1], self._seen):
            found.pop()
            self.has_cut_record = True
        elif (
            may_be_cut
            and not found
            and any(needle in line for each in self._dialects for needle in each.needles)
        ):
            self.has_cut_record = _begins_a_record(line.rpartition(b"\r")[2][-_LONGEST_TEXT:], self._seen)
        self._seen.extend(text for text in texts if len(text) <= _LONGEST_TEXT)
        if found:
            rest = line[: found[0].start] + b"\n" + line[found[-1].end :]
            # What gives no rate gives the loss of another record, or marks the start of a run.
            columns = [{cell.column for cell in item.cells} for item in found]
            recorded = {
                item.dialect.name: item.dialect
                for item, given in zip(found, columns, strict=True)
                if SAMPLES_PER_SEC in given
            }
            is_read = any({SAMPLES_PER_SEC, LOSS} & given for given in columns)
            watch = is_suspicious(rest)
            self._entries.append(_Entry(recorded=tuple(recorded.values()), is_read=is_read, watch=watch))
            self._table.add(FIRST_ENTRY + len(self._entries) - 1, found, line)
            code = FIRST_ENTRY + len(self._entries) - 1
        else:
            code = WATCH if is_suspicious(line) else NOISE
        if len(layout) <= _LONGEST_KEPT_LINE:
            self._codes[layout] = code
            self._bytes += len(layout)
        return code
