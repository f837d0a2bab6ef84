"""Numbers of many lines read at once, by the shape of their texts.

The shape of a text is the text with every digit masked. All texts of a shape have their digits at the same
places, whatever lines they stand in.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ZERO = np.uint8(ord("0"))
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
_SCALES = {"time_s": 1000.0}


class Reader(Protocol):
    """Reads texts of one shape."""

    width: int

    def read(self, texts: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The numbers, [n], of texts [n, width]; NaN where a time does not exist."""


def texts_at(buffer: NDArray[np.uint8], starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The `width` bytes from each start, uint8 [n, width]; numpy copies them fast as one element each."""
    elements = np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer=buffer.data, strides=(1,))
    return elements[starts].view(np.uint8).reshape(len(starts), width)


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


def _weights(width: int, *spans: tuple[int, int]) -> NDArray[np.int64]:
    """What each place of a text is worth in the whole number that the digits in the spans make, [width]."""
    places = [place for start, end in spans for place in range(start, end)]
    made = np.zeros(width, np.int64)
    made[places] = 10 ** np.arange(len(places) - 1, -1, -1, dtype=np.int64)
    return made


def _product(texts: NDArray[np.uint8], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The digits times what they are worth, summed; einsum, because BLAS would start threads."""
    made: NDArray[np.float64] = np.einsum("ij,j->i", (texts - _ZERO).astype(np.float64), weights)
    return made


class _Decimal:
    """Such as 12.50 and -3: at most 15 digits."""

    def __init__(self, shape: re.Match[bytes]) -> None:
        self.width = shape.end()
        self._weights = _weights(self.width, shape.span(2), *_span(shape, 3)).astype(np.float64)
        self._divisor = _divisor(shape)

    def read(self, texts: NDArray[np.uint8]) -> NDArray[np.float64]:
        numbers: NDArray[np.float64] = _product(texts, self._weights) / self._divisor
        return numbers


class _LongDecimal:
    """Such as 245.12345678901234: at most 18 digits.

    The quotient of two exact extended doubles is rounded twice, to 64 bits and then to 53. That is the double
    nearest to the decimal unless the first rounding ends exactly between two doubles; such a text is read by
    itself.
    """

    def __init__(self, shape: re.Match[bytes]) -> None:
        self.width = shape.end()
        self._weights = _weights(self.width, shape.span(2), *_span(shape, 3))
        self._divisor = np.longdouble(_divisor(shape))

    def read(self, texts: NDArray[np.uint8]) -> NDArray[np.float64]:
        whole = np.einsum("ij,j->i", (texts - _ZERO).astype(np.int64), self._weights)
        extended = whole.astype(np.longdouble) / self._divisor
        numbers: NDArray[np.float64] = extended.astype(np.float64)
        # What was rounded away, in gaps between doubles; below a power of two the gap is half as wide.
        away = np.abs((extended - numbers).astype(np.float64)) / np.spacing(np.abs(numbers))
        ties = np.flatnonzero((away == 1 / 2) | (away == 1 / 4))
        if len(ties):
            numbers[ties] = _floats(texts[ties])
        return numbers


def _span(shape: re.Match[bytes], group: int) -> list[tuple[int, int]]:
    return [] if shape[group] is None else [shape.span(group)]


def _divisor(shape: re.Match[bytes]) -> float:
    return 10.0 ** len(shape[3] or b"") * (-1.0 if shape[1] == b"-" else 1.0)


class _Text:
    """Such as 1e-05 and nan, and all that has more digits: one by one."""

    def __init__(self, width: int, scale: float) -> None:
        self.width = width
        self._scale = scale

    def read(self, texts: NDArray[np.uint8]) -> NDArray[np.float64]:
        return _floats(texts) * self._scale


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
        self.width = len(shape)
        self._date = _weights(self.width, parts.span(1), parts.span(2), parts.span(3)).astype(np.float64)
        of_day = np.zeros(self.width)
        for group, worth in ((4, 3_600_000.0), (5, 60_000.0), (6, 1000.0)):
            of_day += worth * _weights(self.width, parts.span(group))
        for start, end in _span(parts, 7):
            digits = min(end - start, 3)  # whole milliseconds
            of_day += 10.0 ** (3 - digits) * _weights(self.width, (start, start + digits))
        if parts[8] is not None:
            direction = 1.0 if parts[8] == b"-" else -1.0  # a zone ahead of UTC reads later than UTC
            of_day += direction * 3_600_000.0 * _weights(self.width, parts.span(9))
            of_day += direction * 60_000.0 * _weights(self.width, parts.span(10))
        self._of_day = of_day

    def read(self, texts: NDArray[np.uint8]) -> NDArray[np.float64]:
        digits = (texts - _ZERO).astype(np.float64)
        dates, milliseconds = (
            np.einsum("ij,j->i", digits, weights) for weights in (self._date, self._of_day)
        )
        instants: NDArray[np.float64] = _days(dates) * _DAY_MS + milliseconds
        return instants


def _days(dates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Days from 1970-01-01 to yyyymmdd; NaN where there is no such date."""
    if len(dates) and (dates == dates[0]).all():
        return np.full(len(dates), _day(int(dates[0])))
    unique, inverse = np.unique(dates, return_inverse=True)
    return np.array([_day(int(date)) for date in unique.tolist()], np.float64)[inverse]


def _day(date: int) -> float:
    try:
        return float(dt.date(date // 10_000, date // 100 % 100, date % 100).toordinal() - _EPOCH_DAY)
    except ValueError:
        return float("nan")
