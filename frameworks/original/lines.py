"""From the lines that an original program prints to the throughput of the job.

A dialect says whose rate a line gives:

- `job`: the whole job's. The lines of the first process that prints one count. Where a launcher's ranks share
  its output, the first line of each step counts, whoever prints it.
- `process`: that of the process which prints it, whatever number of devices it drives. The i-th line of the
  job is the i-th line of every process; its rate is their sum, its loss that of the first process. A
  launcher's ranks share one output and cannot be told apart: each process needs an entry of its own.

A line whose step was seen before (some programs repeat a line once a metric), or whose rate is no positive
number, does not count.
"""

import math
import re
from collections import deque
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

Step = Tuple[Optional[bytes], Optional[bytes], Optional[bytes]]


class Record(NamedTuple):
    """The job's samples per second over the iterations that one line covers; None: no loss on it."""

    samples_per_sec: float
    loss: Optional[float]


class Dialect:
    """What `program.json` says of the lines; the texts of its patterns stand for bytes, one by one."""

    def __init__(self, content: Dict[str, Any]) -> None:
        self.per_process = content["scope"] == "process"
        self._needles = [text.encode("latin-1") for text in content["needles"]]
        self._patterns = [_compiled(text) for text in content["patterns"]]
        loss_line = content.get("loss_line")
        self._loss_line = None if loss_line is None else _compiled(loss_line)

    def find(self, line: bytes) -> Iterator[Dict[str, bytes]]:
        """The fields of each record on the line; one with a loss alone is of a loss line."""
        if not any(needle in line for needle in self._needles):
            return
        for pattern in self._patterns:
            for match in pattern.finditer(line):
                yield _fields(match)
        if self._loss_line is not None:
            for match in self._loss_line.finditer(line):
                yield _fields(match)


def _compiled(text: str) -> "re.Pattern[bytes]":
    return re.compile(text.encode("latin-1"))


def _fields(match: "re.Match[bytes]") -> Dict[str, bytes]:
    """By name; one with underscores at its end is the same field in another branch of the pattern."""
    return {name.rstrip("_"): value for name, value in match.groupdict().items() if value is not None}


class Series:
    """The records of a job of `processes` processes, from their lines in the order in which they come."""

    def __init__(self, dialect: Dialect, processes: int) -> None:
        self._dialect = dialect
        self._waiting: List[Deque[Record]] = [deque() for _ in range(processes)]
        self._seen: List[Set[Step]] = [set() for _ in range(processes)]
        self._losses: List[Optional[float]] = [None] * processes
        self._printer: Optional[int] = None

    def take(self, process: int, line: bytes) -> List[Record]:
        """The records of the job that this line of a process, counted from 0, completes."""
        for fields in self._dialect.find(line):
            if "samples_per_sec" not in fields:
                self._losses[process] = _number(fields.get("loss"))
                continue
            rate = _number(fields["samples_per_sec"])
            step = (fields.get("epoch"), fields.get("iteration"), None)
            known = fields.get("iteration") is not None and step in self._seen[process]
            self._seen[process].add(step)
            if known or rate is None or not math.isfinite(rate) or rate <= 0:
                continue
            loss = _number(fields["loss"]) if "loss" in fields else self._losses[process]
            self._waiting[process].append(Record(rate, loss))
        return list(self._completed(process))

    def _completed(self, process: int) -> Iterator[Record]:
        if not self._dialect.per_process:
            own = self._waiting[process]
            if own and self._printer is None:
                self._printer = process
            while own:
                record = own.popleft()
                if process == self._printer:
                    yield record
            return
        while all(self._waiting):
            records = [waiting.popleft() for waiting in self._waiting]
            yield Record(sum(record.samples_per_sec for record in records), records[0].loss)


def _number(text: Optional[bytes]) -> Optional[float]:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
