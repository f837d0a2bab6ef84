"""Lines of layouts already known, found among thousands of lines without looking at any of them in Python.

A template compares lines with a layout eight bytes at a time: where the layout has text the bytes must be
equal, where it has digits they must be digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlperf.logs.cells import texts_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = -1
_WORD = 8
_ZERO, _NINE = ord("0"), ord("9")
# Of one length: each costs a look at one word of every line of that length.
_MOST_PER_LENGTH = 24
_LONGEST = 4096
_FEWEST_LINES = 8
_TOGETHER = 64
_BLOCK_BYTES = 1 << 17  # that a processor's cache holds, intermediate results included


@dataclass(slots=True, kw_only=True)
class _Template:
    """One layout; `width` is its length in whole words.

    A byte b fits where b & mask == text and (b + carry) & mask == text. Where the layout has text, mask is
    0xFF and carry 0. Where it has a digit, they are 0xF0 and 6, and text is 0x30: the first test leaves 0x30
    to 0x3F, the second of these 0x30 to 0x39. Behind the line's end all are 0. A carry into the next byte
    comes only out of bytes that do not fit anyway. The constants are repeated, so that numpy has long rows.

    Attributes:
        mask, text, carry: uint64 [_TOGETHER x width / 8].
        differing: int64 [width / 8], how many of the other templates of its length must differ in a word.
        telling: the word in which the most do.
        hits: how many lines it had.
    """

    code: int
    width: int
    mask: NDArray[np.uint64]
    text: NDArray[np.uint64]
    carry: NDArray[np.uint64]
    differing: NDArray[np.int64]
    telling: int = 0
    hits: int = 0

    @classmethod
    def of(cls, line: bytes, code: int) -> _Template:
        """The template of a line's layout."""
        width = -(-len(line) // _WORD) * _WORD
        text = np.frombuffer(line.ljust(width, b"\0"), np.uint8)
        is_digit = (text >= _ZERO) & (text <= _NINE)
        is_behind = np.arange(width) >= len(line)
        mask = np.where(is_digit, 0xF0, np.where(is_behind, 0, 0xFF))
        repeated = (
            np.tile(part.astype(np.uint8), _TOGETHER).view(np.uint64)
            for part in (mask, text & mask, np.where(is_digit, 6, 0))
        )
        mask_, text_, carry = repeated
        return cls(
            code=code,
            width=width,
            mask=mask_,
            text=text_,
            carry=carry,
            differing=np.zeros(width // _WORD, np.int64),
        )

    def tell_from(self, other: _Template) -> None:
        """Choose the word in which the most of the others that were given so far must differ."""
        words = self.width // _WORD
        both = self.mask[:words] & other.mask[:words]
        self.differing += ((self.text[:words] ^ other.text[:words]) & both) != 0
        self.telling = int(self.differing.argmax())

    def candidates(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Which of the lines, [n, width / 8], may fit."""
        told = words[:, self.telling] & self.mask[self.telling]
        return np.flatnonzero(told == self.text[self.telling])

    def fits(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the lines, [n, width / 8], have this layout; what stands behind their end is ignored."""
        rows = max(1, _BLOCK_BYTES // self.width // _TOGETHER) * _TOGETHER
        whole = len(words) // _TOGETHER * _TOGETHER
        parts = [
            self._fit(words[start : min(start + rows, whole)], _TOGETHER) for start in range(0, whole, rows)
        ]
        return np.concatenate([*parts, self._fit(words[whole:], 1)])

    def _fit(self, words: NDArray[np.uint64], together: int) -> NDArray[np.bool_]:
        count, width = words.shape
        constants = width * together
        mask, text = self.mask[:constants], self.text[:constants]
        rows = words.reshape(-1, constants)
        wrong = rows & mask
        wrong ^= text
        carried = rows + self.carry[:constants]
        carried &= mask
        carried ^= text
        wrong |= carried
        fits = np.ones(count, np.bool_)
        if wrong.any():
            fits = np.bitwise_or.reduce(wrong.reshape(count, width), axis=1) == 0
        return fits


class Templates:
    """The layouts that many lines had, by length."""

    def __init__(self) -> None:
        self._by_length: dict[int, list[_Template]] = {}
        self._codes: set[int] = set()

    def add(self, line: bytes, code: int) -> None:
        """Remember the layout of a line; what is too long, or one too many of its length, is passed over."""
        known = self._by_length.setdefault(len(line), [])
        if code in self._codes or not 0 < len(line) <= _LONGEST or len(known) >= _MOST_PER_LENGTH:
            return
        self._codes.add(code)
        new = _Template.of(line, code)
        for template in known:
            template.tell_from(new)
            new.tell_from(template)
        known.append(new)

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
            if templates and length < len(counts) and counts[length] >= _FEWEST_LINES:
                index = np.flatnonzero(short == length)
                if starts[index[-1]] + templates[0].width > len(buffer):
                    index = index[:-1]
                words = texts_at(buffer, starts[index], templates[0].width).view(np.uint64)
                codes[index] = _codes_of(words, templates)


def _codes_of(words: NDArray[np.uint64], templates: list[_Template]) -> NDArray[np.int32]:
    """The code of each line, [n]; UNKNOWN where no template fits. No two fit the same line."""
    codes = np.full(len(words), UNKNOWN, np.int32)
    left = len(words)
    for template in templates:
        rows = template.candidates(words)
        if len(rows):
            rows = rows[template.fits(words if len(rows) == len(words) else words[rows])]
        codes[rows] = template.code
        template.hits += len(rows)
        left -= len(rows)
        if not left:
            break
    templates.sort(key=lambda template: -template.hits)  # the fewer are tried the next time
    return codes
