"""Where the fields of a line stand, and the numbers of many lines read at once, column by column.

A layout is a line with every digit masked. The dialects' patterns do not care which digit it is, so all lines
of a layout match at the same places; only the first one is searched. Texts of one shape (a field's text with
its digits masked) have their digits at the same places, whatever lines they stand in. A `CellTable` knows
where each layout has its fields and which shapes they have; it reads a field of all lines of a chunk shape by
shape, of which there are few.
"""

import datetime as dt
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.dialects.base import TIMESTAMP, Dialect
from dlperf.importing.records import FIELDS, RANK, TIME, WHOLE, Batch
from dlperf.logs.text import rank_before

MASK = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))
_LONGEST_PREFIX = 512  # what wrappers put in front of a record
_LONGEST_WHOLE = 20  # seconds since 1970 with decimals
_DECIMAL = re.compile(rb"([-+]?)(\d*)(?:\.(\d*))?")
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
    end = match.start()
    start = max(after, end - _LONGEST_PREFIX)
    start = max(start, line.rfind(b"\r", start, end) + 1)
    if RANK not in cells and (rank := rank_before(line, start=start, end=end)):
        cells[RANK] = Cell(column=RANK, group="rank", start=rank[0], end=rank[1])
    if TIME not in cells and (time := _last_time(line, start, end)):
        cells[TIME] = Cell(column=TIME, group="time", start=time[0], end=time[1])
    return tuple(cells[column] for column in sorted(cells))


def _last_time(line: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Where the last time in line[start:end] stands."""
    times = list(_TIMESTAMP.finditer(line, start, end))
    return times[-1].span() if times else None


def _is_sane(line: bytes, start: int, end: int, name: str) -> bool:
    """Whether a step, a rank or a time is a number that something in the world can have."""
    if name == "time":
        return True
    return end - start <= _LONGEST_WHOLE and _DECIMAL.fullmatch(line, start, end) is not None


# Takes a buffer and where texts of one shape start in it, [n]; gives their numbers, [n], NaN for a time that
# does not exist.
Reader = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float64]]


def texts_at(buffer: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The `width` bytes from each start, uint8 [n, width]; numpy copies them fast as one element each."""
    elements = np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer=buffer.data, strides=(1,))
    return elements[starts].view(np.uint8).reshape(len(starts), width)


