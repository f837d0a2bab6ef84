"""Lines of text out of logs: without the tags, times and colours that launchers and terminals add."""

import re
from collections.abc import Iterator
from pathlib import Path

from dlperf.files import open_regular

# Colours, titles and cursor movements of a terminal.
ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[@-Z\\-_])")

# In front of a line, one behind the other in any order. A group `rank` names the rank, `process` the process.
_WRAPPERS = rb"""(?:
    \[(?:[\w.-]+@)?\d+,(?P<rank>\d+)\](?:<\w+>)?:?              # mpirun and horovodrun --tag-output
  | \[\d+,mpirank:(?P<rank_>\d+),[\w.-]+\](?:<\w+>)?:?          # SageMaker
  | \[(?P<rank__>\d+)\](?:<\w+>:|(?=[ ]))                       # horovodrun over gloo; Intel MPI
  | \[?(?i:rank|default)[ ]?(?P<rank___>\d+)\]?:                # torchrun
  | \[(?i:rank)[ ]?(?P<rank____>\d+)\]                          # in front of what a program logs
  | [ ]{0,5}(?P<rank_____>\d{1,6}):(?=[ ])                      # srun --label, which aligns its numbers
  | \((?P<process>\w[\w.<>-]*[ ]pid=\d+)(?:,[ ]ip=[\w.:]+)?\)     # Ray
  | (?P<process_>[a-z][a-z-]*\d[a-z\d-]*(?:\.[a-z\d-]+)*):(?=[ ])  # a host or a pod, such as worker-0
  | [A-Z][a-z]{2}[ ]{1,2}\d{1,2}[ ]\d\d:\d\d:\d\d(?=[ ][\w.-]+[ ][\w./@-]+\[\d+\]:[ ])  # syslog
  | (?P<process__>[\w.-]+[ ][\w./@-]+\[\d+\]):(?=[ ])           # syslog, journalctl
  | \d{4}[/-]\d\d[/-]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?=[ ])  # kubectl, docker
  | \w{3}[ ]\w{3}[ ]{1,2}\d{1,2}[ ]\d\d:\d\d:\d\d[ ]\d{4}(?=[\[<])                # mpirun --timestamp-output
  | std(?:out|err)[ ][FP](?=[ ])                                # containerd
  | (?P<process___>[\w.-]+)[ ]+\|(?=[ ])                                        # docker compose
  | \[(?P<process____>pod/[\w./-]+)\]                                            # kubectl --prefix
)[ ]?"""
_WRAPPER = re.compile(_WRAPPERS, re.VERBOSE)
_ANSI_TEXT = re.compile(ANSI.pattern.decode())
# What a program itself puts somewhere in front of a record: Node[3] 06:49:12 INFO:root:
_RANK_TAG = re.compile(rb"\b(?:Node|Worker|(?i:rank)(?:[_ -]?id)?)(?:\[|[ ]?[:=]?[ ]?)(?P<rank>\d{1,6})\b")


def _unwrap(line: bytes, end: int) -> tuple[int, tuple[int, int] | None, str]:
    """Where the wrappers in front of `end` end; where their rank stands, [start, end); their process."""
    start, rank, process = 0, None, ""
    while start < end and (match := _WRAPPER.match(line, start, end)):
        group = match.lastgroup
        if group is not None and group.startswith("rank"):
            rank = match.span(group)
        elif group is not None:
            process = match[group].decode(errors="replace")
        start = match.end()
    return start, rank, process


def rank_before(line: bytes, *, start: int, end: int) -> tuple[int, int] | None:
    """Where the rank stands that is named in front of `end`, [start, end); None where none is.

    A wrapper names it at the line's beginning, and the program anywhere behind `start`.
    """
    wrapped, rank, _process = _unwrap(line, end)
    if rank is None:
        for tag in _RANK_TAG.finditer(line, max(start, wrapped), end):
            rank = tag.span("rank")
    return rank


def without_colours(text: str) -> str:
    """The text as it looks on a terminal without colours."""
    return _ANSI_TEXT.sub("", text) if "\x1b" in text else text


def unwrapped(text: str) -> tuple[str, str]:
    """The line without colours and wrappers, and the process that they name.

    That is its rank, or else its host, pod or process id; "" where none is named.
    """
    line = without_colours(text).encode("utf-8", errors="surrogateescape")
    start, rank, process = _unwrap(line, len(line))
    return line[start:].decode("utf-8", errors="replace"), line[slice(*rank)].decode() if rank else process


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
