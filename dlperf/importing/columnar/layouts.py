"""What one line says, found by the dialects' patterns: where its fields stand, and whether it was cut off.

A layout is a line with every digit masked. The patterns do not care which digit it is, so all lines of a
layout match at the same places; only the first one is searched.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlperf.importing.dialects.base import NUMBER, TIMESTAMP, Dialect
from dlperf.importing.records import FIELDS, RANK, SAMPLES_PER_SEC, TIME, WHOLE
from dlperf.logs.text import wrapper_rank

MASK = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))
_LONGEST_PREFIX = 512  # what wrappers put in front of a record
_LONGEST_WHOLE = 20  # seconds since 1970 with decimals
_PLAIN = re.compile(rb"([-+]?)(\d*)(?:\.(\d*))?")
_TIMESTAMP = re.compile(TIMESTAMP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where one field stands in the line: bytes [start, end); `group` is the pattern's name for it."""

    column: int
    group: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One match in a line: bytes [start, end)."""

    dialect: Dialect
    cells: tuple[Cell, ...]
    start: int
    end: int

    @property
    def is_record(self) -> bool:
        """Whether it gives a rate; else it gives the loss of another record."""
        return any(cell.column == SAMPLES_PER_SEC for cell in self.cells)


def find_records(line: bytes, dialects: Sequence[Dialect]) -> list[Found]:
    """Everything that the dialects find in one line, by position."""
    matches = [(match, dialect) for dialect in dialects for match in dialect.find(line)]
    matches.sort(key=lambda item: item[0].start())
    found: list[Found] = []
    for match, dialect in matches:
        cells = _cells(match, line, after=found[-1].end if found else 0)
        found.append(Found(dialect=dialect, cells=cells, start=match.start(), end=match.end()))
    return found


def _cells(match: re.Match[bytes], line: bytes, *, after: int) -> tuple[Cell, ...]:
    """The fields of a match; what stands between `after` and the match may give its time."""
    cells: dict[int, Cell] = {}
    for group in match.re.groupindex:
        start, end = match.span(group)
        name = group.rstrip("_")
        column = TIME if name.startswith("time") else FIELDS.index(name)
        if start >= 0 and (column not in WHOLE or _is_sane(line, start, end, name)):
            cells[column] = Cell(column=column, group=name, start=start, end=end)
    if RANK not in cells and (rank := wrapper_rank(line, end=match.start())):
        cells[RANK] = Cell(column=RANK, group="rank", start=rank[0], end=rank[1])
    if TIME not in cells and (
        time := _last_time(line, max(after, match.start() - _LONGEST_PREFIX), match.start())
    ):
        cells[TIME] = Cell(column=TIME, group="time", start=time[0], end=time[1])
    return tuple(cells[column] for column in sorted(cells))


def _last_time(line: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Where the last time in line[start:end] stands, behind the last carriage return."""
    times = list(_TIMESTAMP.finditer(line, max(start, line.rfind(b"\r", start, end) + 1), end))
    return times[-1].span() if times else None


def _is_sane(line: bytes, start: int, end: int, name: str) -> bool:
    """Whether a step, a rank or a time is a number that something in the world can have."""
    if name == "time":
        return True
    return end - start <= _LONGEST_WHOLE and _PLAIN.fullmatch(line, start, end) is not None


_MOST_TEXTS = 2000
_LONGEST_TEXT = 4096
_NUMBERS = re.compile(rb"(?:" + NUMBER + rb")")


class SeenRecords:
    """One record of each layout, the latest ones."""

    def __init__(self) -> None:
        self._texts: deque[bytes] = deque(maxlen=_MOST_TEXTS)

    def add(self, texts: Iterable[bytes]) -> None:
        """Remember the texts of records."""
        self._texts.extend(text for text in texts if len(text) <= _LONGEST_TEXT)

    def is_whole(self, found: Found, line: bytes, text: bytes) -> bool:
        """Whether a record at the end of a log that stops without a line feed is all there."""
        shape, shapes = _shape(text), set(map(_shape, self._texts))
        if shape in shapes:
            return True
        outline = shape[0]
        if any(known.startswith(outline) and known != outline for known, _last in shapes):
            return False
        ending = found.dialect.ending
        return not shapes if ending is None else ending.fullmatch(line, found.start) is not None


def _shape(text: bytes) -> tuple[bytes, bytes]:
    """The text without its numbers, and the decimals of a number at its very end: a cut one has fewer."""
    text = text.rstrip()
    last = b""
    for match in _NUMBERS.finditer(text):
        number = match[0].translate(MASK)
        if match.end() == len(text):
            last = number.partition(b".")[2] if b"0" in number else number
    return _NUMBERS.sub(b"#", text), last
