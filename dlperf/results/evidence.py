"""The line of a failed run's logs that names the failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.results.logfiles import log_files, plain, read_lines
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_EVIDENCE = 300

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|out_of_memory|bad_alloc|Cannot allocate memory"
    r"|DefaultCPUAllocator: can't allocate|Failed to allocate CPU Memory|allocate failed",
    re.IGNORECASE,
)
_KILLED = re.compile(r"^\W*Killed\W*$")
# The last line of a Python traceback, or the engine's own last words.
_ERROR = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b|^F\d{4,8} |Check failed|terminate called|FATAL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A line of a log and the status that it proves; `place` as in `logs/rank0.log:17: text`."""

    status: Status
    text: str
    place: str


def find_evidence(folder: Path, *, rank: int) -> Evidence | None:
    """The line that says why `rank` failed: first a lack of memory, then a kill, then the last error."""
    best: dict[Status, Evidence] = {}
    for name, number, line in _lines(folder, rank):
        text = plain(line)[:LONGEST_EVIDENCE]
        if _OUT_OF_MEMORY.search(line):
            status = Status.OOM
        elif _KILLED.match(line):
            status = Status.KILLED
        elif _ERROR.search(line):
            status = Status.CRASH
        else:
            continue
        found = Evidence(status=status, text=text, place=f"logs/{name}:{number}: {text}")
        if status is Status.CRASH:
            best[status] = found  # a chain of exceptions ends with the one that ended the rank
        else:
            best.setdefault(status, found)
    return next(
        (best[status] for status in (Status.OOM, Status.KILLED, Status.CRASH) if status in best), None
    )


def _lines(folder: Path, rank: int) -> Iterator[tuple[str, int, str]]:
    path = log_files(folder).get(rank)
    if path is None:
        return
    for number, line in enumerate(read_lines(path), 1):
        yield path.name, number, line
