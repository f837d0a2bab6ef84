"""Lines of text out of logs: without the tags, times and colours that launchers and terminals add."""

import re
from collections.abc import Iterator
from pathlib import Path

from dlperf.files import open_regular

# Colours, titles and cursor movements of a terminal.
ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[@-Z\\-_])")

# In front of a line, one behind the other in any order.
_WRAPPERS = rb"""(?:
    \[(?:[\w.-]+@)?\d+,(?P<mpirun>\d+)\](?:<\w+>)?:?            # mpirun and horovodrun --tag-output
  | \[(?P<gloo>\d+)\]<\w+>:                                     # horovodrun over gloo
  | \[(?:rank|default)(?P<torchrun>\d+)\]:                      # torchrun
  | [ ]{0,5}(?P<srun>\d{1,6}):(?=[ ])                           # srun --label, which aligns its numbers
  | \d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?=[ ])     # kubectl, docker
  | \w{3}[ ]\w{3}[ ]{1,2}\d{1,2}[ ]\d\d:\d\d:\d\d[ ]\d{4}(?=[\[<])                # mpirun --timestamp-output
  | std(?:out|err)[ ][FP](?=[ ])                                # containerd
  | [\w.-]+[ ]+\|(?=[ ])                                        # docker compose
  | \[pod/[\w./-]+\]                                            # kubectl --prefix
)[ ]?"""
_WRAPPER = re.compile(_WRAPPERS, re.VERBOSE)
_ANSI_TEXT = re.compile(ANSI.pattern.decode())
_RANKS = ("mpirun", "gloo", "torchrun", "srun")


def _unwrap(line: bytes, end: int) -> tuple[int, tuple[int, int] | None]:
    """Where the wrappers in front of `end` end, and where the rank stands that they name, [start, end)."""
    start, rank = 0, None
    while start < end and (match := _WRAPPER.match(line, start, end)):
        rank = next((match.span(name) for name in _RANKS if match[name] is not None), rank)
        start = match.end()
    return start, rank


def wrapper_rank(line: bytes, *, end: int) -> tuple[int, int] | None:
    """Where the rank stands that the wrappers in front of `end` name, [start, end); None where none does."""
    return _unwrap(line, end)[1]


def without_colours(text: str) -> str:
    """The text as it looks on a terminal without colours."""
    return _ANSI_TEXT.sub("", text) if "\x1b" in text else text


def unwrapped(text: str) -> tuple[str, str]:
    """The line without colours and wrappers, and the process that its wrapper names ("" where none does)."""
    line = without_colours(text).encode("utf-8", errors="surrogateescape")
    start, rank = _unwrap(line, len(line))
    return line[start:].decode("utf-8", errors="replace"), line[slice(*rank or (0, 0))].decode()


# A file without line ends (a core dump that went to standard output) is read in pieces, not as one line.
_LONGEST_LINE = 1 << 20


def read_lines(path: Path) -> Iterator[str]:
    """The lines without their ends, one at a time; invalid UTF-8 becomes U+FFFD."""
    with open_regular(path) as stream:
        while line := stream.readline(_LONGEST_LINE):
            yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def plain(text: str) -> str:
    """One line of printable text: no colours, no control or direction characters, single spaces."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text  # nearly every cell of a table
    printable = (letter if letter.isprintable() else " " for letter in without_colours(text))
    return " ".join("".join(printable).split())
