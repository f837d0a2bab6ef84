"""The lines of a chunk of a log: which hold records, and what the records say.

A line's layout, the line with its digits masked, is looked up in a table; only a layout seen for the first
time is searched with the dialects' patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.columnar.cells import CellTable
from dlperf.importing.columnar.layouts import MASK, SeenRecords, find_records
from dlperf.importing.columnar.templates import UNKNOWN, Templates
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.records import Batch
from dlperf.logs.failures import is_suspicious

_WORD = 8
NOISE, WATCH, FIRST_ENTRY = 0, 1, 2
# The table is emptied when it grows beyond this: text without end, in which no layout comes twice.
_MOST_LAYOUTS = 20_000
_MOST_LAYOUT_BYTES = 16 << 20
_MOST_MATCHES = 200_000  # of lines that hold thousands of records, as carriage returns make them
_LONGEST_KEPT_LINE = 4096
_FEWEST_FOR_TEMPLATE = 16  # looking up fewer lines of a chunk is as fast
_SAMPLE = 1000
_BYTE_NUMBERS = np.uint64(0x0001020304050607)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A layout that holds something: the dialects of its records; whether its rest may show a failure."""

    recorded: tuple[Dialect, ...]
    watch: bool


class ChunkLines:
    """The lines of one chunk. `codes` int32 [n]: NOISE, WATCH (may show a failure), or an entry."""

    def __init__(self, data: bytes, entries: Sequence[_Entry], table: CellTable) -> None:
        self._data = data
        self._entries = entries
        self._table = table
        self.buffer = np.frombuffer(data, np.uint8)
        feeds = _places_of(self.buffer, ord("\n"))
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
        return self._data[start : start + self.lengths[index]]

    def texts(self, indices: NDArray[np.int64]) -> bytes:
        """Some lines, rising, with line feeds between them."""
        first, end = int(indices[0]), int(indices[-1]) + 1
        if len(indices) == end - first:
            return self._data[self.starts[first] : self.starts[end - 1] + self.lengths[end - 1]]
        return b"\n".join(map(self.text, indices.tolist()))

    def worth_watching(self) -> NDArray[np.int64]:
        """The lines that may speak of a failure, rising."""
        watched = [FIRST_ENTRY + number for number, entry in enumerate(self._entries) if entry.watch]
        if not watched:
            return np.flatnonzero(self.codes == WATCH)
        return np.flatnonzero((self.codes == WATCH) | np.isin(self.codes, watched))

    def without_records(self) -> Iterator[int]:
        """The lines that gave nothing and are not blank."""
        for index in np.flatnonzero(self.codes < FIRST_ENTRY).tolist():
            if self.text(index).strip():
                yield index

    def first_records(self, *, besides: Dialect | None) -> list[tuple[int, Dialect]]:
        """The dialects with records here, in the order of their first lines, which stand before them."""
        codes: dict[str, list[int]] = {}
        dialects = {}
        for code in self._entry_codes:
            for dialect in self._entries[code - FIRST_ENTRY].recorded:
                if dialect is not besides:
                    dialects[dialect.name] = dialect
                    codes.setdefault(dialect.name, []).append(code)
        found = [
            (int(np.isin(self.codes, codes[name]).argmax()), dialect) for name, dialect in dialects.items()
        ]
        return sorted(found, key=itemgetter(0))

    def last_record(self) -> int | None:
        """The last line that holds something; None where none does."""
        held = np.flatnonzero(self.codes >= FIRST_ENTRY)
        return int(held[-1]) if len(held) else None

    @property
    def layouts(self) -> int:
        """How many layouts with records occur here."""
        return len(self._entry_codes)

    @cached_property
    def _entry_codes(self) -> list[int]:
        """The entries that occur here."""
        counts = np.bincount(self.codes)
        return (np.flatnonzero(counts[FIRST_ENTRY:]) + FIRST_ENTRY).tolist()

    def rows(self, dialect: Dialect) -> Batch:
        """Everything of one dialect, as `CellTable.read` gives it."""
        return self._table.read(self.buffer, self.starts, self.codes, dialect)


