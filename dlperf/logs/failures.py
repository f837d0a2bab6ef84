"""Why a run failed, from its log and from how its processes ended, with the line that shows it.

| kind | what names it |
|---|---|
| oom | an allocator's or the kernel's "out of memory", in any of the engines' wordings |
| nccl | an error of the NCCL library, or of a call into it |
| killed | a bare `Killed` line; a process ended by a signal from outside |
| hang | the supervisor's stall limit |
| crash | any other traceback, abort or exit code |

A lack of memory in one process makes the others report broken connections, so it outranks every other cause;
so does a kill over a traceback, but not a mere request to end: launchers send one to all other processes when
one has failed. Of what is left the earliest is the cause.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dlperf.logs.endings import Ending, first_failed, signal_name
from dlperf.logs.failure_text import Mark, Traceback, mark_of
from dlperf.logs.wrappers import unwrapped, without_colours

if TYPE_CHECKING:
    from collections.abc import Iterable

# The file a line comes from, its number there (from 1), its text.
LogLine = tuple[str, int, str]

_LONGEST_EVIDENCE = 500
_MOST_PROCESSES = 4096  # whose tracebacks are followed at a time
# Signals that a process raises on itself: a bug in it, and no kill.
_OWN_SIGNALS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})


class FailureKind(StrEnum):
    """The closed set of causes."""

    OOM = "oom"
    NCCL = "nccl"
    KILLED = "killed"
    HANG = "hang"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The line that shows a failure; `file` and `line` are None where no line of a log says it."""

    text: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return self.text if self.file is None else f"{self.file}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A kind and its evidence."""

    kind: FailureKind
    evidence: Evidence


def classify(lines: Iterable[LogLine], outcome: Ending | None = None) -> Failure | None:
    """What went wrong, or None where nothing did.

    Args:
        lines: the failed rank's log, or the logs of all ranks one behind the other; read once, not kept.
        outcome: how the run ended; None where only the log is there. With `completed` the text is not
            believed: a run that ended well has survived whatever its log complains about.
    """
    if outcome is not None and outcome.reason == "completed":
        return None
    scan = FailureScan()
    for file, number, text in lines:
        scan.feed(file, number, text)
    return scan.failure(outcome)


class FailureScan:
    """The same for lines that come one at a time; memory does not grow with the log."""

    def __init__(self) -> None:
        self._first: dict[Mark, Evidence] = {}  # in the order in which the marks were first seen
        self._tracebacks: defaultdict[str, Traceback] = defaultdict(Traceback)
        self._exception_of: str | None = None  # the process whose exception is kept
        self._mention: Evidence | None = None
        self._last: Evidence | None = None

    @property
    def wants_more(self) -> bool:
        """Whether a traceback is open, so that the next lines matter whatever they look like."""
        return any(traceback.is_open for traceback in self._tracebacks.values())

    def note_last(self, file: str, number: int, text: str) -> None:
        """Say what the last line of the log is, where not every line was fed."""
        if text.strip():
            self._last = Evidence(text=text.strip()[:_LONGEST_EVIDENCE], file=file, line=number)

    def feed(self, file: str, number: int, text: str) -> None:
        """Take the next line as it came, prefixes and colours included.

        Lines that are not `is_suspicious` may be left out while nothing `wants_more`.
        """
        shown = without_colours(text).strip()
        text, process = unwrapped(text)
        if not text.strip():
            return
        evidence = Evidence(text=shown[:_LONGEST_EVIDENCE], file=file, line=number)
        self._last = evidence
        traceback = self._traceback_of(process)
        is_frame = traceback.is_open and text[0] in " \t"
        raised = traceback.feed(text)
        mark = None if is_frame else mark_of(text)
        if raised and mark in {None, Mark.ABORT, Mark.EXIT_CODE, Mark.MENTION}:
            mark = Mark.EXCEPTION
        if mark in {Mark.EXCEPTION, Mark.MENTION} and traceback.ignored:
            return
        if mark is Mark.EXCEPTION:
            self._keep_exception(process, evidence)
        elif mark is Mark.MENTION:
            self._mention = self._mention or evidence
        elif mark is not None:
            self._first.setdefault(mark, evidence)

    def note_record(self, number: int) -> None:
        """Say that a record was read from line `number`: errors only mentioned before it were survived."""
        if self._mention is not None and (self._mention.line or 0) < number:
            self._mention = None

    def _traceback_of(self, process: str) -> Traceback:
        known = process in self._tracebacks or len(self._tracebacks) < _MOST_PROCESSES
        return self._tracebacks[process if known else ""]

    def _keep_exception(self, process: str, evidence: Evidence) -> None:
        """The first exception counts, and of a chain of them its last: the one that ended the process."""
        if Mark.EXCEPTION not in self._first:
            self._first[Mark.EXCEPTION] = evidence
            self._exception_of = process
        elif self._exception_of == process and self._tracebacks[process].chained:
            self._first[Mark.EXCEPTION] = evidence

    def failure(self, outcome: Ending | None = None) -> Failure | None:
        """The verdict on what was fed so far; see `classify`."""
        if outcome is not None and outcome.reason == "completed":
            return None
        return self._by_text() or self._by_ending(outcome) or self._by_exit_text()

    def _by_text(self) -> Failure | None:
        if Mark.OOM in self._first:
            return Failure(kind=FailureKind.OOM, evidence=self._first[Mark.OOM])
        order = list(self._first)
        if Mark.KILLED in order:  # what the other processes then raised is its consequence
            order = [mark for mark in order if mark in {Mark.KILLED, Mark.NCCL}]
        for mark in order:
            if kind := _KIND_OF.get(mark):
                return Failure(kind=kind, evidence=self._first[mark])
        return None

    def _by_exit_text(self) -> Failure | None:
        found = (self._mention, self._first.get(Mark.LAUNCHER), self._first.get(Mark.EXIT_CODE))
        evidence = next((each for each in found if each is not None), None)
        return None if evidence is None else Failure(kind=FailureKind.CRASH, evidence=evidence)

    def _by_ending(self, outcome: Ending | None) -> Failure | None:
        if outcome is None:
            return None
        if outcome.reason == "stall_limit":
            return Failure(kind=FailureKind.HANG, evidence=self._last or Evidence(text="no line at all"))
        if outcome.reason != "rank_failed":
            kind = FailureKind.CRASH if outcome.reason == "start_failed" else FailureKind.KILLED
            return Failure(kind=kind, evidence=Evidence(text=f"the run was ended: {outcome.reason}"))
        end = first_failed(outcome)
        name = None if end is None else signal_name(end)
        if end is not None and name is not None and name not in _OWN_SIGNALS:
            text = f"rank {end.rank} was ended by {name}"
            return Failure(kind=FailureKind.KILLED, evidence=Evidence(text=text))
        how = (
            "a rank failed"
            if end is None
            else f"rank {end.rank} ended with {name or f'exit code {end.exit_code}'}"
        )
        exit_text = self._by_exit_text()
        return exit_text or Failure(kind=FailureKind.CRASH, evidence=self._last or Evidence(text=how))


_KIND_OF = {
    Mark.NCCL: FailureKind.NCCL,
    Mark.KILLED: FailureKind.KILLED,
    Mark.TERMINATED: FailureKind.KILLED,
    Mark.EXCEPTION: FailureKind.CRASH,
    Mark.ABORT: FailureKind.CRASH,
}
