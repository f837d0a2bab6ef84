"""Numbers of many lines read at once, by the shape of their texts.

The shape of a text is the text with every digit masked. All texts of a shape have their digits at the same
places, whatever lines they stand in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dlperf.importing.columnar.digits import Digits, texts_at, windows_at
from dlperf.importing.columnar.times import Time

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A whole number of this many digits is exact in a double, and so is a power of ten below 1e22: their quotient
# is the double nearest to the decimal.
_EXACT_DIGITS = 15
# The same holds for the 64 bits of an extended double, where the machine has them.
_EXTENDED_DIGITS = 18
_HAS_EXTENDED = np.finfo(np.longdouble).nmant == 63  # noqa: PLR2004
_DECIMAL = re.compile(rb"([-+]?)(\d*)(?:\.(\d*))?")
_SCALES = {"time_s": 1000.0}


class Reader(Protocol):
    """Reads texts of one shape."""

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers, [n], of the texts that start there, [n]; NaN where a time does not exist."""


def reader_of(group: str, shape: bytes) -> Reader:
    """How to read the texts of a shape; `group` is the pattern's name for them."""
    if group == "time":
        return Time(shape)
    decimal = _DECIMAL.fullmatch(shape)
    if decimal is not None and group not in _SCALES:
        digits = len(decimal[2]) + len(decimal[3] or b"")
        if 0 < digits <= _EXACT_DIGITS:
            return _Decimal(decimal)
        if _HAS_EXTENDED and 0 < digits <= _EXTENDED_DIGITS:
            return _LongDecimal(decimal)
    return _Text(len(shape), _SCALES.get(group, 1.0))


def _digits(shape: re.Match[bytes]) -> Digits:
    """Those before and behind the point."""
    return Digits([*range(*shape.span(2)), *range(*(shape.span(3) if shape[3] else (0, 0)))])


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
