"""Numbers of many lines read at once, by the shape of their texts.

The shape of a text is the text with every digit masked. All texts of a shape have their digits at the same
places, whatever lines they stand in. Eight digits are one machine word, which three multiplications turn into
a number.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = 8
# A whole number of this many digits is exact in a double, and so is a power of ten below 1e22: their quotient
# is the double nearest to the decimal.
_EXACT_DIGITS = 15
# The same holds for the 64 bits of an extended double, where the machine has them.
_EXTENDED_DIGITS = 18
_HAS_EXTENDED = np.finfo(np.longdouble).nmant == 63  # noqa: PLR2004
_DECIMAL = re.compile(rb"([-+]?)(\d*)(?:\.(\d*))?")
_TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:Z|([-+])(\d\d):?(\d\d))?"
)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DAY_MS = 86_400_000
_DATE_BYTES, _CLOCK_AT = 10, 11
_HOUR, _MINUTE, _SECOND = 3_600_000, 60_000, 1000
_SCALES = {"time_s": 1000.0}


class Reader(Protocol):
    """Reads texts of one shape."""

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers, [n], of the texts that start there, [n]; NaN where a time does not exist."""


def texts_at(buffer: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The `width` bytes from each start, uint8 [n, width]; numpy copies them fast as one element each."""
    elements = np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer=buffer.data, strides=(1,))
    return elements[starts].view(np.uint8).reshape(len(starts), width)


def windows_at(buffer: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The same where less than `width` bytes may be left of the buffer; zeros stand behind its end."""
    last = len(buffer) - width
    behind = starts > last
    if not behind.any():
        return texts_at(buffer, starts, width)
    windows = np.empty((len(starts), width), np.uint8)
    if last >= 0:
        windows[~behind] = texts_at(buffer, starts[~behind], width)
    before = max(0, last)
    end = np.concatenate([buffer[before:], np.zeros(width, np.uint8)])
    windows[behind] = texts_at(end, starts[behind] - before, width)
    return windows


def words_in(windows: NDArray[np.uint8], offset: int) -> NDArray[np.uint64]:
    """The eight bytes at an offset into windows [n, width], uint64 [n], the first of them the lowest."""
    count, width = windows.shape
    return np.ndarray((count,), "<u8", windows.data, offset, (width,)).copy()


def reader_of(group: str, shape: bytes) -> Reader:
    """How to read the texts of a shape; `group` is the pattern's name for them."""
    if group == "time":
        return _Time(shape)
    decimal = _DECIMAL.fullmatch(shape)
    if decimal is not None and group not in _SCALES:
        digits = len(decimal[2]) + len(decimal[3] or b"")
        if 0 < digits <= _EXACT_DIGITS:
            return _Decimal(decimal)
        if _HAS_EXTENDED and 0 < digits <= _EXTENDED_DIGITS:
            return _LongDecimal(decimal)
    return _Text(len(shape), _SCALES.get(group, 1.0))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbouring digits: the word at `offset` masked and shifted has them where their group needs them."""

    offset: int
    mask: int
    shift: int


class _Digits:
    """The whole number that the digits at some places of a text make, up to 18 of them.

    `width` is how much of the text is looked at.

    Groups of eight, from the right, stand in a word with the last digit in the highest byte. Neighbours are
    then put together to 2, 4 and 8 digits: D. Lemire, "Quickly parsing eight digits" (2018).
    """

    def __init__(self, places: list[int]) -> None:
        ends = range(len(places), 0, -_WORD)
        self._groups = [_pieces(places[max(0, end - _WORD) : end]) for end in ends]
        self._lengths = [min(end, _WORD) for end in ends]
        self.width = _WORD + max(piece.offset for pieces in self._groups for piece in pieces)

    def read(self, windows: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The numbers, [n], of windows [n, at least `width`] that begin where the texts do."""
        whole = np.zeros(0, np.int64)
        for number, (pieces, length) in enumerate(zip(self._groups, self._lengths, strict=True)):
            word = np.zeros(0, np.uint64)
            for first, piece in enumerate(pieces):
                part = words_in(windows, piece.offset)
                part &= np.uint64(piece.mask)
                part <<= np.uint64(piece.shift)
                word = part if not first else word | part
            value = _number(word, length).view(np.int64)
            whole = value if not number else whole + value * 10 ** (_WORD * number)
        return whole


def _pieces(places: list[int]) -> list[_Piece]:
    """How to put the digits at these places, at most eight, at the high end of a word."""
    pieces = []
    first = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1:
            mask = int.from_bytes(b"\x0f" * (end - first), "little")
            pieces.append(_Piece(places[first], mask, 8 * (_WORD - len(places) + first)))
            first = end
    return pieces


def _number(word: NDArray[np.uint64], digits: int) -> NDArray[np.uint64]:
    """The number of at most eight digits at the high end of each word, the rest of which is 0."""
    word = word * np.uint64(10 << 8 | 1)
    word >>= np.uint64(8)
    word &= np.uint64(0x00FF00FF00FF00FF)
    if digits <= 2:  # noqa: PLR2004  two to a pair
        word >>= np.uint64(48)
        return word
    word *= np.uint64(100 << 16 | 1)
    word >>= np.uint64(16)
    word &= np.uint64(0x0000FFFF0000FFFF)
    if digits <= 4:  # noqa: PLR2004  two pairs
        word >>= np.uint64(32)
        return word
    word *= np.uint64(10_000 << 32 | 1)
    word >>= np.uint64(32)
    return word


def _digits(shape: re.Match[bytes]) -> _Digits:
    """Those before and behind the point."""
    return _Digits([*range(*shape.span(2)), *range(*(shape.span(3) if shape[3] else (0, 0)))])


def _divisor(shape: re.Match[bytes]) -> float:
    return 10.0 ** len(shape[3] or b"") * (-1.0 if shape[1] == b"-" else 1.0)


class _Decimal:
    """Such as 12.50 and -3: at most 15 digits."""

    def __init__(self, shape: re.Match[bytes]) -> None:
        self._digits = _digits(shape)
        self._divisor = _divisor(shape)

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        numbers = self._digits.read(windows_at(buffer, starts, self._digits.width)).astype(np.float64)
        if self._divisor != 1.0:
            numbers /= self._divisor
        return numbers


class _LongDecimal:
    """Such as 245.12345678901234: at most 18 digits.

    The quotient of two exact extended doubles is rounded twice, to 64 bits and then to 53. That is the double
    nearest to the decimal unless the first rounding ends exactly between two doubles; such a text is read by
    itself.
    """

    def __init__(self, shape: re.Match[bytes]) -> None:
        self._width = shape.end()
        self._digits = _digits(shape)
        self._divisor = np.longdouble(_divisor(shape))

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        whole = self._digits.read(windows_at(buffer, starts, self._digits.width))
        extended = whole.astype(np.longdouble) / self._divisor
        numbers: NDArray[np.float64] = extended.astype(np.float64)
        # What was rounded away, in gaps between doubles; below a power of two the gap is half as wide.
        away = np.abs((extended - numbers).astype(np.float64)) / np.spacing(np.abs(numbers))
        ties = np.flatnonzero((away == 1 / 2) | (away == 1 / 4))
        if len(ties):
            numbers[ties] = _floats(texts_at(buffer, starts[ties], self._width))
        return numbers


class _Text:
    """Such as 1e-05 and nan, and all that has more digits: one by one."""

    def __init__(self, width: int, scale: float) -> None:
        self._width = width
        self._scale = scale

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        return _floats(texts_at(buffer, starts, self._width)) * self._scale


def _floats(texts: NDArray[np.uint8]) -> NDArray[np.float64]:
    width = texts.shape[1]
    cells = np.ascontiguousarray(texts).view(f"S{width}").ravel()
    return np.array([float(cell) for cell in cells.tolist()], np.float64)


class _Time:
    """Such as 2021-07-06 11:26:28,123: milliseconds since 1970."""

    def __init__(self, shape: bytes) -> None:
        parts = _TIME.fullmatch(shape)
        if parts is None:  # cannot be: the text was found by the same pattern
            raise AssertionError(shape)
        self._date = _Digits([place for group in (1, 2, 3) for place in range(*parts.span(group))])
        self._more: list[tuple[_Digits, int]] = []  # and what each is worth in milliseconds
        if parts[7] is not None:
            start, digits = parts.start(7), min(len(parts[7]), 3)  # whole milliseconds
            self._more.append((_Digits([*range(start, start + digits)]), 10 ** (3 - digits)))
        if parts[8] is not None:
            direction = 1 if parts[8] == b"-" else -1  # a zone ahead of UTC reads later than UTC
            for group, worth in ((9, _HOUR), (10, _MINUTE)):
                self._more.append((_Digits([*range(*parts.span(group))]), direction * worth))
        self._width = max(
            _CLOCK_AT + _WORD, *(digits.width for digits, _worth in self._more), self._date.width
        )

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        windows = windows_at(buffer, starts, self._width)
        dates = windows[:, :_DATE_BYTES]
        same_day = (dates == dates[:1]).all()
        days = _days(self._date.read(windows[:1] if same_day else windows))
        instants = days * _DAY_MS + _of_day(words_in(windows, _CLOCK_AT))
        for digits, worth in self._more:
            instants += digits.read(windows) * worth
        return instants


def _of_day(clock: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Milliseconds since midnight of texts hh:mm:ss, [n] words."""
    pairs = clock & np.uint64(0x0F0F000F0F000F0F)
    pairs = pairs * np.uint64(10) + (pairs >> np.uint64(8))  # in the lower byte of each two
    byte = np.uint64(0xFF)
    milliseconds = (pairs & byte) * np.uint64(_HOUR)
    milliseconds += ((pairs >> np.uint64(24)) & byte) * np.uint64(_MINUTE)
    milliseconds += ((pairs >> np.uint64(48)) & byte) * np.uint64(_SECOND)
    return milliseconds.view(np.int64)


def _days(dates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Days from 1970-01-01 to yyyymmdd; NaN where there is no such date."""
    unique, inverse = np.unique(dates, return_inverse=True)
    return np.array([_day(int(date)) for date in unique.tolist()], np.float64)[inverse]


def _day(date: int) -> float:
    try:
        return float(dt.date(date // 10_000, date // 100 % 100, date % 100).toordinal() - _EPOCH_DAY)
    except ValueError:
        return float("nan")
