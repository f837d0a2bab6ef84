"""Records seen in a log, by which its last one is told to be whole or cut in its middle."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from dlperf.importing.columnar.layout import MASK
from dlperf.importing.dialects.base import NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dlperf.importing.columnar.layout import Found

_MOST_TEXTS = 2000
_LONGEST_TEXT = 4096
_NUMBERS = re.compile(rb"(?:" + NUMBER + rb")")


class SeenRecords:
    """One record of each layout, the latest ones."""

    def __init__(self) -> None:
        self._texts: deque[bytes] = deque(maxlen=_MOST_TEXTS)

    def add(self, texts: Iterable[bytes]) -> None:
        """Remember the texts of records."""
        self._texts.extend(text for text in texts if len(text) <= _LONGEST_TEXT)

    def is_whole(self, found: Found, line: bytes, text: bytes) -> bool:
        """Whether a record at the end of a log that stops without a line feed is all there."""
        shape, shapes = _shape(text), set(map(_shape, self._texts))
        if shape in shapes:
            return True
        outline = shape[0]
        if any(known.startswith(outline) and known != outline for known, _last in shapes):
            return False
        ending = found.dialect.ending
        return not shapes if ending is None else ending.fullmatch(line, found.start) is not None


def _shape(text: bytes) -> tuple[bytes, bytes]:
    """The text without its numbers, and the decimals of a number at its very end: a cut one has fewer."""
    text = text.rstrip()
    last = b""
    for match in _NUMBERS.finditer(text):
        number = match[0].translate(MASK)
        if match.end() == len(text):
            last = number.partition(b".")[2] if b"0" in number else number
    return _NUMBERS.sub(b"#", text), last
