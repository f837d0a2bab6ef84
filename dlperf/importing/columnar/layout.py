"""Lines that differ in digits alone are read alike: one regular-expression match a layout, not a line.

A layout is a line with every digit masked. Its first line is matched by the dialects' patterns, to which one
digit is as good as another; every other line of the layout therefore matches at the same places, and its
numbers are read from there (`cells.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.importing.dialects.base import TIMESTAMP
from dlperf.importing.records import EPOCH, FIELDS, ITERATION, RANK, SAMPLES_PER_SEC, TIME
from dlperf.logs.wrappers import wrapper_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.importing.dialects.base import Dialect

MASK = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))
_LONGEST_PREFIX = 512  # what wrappers put in front of a record
_LONGEST_WHOLE = 20  # seconds since 1970 with decimals
_WHOLE = frozenset({ITERATION, EPOCH, RANK, TIME})
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
        if start >= 0 and (column not in _WHOLE or _is_sane(line, start, end, name)):
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
