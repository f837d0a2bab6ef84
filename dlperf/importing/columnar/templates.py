"""Lines of layouts already known, found among thousands of lines without looking at any of them in Python.

A template compares whole lines with a layout: where the layout has text the bytes must be equal, where it has
digits they must be digits. Of several templates of one length, a few words of each line tell which one may
fit: the pattern of digits and other bytes in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.columnar.cells import texts_at, windows_at, words_in

UNKNOWN = -1
_WORD = 8
_ZERO, _NINE = ord("0"), ord("9")
_LONGEST = 4096
_FEWEST_LINES = 8
_TOGETHER = 16
_MOST_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 17  # that a processor's cache holds, intermediate results included
# The words that tell templates apart; eight patterns of eight bytes fill the 64 bits of a key.
_MOST_TELLING = 8
_SLOT_BITS = 12
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio: Fibonacci hashing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """One layout; `width` is its length in whole words.

    A byte b fits where b - text <= limit, modulo 256: text is the byte itself and limit 0; where the layout
    has a digit they are "0" and 9; behind the line's end everything fits. The constants are repeated, so that
    numpy has long rows.

    Attributes:
        line: the line that it was made of.
        text, limit: uint8 [_TOGETHER x width].
    """

    code: int
    width: int
    line: bytes
    text: NDArray[np.uint8]
    limit: NDArray[np.uint8]

    @classmethod
    def of(cls, line: bytes, code: int) -> _Template:
        """The template of a line's layout."""
        width = -(-len(line) // _WORD) * _WORD
        text = np.frombuffer(line.ljust(width, b"\0"), np.uint8)
        is_digit = (text >= _ZERO) & (text <= _NINE)
        limit = np.where(is_digit, _NINE - _ZERO, np.where(np.arange(width) < len(line), 0, 255))
        return cls(
            code=code,
            width=width,
            line=line,
            text=np.tile(np.where(is_digit, _ZERO, text).astype(np.uint8), _TOGETHER),
            limit=np.tile(limit.astype(np.uint8), _TOGETHER),
        )

    def fits(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the lines, [n, width], have this layout; the lines are overwritten."""
        whole = len(rows) // _TOGETHER * _TOGETHER
        step = max(1, _BLOCK_BYTES // self.width // _TOGETHER) * _TOGETHER
        parts = [self._fit(rows[at : min(at + step, whole)], _TOGETHER) for at in range(0, whole, step)]
        if whole < len(rows):
            parts.append(self._fit(rows[whole:], 1))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fit(self, rows: NDArray[np.uint8], together: int) -> NDArray[np.bool_]:
        count, constants = len(rows), self.width * together
        rows = rows.reshape(-1, constants)
        rows -= self.text[:constants]
        wrong = rows > self.limit[:constants]
        if not wrong.any():
            return np.ones(count, np.bool_)
        fits: NDArray[np.bool_] = np.bitwise_or.reduce(wrong.view(np.uint64).reshape(count, -1), axis=1) == 0
        return fits


class _OneLength:
    """The templates of one length, and how to tell which of them a line may fit."""

    def __init__(self) -> None:
        self._templates: list[_Template] = []
        self._buckets: list[list[_Template]] = []
        self._telling: list[int] = []  # bytes at which a telling word begins
        self._slots = np.zeros(1 << _SLOT_BITS, np.uint16)

    def add(self, new: _Template) -> None:
        """Take one more."""
        self._templates.append(new)
        self._buckets = []

    def find(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        index: NDArray[np.int64],
        codes: NDArray[np.int32],
    ) -> None:
        """Write the codes of the lines in `index`, [n], that fit; the others keep theirs."""
        width = self._templates[0].width
        if starts[index[-1]] + width > len(buffer):
            index = index[starts[index] + width <= len(buffer)]
        if not self._buckets:
            self._sort_into_buckets()
        bounds = [0, len(index)]
        if len(self._buckets) > 1:
            slots = self._slots[_slots(_keys(buffer, starts[index], self._telling))]
            index = index[np.argsort(slots, kind="stable")]
            bounds = [0, *np.cumsum(np.bincount(slots, minlength=len(self._buckets))).tolist()]
        rows = texts_at(buffer, starts[index], width)
        for bucket, begin, end in zip(self._buckets, bounds[:-1], bounds[1:], strict=True):
            if begin < end:
                _find_in_bucket(bucket, rows[begin:end], index[begin:end], codes)

    def _sort_into_buckets(self) -> None:
        lines = np.frombuffer(b"".join(template.line for template in self._templates), np.uint8)
        lines = lines.reshape(len(self._templates), -1)
        self._telling = _telling_words(lines)
        starts = np.arange(len(lines)) * lines.shape[1]
        slots = _slots(_keys(lines.ravel(), starts, self._telling))
        used, bucket_of = np.unique(slots, return_inverse=True)
        self._buckets = [[] for _slot in used]
        for template, bucket in zip(self._templates, bucket_of.tolist(), strict=True):
            self._buckets[bucket].append(template)
        self._slots[:] = 0  # a line of no template's key is tried with the first bucket, and does not fit
        self._slots[used] = np.arange(len(used))


def _find_in_bucket(
    bucket: list[_Template], rows: NDArray[np.uint8], index: NDArray[np.int64], codes: NDArray[np.int32]
) -> None:
    for template in bucket:
        fits = template.fits(rows if len(bucket) == 1 else rows.copy())
        codes[index[fits]] = template.code  # no two fit the same line


def _telling_words(lines: NDArray[np.uint8]) -> list[int]:
    """Where the words begin whose patterns of digits tell the most of the lines, [n, length], apart."""
    whole = lines[:, : lines.shape[1] // _WORD * _WORD]
    patterns = np.packbits((whole >= _ZERO) & (whole <= _NINE), axis=1).astype(np.int64)
    left = np.flatnonzero((patterns != patterns[:1]).any(axis=0)).tolist()
    apart, kinds = np.zeros(len(lines), np.int64), 1
    telling: list[int] = []
    while left and len(telling) < _MOST_TELLING and kinds < len(lines):
        finer = {word: np.unique(apart << 8 | patterns[:, word], return_inverse=True) for word in left}
        best = max(left, key=lambda word: len(finer[word][0]))
        if len(finer[best][0]) == kinds:
            break
        apart, kinds = finer[best][1], len(finer[best][0])
        telling.append(best * _WORD)
        left.remove(best)
    return telling


def _keys(buffer: NDArray[np.uint8], starts: NDArray[np.int64], telling: list[int]) -> NDArray[np.uint64]:
    """Which bytes of the telling words of each line, [n], are no digits."""
    keys = np.zeros(len(starts), np.uint64)
    for number, at in enumerate(telling):
        words = words_in(windows_at(buffer, starts + at, _WORD), 0)
        words ^= np.uint64(0x3030303030303030)  # digits become 0 to 9
        high = words & np.uint64(0x7F7F7F7F7F7F7F7F)
        high += np.uint64(0x7676767676767676)  # what is above 9 gets its highest bit
        high |= words
        high &= np.uint64(0x8080808080808080)
        high >>= np.uint64(number)
        keys |= high
    return keys


def _slots(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return ((keys * _SPREAD) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)


class Templates:
    """The layouts that many lines had, by length."""

    def __init__(self) -> None:
        self._by_length: dict[int, _OneLength] = {}
        self._codes: set[int] = set()
        self._bytes = 0

    def add(self, line: bytes, code: int) -> None:
        """Remember the layout of a line; what is too long, or one too many, is passed over."""
        if code in self._codes or not 0 < len(line) <= _LONGEST or self._bytes > _MOST_BYTES:
            return
        new = _Template.of(line, code)
        self._codes.add(code)
        self._bytes += new.text.nbytes + new.limit.nbytes
        self._by_length.setdefault(len(line), _OneLength()).add(new)

    def find(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        codes: NDArray[np.int32],
    ) -> None:
        """Write the code of every line that fits into `codes`; all arrays but `buffer` are [n]."""
        if not self._codes:
            return
        short = np.minimum(lengths, _LONGEST + 1).astype(np.uint16)
        counts = np.bincount(short)
        for length, templates in self._by_length.items():
            if length < len(counts) and counts[length] >= _FEWEST_LINES:
                templates.find(buffer, starts, np.flatnonzero(short == length), codes)
