"""The logs of a run folder as lines of text, however they were left."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = re.compile(r"rank(\d+)\.log")
# Colours and cursor movements of a terminal.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
# A file without line ends (a core dump that went to standard output) is read in pieces, not as one line.
_LONGEST_LINE = 1 << 20


def log_files(folder: Path) -> dict[int, Path]:
    """The logs of a run folder by rank, in the order of the ranks; empty where there is none."""
    logs = folder / "logs"
    if not logs.is_dir():
        return {}
    found = ((match, path) for path in logs.iterdir() if (match := _LOG.fullmatch(path.name)))
    return dict(sorted((int(match[1]), path) for match, path in found))


def read_lines(path: Path) -> Iterator[str]:
    """The lines without their ends, one at a time; bytes that are no UTF-8 become U+FFFD."""
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def plain(text: str) -> str:
    """One line of printable text: no colours, no control or direction characters, single spaces."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text  # nearly every cell of a table
    printable = (letter if letter.isprintable() else " " for letter in _ESCAPE.sub("", text))
    return " ".join("".join(printable).split())
