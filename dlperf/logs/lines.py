"""The lines of a chunk of a log: which hold records, and what the records say.

A line's layout, the line with its digits masked, is looked up in a table; only a layout seen for the first
time is searched with the dialects' patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from dlperf.logs.dialects.base import NUMBER
from dlperf.logs.failure_text import is_suspicious
from dlperf.logs.layout import MASK, Found, Layout, find_records, layout_of, read_one
from dlperf.logs.records import FIELDS
from dlperf.logs.templates import Templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dlperf.logs.dialects.base import Dialect

NOISE, WATCH, FIRST_ENTRY = 0, 1, 2
_UNKNOWN = -1
# The table is emptied when it grows beyond this: text without end, in which no layout comes twice.
_MOST_LAYOUTS = 20_000
_MOST_LAYOUT_BYTES = 16 << 20
_LONGEST_KEPT_LINE = 4096
# With fewer lines of a layout in a chunk, reading them one by one is faster.
_FEWEST_AT_ONCE = 4
# A template pays where at least this share of a chunk's lines has its layout.
_SHARE_FOR_TEMPLATE = 1 / 20
_NUMBERS = re.compile(rb"(?:" + NUMBER + rb")")


class _Entry:
    """What a layout holds, by position."""

    def __init__(self, found: Sequence[Found], line: bytes, *, watch: bool) -> None:
        self.found = tuple(found)
        self.watch = watch
        self._line = line

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """How to read many lines at once, one layout a match."""
        return tuple(layout_of(found, self._line) for found in self.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Raw rows: records, and losses on lines of their own, in the order of the log.

    Attributes:
        index: int64 [n], which line of the chunk, from 0.
        values: float64 [n, 7], as in `Batch`.
        given: bool [n, 7], as in `Batch`.
    """

    index: NDArray[np.int64]
    values: NDArray[np.float64]
    given: NDArray[np.bool_]


class ChunkLines:
    """The lines of one chunk. `codes` int32 [n]: NOISE, WATCH (may speak of a failure), or an entry."""

    def __init__(self, data: bytes, entries: Sequence[_Entry]) -> None:
        self._data = data
        self._entries = entries
        self.buffer = np.frombuffer(data, np.uint8)
        feeds = np.flatnonzero(self.buffer == ord("\n"))
        ends = feeds if data.endswith(b"\n") else np.append(feeds, len(data))
        self.starts = np.empty_like(ends)
        self.starts[:1] = 0
        self.starts[1:] = ends[:-1] + 1
        self.lengths = ends - self.starts
        self.codes = np.full(len(ends), _UNKNOWN, np.int32)

    def __len__(self) -> int:
        return len(self.codes)

    def text(self, index: int) -> bytes:
        """A line without its line feed."""
        start = self.starts[index]
        return self._data[start : start + self.lengths[index]]

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

    def dialects(self) -> list[Dialect]:
        """The dialects that have records here."""
        dialects = {
            found.dialect.name: found.dialect
            for code in self._entry_codes
            for found in self._entries[code - FIRST_ENTRY].found
            if found.is_record
        }
        return list(dialects.values())

    def first_record(self, dialect: Dialect) -> int:
        """The first line with a record of a dialect that has one."""
        codes = [
            code
            for code in self._entry_codes
            if any(
                item.is_record and item.dialect is dialect for item in self._entries[code - FIRST_ENTRY].found
            )
        ]
        return int(np.isin(self.codes, codes).argmax())

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

    def rows(self, dialect: Dialect) -> Rows:
        """Everything of one dialect."""
        recorded = np.flatnonzero(self.codes >= FIRST_ENTRY)
        order = recorded[np.argsort(self.codes[recorded], kind="stable")]
        borders = np.flatnonzero(np.diff(self.codes[order])) + 1
        groups = np.split(order, borders) if len(order) else []
        pieces = [piece for group in groups for piece in self._group_rows(group, dialect)]
        return _in_order(pieces, lines=len(self))

    def _group_rows(self, group: NDArray[np.int64], dialect: Dialect) -> Iterator[Rows]:
        """The rows of the lines of one layout, a piece a match."""
        entry = self._entries[self.codes[group[0]] - FIRST_ENTRY]
        mine = [number for number, found in enumerate(entry.found) if found.dialect is dialect]
        if len(group) < _FEWEST_AT_ONCE:
            for number in mine:
                read = [read_one(entry.found[number], self.text(index)) for index in group.tolist()]
                values, given = zip(*read, strict=True)
                yield Rows(index=group, values=np.array(values), given=np.array(given))
            return
        windows = np.lib.stride_tricks.sliding_window_view(self.buffer, int(self.lengths[group[0]]))
        lines = windows[self.starts[group]]
        for number in mine:
            values_, given_ = entry.layouts[number].read(lines)
            yield Rows(index=group, values=values_, given=given_)


