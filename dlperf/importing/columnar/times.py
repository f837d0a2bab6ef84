"""Times of many lines read at once."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

import numpy as np

from dlperf.importing.columnar.digits import WORD, Digits, windows_at, words_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?:Z|([-+])(\d\d):?(\d\d))?"
)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DAY_MS = 86_400_000
_DATE_BYTES, _CLOCK_AT = 10, 11
_HOUR, _MINUTE, _SECOND = 3_600_000, 60_000, 1000


class Time:
    """Such as 2021-07-06 11:26:28,123: milliseconds since 1970."""

    def __init__(self, shape: bytes) -> None:
        parts = _TIME.fullmatch(shape)
        if parts is None:  # cannot be: the text was found by the same pattern
            raise AssertionError(shape)
        self._date = Digits([place for group in (1, 2, 3) for place in range(*parts.span(group))])
        self._more: list[tuple[Digits, int]] = []  # and what each is worth in milliseconds
        if parts[7] is not None:
            start, digits = parts.start(7), min(len(parts[7]), 3)  # whole milliseconds
            self._more.append((Digits([*range(start, start + digits)]), 10 ** (3 - digits)))
        if parts[8] is not None:
            direction = 1 if parts[8] == b"-" else -1  # a zone ahead of UTC reads later than UTC
            for group, worth in ((9, _HOUR), (10, _MINUTE)):
                self._more.append((Digits([*range(*parts.span(group))]), direction * worth))
        self._width = max(
            _CLOCK_AT + WORD, *(digits.width for digits, _worth in self._more), self._date.width
        )

    def read(self, buffer: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `cells.Reader`."""
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
