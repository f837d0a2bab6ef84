"""Lines that differ in digits alone are read alike: one regular-expression match a layout, not a line.

A layout is a line with every digit masked. Its first line is matched by the dialects' patterns, to which one
digit is as good as another; every other line of the layout therefore matches at the same places, and its
numbers are read from there, all lines of a layout at once.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dlperf.logs.dialects.base import TIMESTAMP
from dlperf.logs.records import EPOCH, FIELDS, ITERATION, RANK, SAMPLES_PER_SEC, TIME
from dlperf.logs.wrappers import wrapper_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dlperf.logs.dialects.base import Dialect

MASK = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))
# A whole number of this many digits is exact in a double, and so is a power of ten below 1e22: their quotient
# is the double nearest to the decimal.
_EXACT_DIGITS = 15
_LONGEST_PREFIX = 512  # what wrappers put in front of a record
_LONGEST_WHOLE = 20  # seconds since 1970 with decimals
_WHOLE = frozenset({ITERATION, EPOCH, RANK, TIME})
_PLAIN = re.compile(rb"([-+]?)(\d*)(?:\.(\d*))?")
_TIMESTAMP = re.compile(TIMESTAMP)
_TIME_PARTS = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:Z|([-+])(\d\d):?(\d\d))?"
)
_COLUMNS = len(FIELDS)
# Two columns behind the fields: yyyymmdd, and milliseconds within the day.
_DATE, _MILLISECONDS = _COLUMNS, _COLUMNS + 1
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DAY_MS = 86_400_000
# Multiplications; OpenBLAS stays in one thread up to 4 x 65 536.
_LARGEST_SMALL_PRODUCT = 200_000
_SCALES = {"time_ms": 1.0, "time_s": 1000.0}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How to read the one record of every line of a layout.

    Attributes:
        found: the match that it was made from.
        given: bool [7], which fields there are.
        offsets: int64 [d], where the digits stand.
        weights: float64 [d, k], what each digit is worth in each of k numbers.
        divisors: float64 [k], 10 to the number of decimals, negative for a negative number.
        columns: int64 [k], which field each number is; of a time the date and the time of day are the last
            two.
        texts: cells that are no plain decimals, such as 1e-05 and nan.
    """

    found: Found
    given: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float64]
    divisors: NDArray[np.float64]
    columns: NDArray[np.int64]
    texts: tuple[Cell, ...]

    def read(self, lines: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The fields of many lines.

        Args:
            lines: uint8 [n, length of the line].

        Returns:
            values float64 [n, 7] and given bool [n, 7], as in `Batch`.
        """
        numbers = _small_product(lines[:, self.offsets] - np.uint8(ord("0")), self.weights)
        numbers /= self.divisors
        values = np.full((len(lines), _COLUMNS), np.nan)
        given = np.broadcast_to(self.given, values.shape)
        plain = self.columns < _COLUMNS
        values[:, self.columns[plain]] = numbers[:, plain]
        for cell in self.texts:
            values[:, cell.column] = _floats(lines[:, cell.start : cell.end]) * _SCALES.get(cell.group, 1.0)
        if not plain.all():
            given = given.copy()
            values[:, TIME] = _instants(numbers[:, -2], numbers[:, -1])
            given[:, TIME] = ~np.isnan(values[:, TIME])
        return values, given


def _small_product(digits: NDArray[np.uint8], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix product, in blocks so small that OpenBLAS starts no threads: here they cost more."""
    block = max(1, _LARGEST_SMALL_PRODUCT // max(1, weights.size))
    product = np.empty((len(digits), weights.shape[1]))
    for start in range(0, len(digits), block):
        np.matmul(
            digits[start : start + block].astype(np.float64), weights, out=product[start : start + block]
        )
    return product


@dataclass(slots=True)
class _Table:
    """A layout in the making."""

    offsets: list[int] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)  # digit, column, worth
    divisors: NDArray[np.float64] = field(default_factory=lambda: np.ones(_COLUMNS + 2))

    def add(self, column: int, start: int, end: int, *, worth: float = 1.0) -> None:
        """The whole number at [start, end), times `worth`, goes into the column."""
        for offset in range(start, end):
            self.entries.append((len(self.offsets), column, worth * 10.0 ** (end - 1 - offset)))
            self.offsets.append(offset)

    def columns(self) -> list[int]:
        """The columns that have a digit, rising."""
        return sorted({column for _digit, column, _worth in self.entries})

    def weights(self) -> NDArray[np.float64]:
        """See `Layout`."""
        place = {column: number for number, column in enumerate(self.columns())}
        made = np.zeros((len(self.offsets), len(place)))
        for digit, column, worth in self.entries:
            made[digit, place[column]] = worth
        return made


def layout_of(found: Found, line: bytes) -> Layout:
    """The layout of the one record `found` in the line."""
    table = _Table()
    texts = []
    given = np.zeros(_COLUMNS, np.bool_)
    for cell in found.cells:
        given[cell.column] = True
        if cell.group == "time":
            _add_time(table, line, cell)
        elif not _add_decimal(table, line, cell):
            texts.append(cell)
    return Layout(
        found=found,
        given=given,
        offsets=np.array(table.offsets, np.int64),
        weights=table.weights(),
        divisors=table.divisors[table.columns()],
        columns=np.array(table.columns(), np.int64),
        texts=tuple(texts),
    )


def _add_decimal(table: _Table, line: bytes, cell: Cell) -> bool:
    plain = _PLAIN.fullmatch(line, cell.start, cell.end)
    if plain is None or cell.group == "time_s":
        return False
    sign, whole, decimals = plain.groups()
    decimals = decimals or b""
    if not 0 < len(whole) + len(decimals) <= _EXACT_DIGITS:
        return False
    table.add(cell.column, *plain.span(2), worth=10.0 ** len(decimals))
    if decimals:
        table.add(cell.column, *plain.span(3))
    table.divisors[cell.column] = 10.0 ** len(decimals) * (-1.0 if sign == b"-" else 1.0)
    return True


def _add_time(table: _Table, line: bytes, cell: Cell) -> None:
    parts = _TIME_PARTS.fullmatch(line, cell.start, cell.end)
    if parts is None:  # cannot be: the cell was found by the same pattern
        raise AssertionError(line[cell.start : cell.end])
    for group, worth in ((1, 10_000.0), (2, 100.0), (3, 1.0)):
        table.add(_DATE, *parts.span(group), worth=worth)
    for group, worth in ((4, 3_600_000.0), (5, 60_000.0), (6, 1000.0)):
        table.add(_MILLISECONDS, *parts.span(group), worth=worth)
    if parts[7] is not None:
        start, end = parts.span(7)
        end = min(end, start + 3)  # whole milliseconds
        table.add(_MILLISECONDS, start, end, worth=10.0 ** (3 - (end - start)))
    if parts[8] is not None:
        direction = 1.0 if parts[8] == b"-" else -1.0  # a zone ahead of UTC reads later than UTC
        table.add(_MILLISECONDS, *parts.span(9), worth=direction * 3_600_000.0)
        table.add(_MILLISECONDS, *parts.span(10), worth=direction * 60_000.0)


def _floats(cells: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Texts of one width, uint8 [n, width], as numbers."""
    width = cells.shape[1]
    texts = np.ascontiguousarray(cells).view(f"S{width}").ravel()
    return np.array([float(text) for text in texts.tolist()], np.float64)


def _instants(dates: NDArray[np.float64], milliseconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds since 1970; NaN where there is no such date."""
    unique, inverse = np.unique(dates, return_inverse=True)
    days = np.array([_day(int(date)) for date in unique.tolist()], np.float64)
    return days[inverse] * _DAY_MS + milliseconds


def _day(date: int) -> float:
    """Days from 1970-01-01 to yyyymmdd."""
    try:
        return float(dt.date(date // 10_000, date // 100 % 100, date % 100).toordinal() - _EPOCH_DAY)
    except ValueError:
        return float("nan")


def read_one(found: Found, line: bytes) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One match of one line: values [7] and given [7], read plainly.

    The careful way, for lines with several records and to prove the other way right.
    """
    values = np.full(_COLUMNS, np.nan)
    given = np.zeros(_COLUMNS, np.bool_)
    for cell in found.cells:
        text = line[cell.start : cell.end]
        value = _instant(text) if cell.group == "time" else float(text) * _SCALES.get(cell.group, 1.0)
        values[cell.column] = value
        given[cell.column] = cell.group != "time" or value == value  # noqa: PLR0124  NaN: no such date
    return values, given


def _instant(text: bytes) -> float:
    parts = _TIME_PARTS.fullmatch(text)
    if parts is None:
        return float("nan")
    year, month, day, hour, minute, second = (int(parts[group]) for group in range(1, 7))
    fraction = int((parts[7] or b"0")[:3].ljust(3, b"0"))
    zone = 0
    if parts[8] is not None:
        zone = (int(parts[9]) * 60 + int(parts[10])) * 60_000 * (-1 if parts[8] == b"-" else 1)
    days = _day(year * 10_000 + month * 100 + day)
    return days * _DAY_MS + (hour * 60 + minute) * 60_000 + second * 1000 + fraction - zone