def _places_of(buffer: NDArray[np.uint8], byte: int) -> NDArray[np.int64]:
    """Where a rare byte stands: eight bytes are passed over at a time."""
    equal = buffer == byte
    whole = len(equal) // _WORD * _WORD
    eights = equal[:whole].view("<u8")
    words = np.flatnonzero(eights != 0)
    ones = eights[words]
    if (ones & (ones - np.uint64(1))).any():  # two of them in eight bytes
        cells = np.flatnonzero(equal[:whole].reshape(-1, _WORD)[words])
        places = words[cells // _WORD] * _WORD + cells % _WORD
    else:
        # A one in byte k shifts the constant by k bytes, which brings k to the top.
        places = words * _WORD + (ones * _BYTE_NUMBERS >> np.uint64(56)).view(np.int64)
    return np.concatenate([places, whole + np.flatnonzero(equal[whole:])])


class LineReader:
    """Remembers the layouts of one log."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = dialects
        self._codes: dict[bytes, int] = {}
        self._entries: list[_Entry] = []
        self._bytes = 0
        self._seen = SeenRecords()
        self._table = CellTable(dialects)
        self._templates = Templates()

    def read(self, data: bytes, *, is_cut: bool) -> ChunkLines:
        """Look at the lines of a chunk.

        Args:
            data: whole lines; the last one may lack its line feed.
            is_cut: whether that is because the log ends there: a record whose like was never seen whole is
                then taken for cut in its middle.
        """
        if (
            len(self._entries) + len(self._codes) > _MOST_LAYOUTS
            or len(self._table) > _MOST_MATCHES
            or self._bytes > _MOST_LAYOUT_BYTES
        ):
            self._codes, self._entries, self._bytes = {}, [], 0
            self._table, self._templates = CellTable(self._dialects), Templates()
        lines = ChunkLines(data, self._entries, self._table)
        last = len(lines) - 1 if is_cut else None
        self._templates.find(lines.buffer, lines.starts, lines.lengths, lines.codes)
        unknown = np.flatnonzero(lines.codes == UNKNOWN)
        if len(unknown) > 2 * _SAMPLE:
            # Templates of the first lines find most of the others.
            self._find_codes(lines, unknown[:_SAMPLE], last=last)
            others = unknown[_SAMPLE:]
            codes = lines.codes[others]
            self._templates.find(lines.buffer, lines.starts[others], lines.lengths[others], codes)
            lines.codes[others] = codes
            unknown = others[codes == UNKNOWN]
        if len(unknown):
            self._find_codes(lines, unknown, last=last)
        return lines

    def _find_codes(self, lines: ChunkLines, unknown: NDArray[np.int64], *, last: int | None) -> None:
        """Look the lines numbered so up one by one, and remember the layouts that many of them have."""
        lines.codes[unknown] = self._look_up(lines, unknown, last=last)
        self._make_templates(lines, unknown)

    def _look_up(self, lines: ChunkLines, unknown: NDArray[np.int64], *, last: int | None) -> list[int]:
        """The codes of the lines numbered so; `last` may be cut."""
        indices = unknown.tolist()
        layouts = lines.texts(unknown).translate(MASK).split(b"\n")
        codes = list(map(self._codes.get, layouts, repeat(UNKNOWN)))
        if UNKNOWN in codes:
            for place, (index, layout) in enumerate(zip(indices, layouts, strict=True)):
                if codes[place] == UNKNOWN:
                    code = self._codes.get(layout)
                    if code is None:
                        code = self._learn(lines.text(index), layout, may_be_cut=index == last)
                    codes[place] = code
        return codes

    def _make_templates(self, lines: ChunkLines, looked_up: NDArray[np.int64]) -> None:
        """Of the layouts that many of the lines had."""
        codes = lines.codes[looked_up]
        counts = np.bincount(codes)
        for code in np.flatnonzero(counts >= _FEWEST_FOR_TEMPLATE).tolist():
            # Harmless lines and lines to watch have no layout in common.
            if code >= FIRST_ENTRY:
                self._templates.add(lines.text(int(looked_up[int((codes == code).argmax())])), code)

    def _learn(self, line: bytes, layout: bytes, *, may_be_cut: bool) -> int:
        found = find_records(line, self._dialects)
        ends = [item.start for item in found[1:]] + [len(line)]
        texts = [line[item.start : end].partition(b"\r")[0] for item, end in zip(found, ends, strict=False)]
        if may_be_cut and found and not self._seen.is_whole(found[-1], line, texts[-1]):
            found.pop()
        self._seen.add(texts)
        if found:
            rest = line[: found[0].start] + b"\n" + line[found[-1].end :]
            recorded = {item.dialect.name: item.dialect for item in found if item.is_record}
            self._entries.append(_Entry(recorded=tuple(recorded.values()), watch=is_suspicious(rest)))
            self._table.add(FIRST_ENTRY + len(self._entries) - 1, found, line)
            code = FIRST_ENTRY + len(self._entries) - 1
        else:
            code = WATCH if is_suspicious(line) else NOISE
        if len(layout) <= _LONGEST_KEPT_LINE:
            self._codes[layout] = code
            self._bytes += len(layout)
        return code
