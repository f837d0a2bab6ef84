"""Texts out of a buffer of bytes, and the whole numbers that their digits make, many at once.

Eight digits are one machine word, which three multiplications turn into a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD = 8


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


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbouring digits: the word at `offset` masked and shifted has them where their group needs them."""

    offset: int
    mask: int
    shift: int


class Digits:
    """The whole number that the digits at some places of a text make, up to 18 of them.

    `width` is how much of the text is looked at.

    Groups of eight, from the right, stand in a word with the last digit in the highest byte. Neighbours are
    then put together to 2, 4 and 8 digits: D. Lemire, "Quickly parsing eight digits" (2018).
    """

    def __init__(self, places: list[int]) -> None:
        ends = range(len(places), 0, -WORD)
        self._groups = [_pieces(places[max(0, end - WORD) : end]) for end in ends]
        self._lengths = [min(end, WORD) for end in ends]
        self.width = WORD + max(piece.offset for pieces in self._groups for piece in pieces)

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
            whole = value if not number else whole + value * 10 ** (WORD * number)
        return whole


def _pieces(places: list[int]) -> list[_Piece]:
    """How to put the digits at these places, at most eight, at the high end of a word."""
    pieces = []
    first = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1:
            mask = int.from_bytes(b"\x0f" * (end - first), "little")
            pieces.append(_Piece(places[first], mask, 8 * (WORD - len(places) + first)))
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