def _in_order(pieces: list[Rows], *, lines: int) -> Rows:
    """By line; within a line by position, which is the order of a line's pieces."""
    columns = len(FIELDS)
    rows = sum(len(piece.index) for piece in pieces)
    at = np.zeros(lines, np.int64)
    for piece in pieces:
        at[piece.index] += 1
    index = np.repeat(np.arange(lines), at)
    first = np.cumsum(at) - at  # the row of each line's first piece
    values = np.empty((rows, columns))
    given = np.empty((rows, columns), np.bool_)
    for piece in pieces:
        place = first[piece.index]
        values[place] = piece.values
        given[place] = piece.given
        first[piece.index] += 1
    return Rows(index=index, values=values, given=given)


class LineReader:
    """Remembers the layouts of one log."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._dialects = dialects
        self._codes: dict[bytes, int] = {}
        self._entries: list[_Entry] = []
        self._bytes = 0
        self._shapes: set[tuple[bytes, bytes]] = set()
        self._templates = Templates()

    def read(self, data: bytes, *, is_cut: bool) -> ChunkLines:
        """Look at the lines of a chunk.

        Args:
            data: whole lines; the last one may lack its line feed.
            is_cut: whether that is because the log ends there: a record whose like was never seen whole is
                then taken for cut in its middle.
        """
        if len(self._entries) + len(self._codes) > _MOST_LAYOUTS or self._bytes > _MOST_LAYOUT_BYTES:
            self._codes, self._entries, self._bytes, self._templates = {}, [], 0, Templates()
        lines = ChunkLines(data, self._entries)
        last = len(lines) - 1 if is_cut else None
        self._templates.find(lines.buffer, lines.starts, lines.lengths, lines.codes)
        unknown = np.flatnonzero(lines.codes == _UNKNOWN)
        if len(unknown):
            lines.codes[unknown] = self._look_up(lines, unknown, data, last=last)
            self._make_templates(lines, unknown)
        return lines

    def _look_up(
        self, lines: ChunkLines, unknown: NDArray[np.int64], data: bytes, *, last: int | None
    ) -> list[int]:
        """The codes of the lines numbered so; `last` may be cut."""
        indices = unknown.tolist()
        if 2 * len(indices) < len(lines):
            layouts = b"\n".join(map(lines.text, indices)).translate(MASK).split(b"\n")
        else:
            layouts = data.translate(MASK).split(b"\n")
            layouts = [layouts[index] for index in indices]
        codes = list(map(self._codes.get, layouts, repeat(_UNKNOWN)))
        if _UNKNOWN in codes:
            for place, (index, layout) in enumerate(zip(indices, layouts, strict=True)):
                if codes[place] == _UNKNOWN:
                    code = self._codes.get(layout)
                    if code is None:
                        code = self._learn(lines.text(index), layout, may_be_cut=index == last)
                    codes[place] = code
        return codes

    def _make_templates(self, lines: ChunkLines, looked_up: NDArray[np.int64]) -> None:
        """Of the layouts that many of the lines had."""
        codes = lines.codes[looked_up]
        counts = np.bincount(codes)
        for code in np.flatnonzero(counts >= len(lines) * _SHARE_FOR_TEMPLATE).tolist():
            # Harmless lines and lines to watch have no layout in common.
            if code >= FIRST_ENTRY:
                self._templates.add(lines.text(int(looked_up[int((codes == code).argmax())])), code)

    def _learn(self, line: bytes, layout: bytes, *, may_be_cut: bool) -> int:
        found = find_records(line, self._dialects)
        ends = [item.start for item in found[1:]] + [len(line)]
        shapes = [
            _shape(line[item.start : end].partition(b"\r")[0]) for item, end in zip(found, ends, strict=False)
        ]
        if may_be_cut and found and not self._is_whole(found[-1], line, shapes[-1]):
            found.pop()
        self._shapes.update(shapes)
        if found:
            rest = line[: found[0].start] + b"\n" + line[found[-1].end :]
            self._entries.append(_Entry(found, line, watch=is_suspicious(rest)))
            code = FIRST_ENTRY + len(self._entries) - 1
        else:
            code = WATCH if is_suspicious(line) else NOISE
        if len(layout) <= _LONGEST_KEPT_LINE:
            self._codes[layout] = code
            self._bytes += len(layout)
        return code

    def _is_whole(self, found: Found, line: bytes, shape: tuple[bytes, bytes]) -> bool:
        """Whether a record at the end of a log that stops without a line feed is all there."""
        if shape in self._shapes:
            return True
        outline = shape[0]
        if any(known.startswith(outline) and known != outline for known, _last in self._shapes):
            return False
        ending = found.dialect.ending
        return not self._shapes if ending is None else ending.fullmatch(line, found.start) is not None


def _shape(text: bytes) -> tuple[bytes, bytes]:
    """The text without its numbers, and the decimals of a number at its very end: a cut one has fewer."""
    text = text.rstrip()
    last = b""
    for match in _NUMBERS.finditer(text):
        number = match[0].translate(MASK)
        if match.end() == len(text):
            last = number.partition(b".")[2] if b"0" in number else number
    return _NUMBERS.sub(b"#", text), last
