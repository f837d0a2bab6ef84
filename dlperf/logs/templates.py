"""Lines of layouts already known, found among thousands of lines without looking at any of them in Python.

A template compares a line with a layout eight bytes at a time: where the layout has text the bytes must be
equal, where it has digits they must be digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = 8
_ZERO, _NINE = ord("0"), ord("9")
# Of one length, so that lines without any order do not pay for many.
_MOST_PER_LENGTH = 6
_LONGEST = 4096
_FEWEST_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """One layout; `width` is its length in whole words.

    Attributes:
        mask: uint64 [width / 8], ones where the layout has text.
        text: uint64 [width / 8], the text.
        digits: int64 [d], where the digits stand.
    """

    code: int
    width: int
    mask: NDArray[np.uint64]
    text: NDArray[np.uint64]
    digits: NDArray[np.int64]

    @classmethod
    def of(cls, line: bytes, code: int) -> _Template:
        """The template of a line's layout."""
        width = -(-len(line) // _WORD) * _WORD
        padded = np.frombuffer(line.ljust(width, b"0"), np.uint8)
        is_digit = (padded >= _ZERO) & (padded <= _NINE)
        mask = np.where(is_digit, 0, 0xFF).astype(np.uint8)
        return cls(
            code=code,
            width=width,
            mask=mask.view(np.uint64),
            text=(padded & mask).view(np.uint64),
            digits=np.flatnonzero(is_digit[: len(line)]),
        )

    def fits(self, lines: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the lines, uint8 [n, width], have this layout; what stands behind their end is ignored."""
        fitting: NDArray[np.bool_] = ((lines.view(np.uint64) & self.mask) == self.text).all(axis=1)
        are_digits = (lines[:, self.digits] - np.uint8(_ZERO)) <= _NINE - _ZERO
        return fitting if are_digits.all() else fitting & are_digits.all(axis=1)


class Templates:
    """The layouts that many lines had, by length."""

    def __init__(self) -> None:
        self._by_length: dict[int, list[_Template]] = {}
        self._codes: set[int] = set()

    def add(self, line: bytes, code: int) -> None:
        """Remember the layout of a line; what is too long, or one too many of its length, is passed over."""
        known = self._by_length.get(len(line), [])
        if code in self._codes or not 0 < len(line) <= _LONGEST or len(known) >= _MOST_PER_LENGTH:
            return
        self._codes.add(code)
        self._by_length[len(line)] = [*known, _Template.of(line, code)]

    def find(
        self,
        buffer: NDArray[np.uint8],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        codes: NDArray[np.int32],
    ) -> None:
        """Write the code of every line that fits into `codes`; all arrays but `buffer` are [n]."""
        if not self._by_length:
            return
        short = np.minimum(lengths, _LONGEST + 1).astype(np.uint16)
        order = np.argsort(short, kind="stable")
        counts = np.bincount(short)
        ends = np.cumsum(counts)
        for length, templates in self._by_length.items():
            if length >= len(counts) or counts[length] < _FEWEST_LINES:
                continue
            group = order[ends[length] - counts[length] : ends[length]]
            width = templates[0].width
            group = group[starts[group] + width <= len(buffer)]
            lines = np.lib.stride_tricks.sliding_window_view(buffer, width)[starts[group]]
            for template in templates:
                fits = template.fits(lines)
                codes[group[fits]] = template.code
                if fits.all():
                    break
                group, lines = group[~fits], lines[~fits]