def _digits_at(buffer: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The same with digits as 0 to 9; what other bytes become means nothing."""
    digits = texts_at(buffer, starts, width)
    digits &= 0x0F
    return digits


def _whole_numbers(digits: NDArray[np.uint8], places: Sequence[int]) -> NDArray[np.int64]:
    """The number, [n], that the digits at some places of each text make, 1 to 18 of them."""
    numbers = digits[:, places[0]].astype(np.int64)
    for place in places[1:]:
        numbers *= 10
        numbers += digits[:, place]
    return numbers


_TIME = re.compile(
    rb"(\d{4})[/-](\d\d)[/-](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:Z|([-+])(\d\d):?(\d\d))?"
)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DATE_BYTES = 10
_DAY, _HOUR, _MINUTE, _SECOND = 86_400_000, 3_600_000, 60_000, 1000  # milliseconds


def _time_reader(shape: bytes) -> Reader:
    """For such as 2021-07-06 11:26:28,123: milliseconds since 1970."""
    parts = _TIME.fullmatch(shape)
    if parts is None:  # cannot be: the text was found by the same pattern
        raise AssertionError(shape)
    spans = {group: parts.span(group) for group in range(1, 11) if parts[group] is not None}
    date = [place for group in (1, 2, 3) for place in range(*spans[group])]
    worth: dict[int, float] = {4: _HOUR, 5: _MINUTE, 6: _SECOND}  # in milliseconds, by group
    if 7 in spans:  # noqa: PLR2004  the fraction
        start, end = spans[7]
        spans[7] = (start, min(end, start + 3))  # whole milliseconds
        worth[7] = 10 ** (3 - (spans[7][1] - start))
    if 8 in spans:  # noqa: PLR2004  the zone: one ahead of UTC reads later than UTC
        direction = 1 if parts[8] == b"-" else -1
        worth |= {9: direction * _HOUR, 10: direction * _MINUTE}
    weights = np.zeros(len(shape))
    for group, milliseconds in worth.items():
        start, end = spans[group]
        weights[start:end] = milliseconds * 10.0 ** np.arange(end - start)[::-1]

    def read(buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        digits = _digits_at(buffer, starts, len(shape))
        dates = digits[:, :_DATE_BYTES]
        same_day = (dates == dates[:1]).all()
        days = _days(_whole_numbers(digits[:1] if same_day else digits, date))
        instants: NDArray[np.float64] = days * _DAY + np.einsum(
            "ij,j->i", digits, weights
        )  # not `@`, which wakes threads up
        return instants

    return read


def _days(dates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Days from 1970-01-01 to yyyymmdd; NaN where there is no such date."""
    unique, inverse = np.unique(dates, return_inverse=True)
    return np.array([_day(int(date)) for date in unique.tolist()], np.float64)[inverse]


def _day(date: int) -> float:
    try:
        return float(dt.date(date // 10_000, date // 100 % 100, date % 100).toordinal() - _EPOCH_DAY)
    except ValueError:
        return float("nan")


# A whole number of this many digits is exact in a double, and so is a power of ten below 1e22: their quotient
# is the double nearest to the decimal.
_EXACT_DIGITS = 15
# The same holds for the 64 bits of an extended double, where the machine has them.
_EXTENDED_DIGITS = 18
_HAS_EXTENDED = np.finfo(np.longdouble).nmant == 63  # noqa: PLR2004
_SCALES = {"time_s": 1000.0}


def reader_of(group: str, shape: bytes) -> Reader:
    """How to read the texts of a shape; `group` is the pattern's name for them."""
    if group == "time":
        return _time_reader(shape)
    if group == "metric":
        checksum = float(zlib.crc32(shape))
        return lambda _buffer, starts: np.full(len(starts), checksum)
    decimal = _DECIMAL.fullmatch(shape)
    if decimal is not None and group not in _SCALES:
        digits = len(decimal[2]) + len(decimal[3] or b"")
        if 0 < digits <= (_EXTENDED_DIGITS if _HAS_EXTENDED else _EXACT_DIGITS):
            return _decimal_reader(decimal)
    width, scale = len(shape), _SCALES.get(group, 1.0)
    # Such as 1e-05 and nan, and all that has more digits: one by one.
    return lambda buffer, starts: _floats(texts_at(buffer, starts, width)) * scale


def _decimal_reader(shape: re.Match[bytes]) -> Reader:
    """For such as -12.50.

    Of more than 15 digits the quotient of two exact extended doubles is rounded twice, to 64 bits and then to
    53. That is the double nearest to the decimal unless the first rounding ends exactly between two doubles;
    such a text is read by itself.
    """
    places = [*range(*shape.span(2)), *range(*(shape.span(3) if shape[3] else (0, 0)))]
    divisor = 10.0 ** len(shape[3] or b"") * (-1.0 if shape[1] == b"-" else 1.0)

    def read(buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        return _whole_numbers(_digits_at(buffer, starts, shape.end()), places) / divisor

    def read_extended(buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        whole = _whole_numbers(_digits_at(buffer, starts, shape.end()), places)
        extended = whole.astype(np.longdouble) / np.longdouble(divisor)
        numbers: NDArray[np.float64] = extended.astype(np.float64)
        # What was rounded away, in gaps between doubles; below a power of two the gap is half as wide.
        away = np.abs((extended - numbers).astype(np.float64)) / np.spacing(np.abs(numbers))
        ties = np.flatnonzero((away == 1 / 2) | (away == 1 / 4))
        if len(ties):
            numbers[ties] = _floats(texts_at(buffer, starts[ties], shape.end()))
        return numbers

    return read if len(places) <= _EXACT_DIGITS else read_extended


def _floats(texts: NDArray[np.uint8]) -> NDArray[np.float64]:
    width = texts.shape[1]
    cells = np.ascontiguousarray(texts).view(f"S{width}").ravel()
    return np.array([float(cell) for cell in cells.tolist()], np.float64)


_NOT_GIVEN = -1


class CellTable:
    """By the code of a layout its matches of each dialect; by match where its cells are, and their shapes."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._numbers: dict[tuple[str, bytes], int] = {}  # group and shape -> number of the reader
        # By dialect, one row per match: code, start of each cell, number of each cell's reader.
        self._rows: defaultdict[str, list[list[int]]] = defaultdict(list)
        self._arrays: dict[str, NDArray[np.int64]] = {}  # of `_rows`, while they stay as they are
        self._count = 0

    def __len__(self) -> int:
        """How many matches it knows."""
        return self._count

    def add(self, code: int, found: Sequence[Found], line: bytes) -> None:
        """Remember the layout of a line; codes rise from call to call."""
        self._count += len(found)
        for item in found:
            starts, shapes = [0] * len(FIELDS), [_NOT_GIVEN] * len(FIELDS)
            for cell in item.cells:
                key = (cell.group, line[cell.start : cell.end].translate(MASK))
                number = self._numbers.setdefault(key, len(self._readers))
                if number == len(self._readers):
                    self._readers.append(reader_of(*key))
                starts[cell.column], shapes[cell.column] = cell.start, number
            self._rows[item.dialect.name].append([code, *starts, *shapes])
            self._arrays.pop(item.dialect.name, None)

    def read(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        codes: NDArray[np.int32],
        dialect: Dialect,
    ) -> Batch:
        """Every record, and every loss on a line of its own, of a dialect, in the order of the log.

        The chunk's lines begin at `starts` [n] and have the layouts `codes` [n]. `line` counts from 0
        within the chunk; all rows are of run 0.
        """
        table = self._arrays.get(dialect.name)
        if table is None:
            rows = np.array(self._rows[dialect.name], np.int64).reshape(-1, 1 + 2 * len(FIELDS))
            table = self._arrays[dialect.name] = np.ascontiguousarray(rows.T)
        line, match = _matches_of(codes, table[0])
        used = np.flatnonzero(np.bincount(match))
        begins = starts[line]
        # A column's cells are neighbours in memory.
        values = np.full((len(FIELDS), len(line)), np.nan).T
        given = np.empty((len(FIELDS), len(line)), np.bool_).T
        for column in range(len(FIELDS)):
            cells, shapes = table[1 + column], table[1 + len(FIELDS) + column]
            if len(used) and (shapes[used] == shapes[used[0]]).all():
                number = int(shapes[used[0]])
                given[:, column] = number != _NOT_GIVEN
                if number != _NOT_GIVEN:
                    values[:, column] = self._readers[number](buffer, begins + cells[match])
            else:
                of_lines = shapes[match]
                given[:, column] = of_lines != _NOT_GIVEN
                for number in np.flatnonzero(np.bincount(of_lines + 1)[1:]).tolist():
                    these = np.flatnonzero(of_lines == number)
                    values[these, column] = self._readers[number](buffer, begins[these] + cells[match[these]])
        given[:, TIME] &= ~np.isnan(values[:, TIME])
        return Batch(line, np.zeros_like(line), values, given)


def _matches_of(
    codes: NDArray[np.int32], of_matches: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each match: the line that it is in, and its number; by line, within a line by position.

    `codes` are those of the lines, `of_matches`, which rise, those of the matches.
    """
    counts = np.bincount(of_matches, minlength=int(codes.max(initial=0)) + 1)
    count, first = counts[codes], (np.cumsum(counts) - counts)[codes]
    line = np.arange(len(codes))
    if (count == 1).all():
        return line, first
    line = np.repeat(line, count)
    before = np.cumsum(count) - count
    return line, np.repeat(first - before, count) + np.arange(len(line))
