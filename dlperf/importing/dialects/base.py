"""The one interface between dlperf and the log of a training program. The shipped dialects use nothing else.

A dialect is a table: patterns over the bytes of a line, whose named groups are the fields. Register one under
the entry-point group `dlperf.dialects`; docs/logs.md walks through it. A name may end with underscores where
two branches of a pattern give the same field.

| group | what it holds | type |
|---|---|---|
| `iteration` | the step as the program counts it | digits |
| `epoch` | the epoch as the program counts it | digits |
| `rank` | the process that printed it; a tag in front (`[1,3]<stdout>:`, `Node[3]`) stands in | digits |
| `samples_per_sec` | images per second, whatever the line calls it; else it is no record | number |
| `loss`, `lr` | as printed; nan and inf are numbers here | number |
| `time` | date and time, ISO 8601 or as `logging` prints it; one in front of the match stands in | text |
| `time_s`, `time_ms` | instead of `time`: seconds or milliseconds since 1970 | number |
| `metric` | the name of the first metric on the line, where a program prints a step once per metric | text |

Patterns must not let digits decide more than a number's value: lines that differ in digits alone are read
alike. They must not cross a line feed or a carriage return.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

# Pieces of patterns. NUMBER is what printf, str and json.dumps make of a float.
NUMBER = rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?|NaN|Infinity)"
TIMESTAMP = rb"\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[-+]\d\d:?\d\d)?"
GROUPS = frozenset(
    {"iteration", "epoch", "rank", "samples_per_sec", "loss", "lr", "time", "time_s", "time_ms", "metric"}
)


class Scope(StrEnum):
    """Whose rate a line gives."""

    JOB = "job"  # the whole job's: a step counts once, whichever ranks print it
    PROCESS = "process"  # one process's: every rank's line is a record of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the throughput lines of one program look."""

    name: str  # what `--dialect` takes
    program: str  # the programs that print it, for people
    scope: Scope
    needles: tuple[bytes, ...]  # one is in every line that matches anything; looked for first, being cheap
    patterns: tuple[re.Pattern[bytes], ...]  # searched for anywhere in a line, as often as they occur
    # A line of its own with `iteration` and `loss`, for records that carry no loss.
    loss_line: re.Pattern[bytes] | None = None
    # What the program prints once when it starts; the next record of that process begins a new run.
    start: re.Pattern[bytes] | None = None
    # Matches the text from a record to the end of its line where nothing is cut off. A log that stops without
    # a line feed was probably cut: its last record must end so, or look like an earlier one.
    ending: re.Pattern[bytes] | None = None
    framework: str | None = None  # the adapter's name; None if the program runs in several
    parallelism: str | None = None  # the only one that the program knows
    batch_size_is_per_device: bool = False  # `batch_size` among the settings that the program prints

    def find(self, line: bytes) -> list[re.Match[bytes]]:
        """The matches of all patterns, `loss_line` and `start` in the line, by position."""
        if not any(needle in line for needle in self.needles):
            return []
        patterns = (*self.patterns, self.loss_line, self.start)
        found = [match for pattern in patterns if pattern is not None for match in pattern.finditer(line)]
        return sorted(found, key=lambda match: match.start())
