"""Why a run failed, from its log and from how its processes ended, with the line that shows it.

| kind | what names it |
|---|---|
| oom | "out of memory" of an allocator or the kernel, in the wording of any engine |
| nccl | an error of the NCCL library, or of a call into it |
| killed | a bare `Killed` line; a process ended by a signal from outside |
| hang | the supervisor's stall limit |
| crash | any other traceback, abort or exit code |

When one process runs out of memory the others report broken connections, so `oom` outranks every other cause.
A kill outranks a traceback, but a mere request to end does not: launchers send one to all other processes
when one has failed. Of what is left the earliest is the cause.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dlperf.logs.endings import Outcome
from dlperf.logs.text import unwrapped, without_colours


class Mark(StrEnum):
    """What a line is a sign of."""

    OOM = "oom"
    NCCL = "nccl"
    KILLED = "killed"
    TERMINATED = "terminated"  # asked to end, by a person, a scheduler, or a launcher after a failure
    ABORT = "abort"  # an engine's or the C++ runtime's own last words
    EXCEPTION = "exception"  # the last line of a Python traceback
    MENTION = "mention"  # a line that looks like one, without a traceback above it
    LAUNCHER = "launcher"  # a launcher's report that a process of its failed
    EXIT_CODE = "exit_code"


_OOM = r"""
    out\ of\ memory | (?<![\w-])out_of_memory(?:_error)?(?!\w) | OutOfMemory
  | OOMKilled | oom-kill | \boom_reaper\b | \bbad_alloc\b
  | cannot\ allocate\ memory | can't\ allocate\ memory | failed\ to\ allocate | allocate\ failed
  | failed\ to\ map\ segment\ from\ shared\ object(?!:\ Operation\ not\ permitted)
  | \bMemoryError\b | CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED | \bUnable\ to\ allocate\b.*\bfor\ an\ array
"""
# Settings, comments, advice: they speak of a lack of memory, and there is none.
_NOT_OOM = r"""
    out[ _]of[ _]memory[ _](?:behaviou?r|handling|handler|score|errors\b|killer\ (?:is\ )?disabled)
  | (?:out[ _]of[ _]memory|bad_alloc)['"]?\s*[=:]\s*['"]?(?:\d|true|false|none|null|on|off|yes|no)\b
  | \b(?:avoid|prevent)\w*\ .*out\ of\ memory
  | \b(?:if|when|in\ case\ of)\b[^:.]*\bout\ of\ memory | \bon\ (?:CUDA\ )?out\ of\ memory
  | \b(?:may|might|could|can)\ (?:run|go|be)\ out\ of\ memory | ^\s*\#
"""
_NCCL = r"""
    \bNCCL\ (?:error|failure) | \bNCCL\ communicator\ was\ aborted
  | \bnccl(?:Group(?:Start|End)|CommInitRank\w*|CommInitAll|AllReduce|AllGather|Broadcast)\b
  | unhandled\ (?:system|cuda)\ error | nccl(?:System|Internal|UnhandledCuda|Remote)Error
  | ncclInvalid(?:Usage|Argument) | Watchdog\ caught\ collective\ operation\ timeout
"""
_KILLED = r"""
    ^\W*Killed\W*$ | :\s+(?:line\s+\d+:\s+)?\d+\s+Killed\b | \bexited\ on\ signal\ 9\b
  | \bSignal\ 9\ \(SIGKILL\)\ received | \bexit\ ?code\s*:\s*-9\b | \bkilled\ by\ signal:\ Killed\b
  | \b(?:exit|status|returned)\ (?:code|status)?\ ?:?\ ?137\b
"""
_TERMINATED = r"""
    ^\W*Terminated\W*$ | :\s+(?:line\s+\d+:\s+)?\d+\s+Terminated\b | \bexited\ on\ signal\ (?:15|1|2|3)\b
  | \bSignal\ 15\ \(SIGTERM\)\ received | \bexit\ ?code\s*:\s*-15\b | \bkilled\ by\ signal:\ Terminated\b
  | \btask\s\d[\d,-]*:\s(?:Killed|Terminated)\b | \bCANCELLED\ AT\b
  | \bSignalException:\ Process\ \d+\ got\ signal | ^KeyboardInterrupt\b
  | \b(?:exit|status|returned)\ (?:code|status)?\ ?:?\ ?143\b
"""
_ABORT = r"""
    \bterminate\ called\b | \bSegmentation\ fault\b | \bBus\ error\b
  | \bAborted\b.*\bcore\ dumped | ^\W*Aborted\W*$
  | ^Fatal\ Python\ error | \bdouble\ free\ or\ corruption\b | \bIllegal\ instruction\b
  | \bFloating\ point\ exception\b
  | ^F\d{4,8}\ .*\] | \bCheck\ failed: | \*\*\*\ Aborted\ at\ \d | \bexited\ on\ signal\ \d
"""
_LAUNCHER = r"\b(?:ChildFailedError|CalledProcessError|ProcessExitedException|ProcessRaisedException)\b"
_EXIT_CODE = r"""
    \bexit(?:ed)?(?:\ with)?\ (?:exit\ )?(?:status\ )?code:?\ -?0*[1-9]
  | \bnon-zero\ (?:exit\ )?(?:status|code)\b
  | \bexitcode\s*:\s*-?0*[1-9] | \bExited\ with\ exit\ code\ 0*[1-9]
"""
_SUSPICIOUS = re.compile(
    rb"memory|alloc|oom|nccl|unhandled|watchdog|kill|terminat|cancel|signal|exit|non-zero|status|traceback"
    rb"|error|exception|interrupt|abort|fault|fail|fatal|illegal|corruption|timeout|^f[0-9]|direct cause"
)
_TRACEBACK = "Traceback (most recent call last)"

_MARKS = {
    Mark.OOM: re.compile(_OOM, re.VERBOSE | re.IGNORECASE),
    Mark.NCCL: re.compile(_NCCL, re.VERBOSE | re.IGNORECASE),
    Mark.KILLED: re.compile(_KILLED, re.VERBOSE),
    Mark.TERMINATED: re.compile(_TERMINATED, re.VERBOSE),
    Mark.LAUNCHER: re.compile(_LAUNCHER),
    Mark.ABORT: re.compile(_ABORT, re.VERBOSE),
    Mark.EXIT_CODE: re.compile(_EXIT_CODE, re.VERBOSE | re.IGNORECASE),
}
_NOT_OOM_PATTERN = re.compile(_NOT_OOM, re.VERBOSE | re.IGNORECASE)
# NCCL_DEBUG=INFO and glog's INFO print every call; warnings of Python and source lines of a traceback quote
# what went well.
_QUIET = re.compile(r"NCCL INFO|\b(?:User|Future|Runtime|Deprecation)Warning\b|^\s+File \"|^I\d{4,8} ")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Iteration|Timeout|Failure|Fault|Abort|Warning)\b(?=:|\s*$)"
    r"|(?:[A-Za-z_]\w*\.)+[A-Z]\w*(?=:|\s*$)"
)
_MENTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit):\s")
_PLAIN_EXCEPTION = re.compile(r"[A-Z]\w*(?=:\s|\s*$)")
_CHAIN = ("During handling of the above exception", "The above exception was the direct cause")
_IGNORED = ("Exception ignored in", "--- Logging error ---")
_LONGEST_TRACEBACK = 2000


def is_suspicious(line: bytes) -> bool:
    """Whether a line may be a sign of anything, or open a traceback: a cheap look that sees no digits."""
    return _SUSPICIOUS.search(line.lower()) is not None


def mark_of(text: str) -> Mark | None:
    """What an unwrapped line is a sign of, tracebacks aside."""
    if _QUIET.search(text):
        return None
    for mark, pattern in _MARKS.items():
        if pattern.search(text) and not (mark is Mark.OOM and _NOT_OOM_PATTERN.search(text)):
            return mark
    return Mark.MENTION if _MENTION.match(text) else None


class Traceback:
    """The tracebacks of one process, line by line.

    Attributes:
        is_open: the next lines matter, whatever they look like.
        chained: the exception last seen arose from the one before it.
        ignored: the line last fed belongs to a traceback that ended nothing, as Python itself says.
    """

    def __init__(self) -> None:
        self.is_open = self.chained = self.ignored = False
        self._chain_announced = self._ignore_next = self._after_frame = False
        self._lines = 0

    def feed(self, text: str) -> bool:
        """Take the process's next line, unwrapped; whether it is an exception's own line."""
        if not self.is_open:
            self.ignored = False
        if _TRACEBACK in text:
            self.is_open, self._lines, self._after_frame = True, 0, False
            self.ignored, self._ignore_next = self._ignore_next, False
            self.chained, self._chain_announced = self._chain_announced, False
            return False
        if text.startswith(_CHAIN):
            self._chain_announced = True
        elif text.startswith(_IGNORED):
            self._ignore_next = True
        return self.is_open and self._ends(text)

    def _ends(self, text: str) -> bool:
        self._lines += 1
        if text[0] in " \t":
            self._after_frame = True
            self.is_open = self._lines < _LONGEST_TRACEBACK
            return False
        named = _EXCEPTION.match(text) or (self._after_frame and _PLAIN_EXCEPTION.match(text))
        self._after_frame = False
        self.is_open = not named and self._lines < _LONGEST_TRACEBACK
        return bool(named)


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


def classify(lines: Iterable[tuple[str, int, str]], outcome: Outcome | None = None) -> Failure | None:
    """What went wrong, or None where nothing did; `lines` are file, number from 1 and text.

    They are the failed rank's log, or the logs of all ranks one behind the other. A run with the outcome
    `completed` has survived whatever its log complains about.
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
        known = process in self._tracebacks or len(self._tracebacks) < _MOST_PROCESSES
        traceback = self._tracebacks[process if known else ""]
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

    def _keep_exception(self, process: str, evidence: Evidence) -> None:
        """The first exception counts, and of a chain of them its last: the one that ended the process."""
        if Mark.EXCEPTION not in self._first:
            self._first[Mark.EXCEPTION] = evidence
            self._exception_of = process
        elif self._exception_of == process and self._tracebacks[process].chained:
            self._first[Mark.EXCEPTION] = evidence

    def failure(self, outcome: Outcome | None = None) -> Failure | None:
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

    def _by_ending(self, outcome: Outcome | None) -> Failure | None:
        if outcome is None:
            return None
        if outcome.reason == "stall_limit":
            return Failure(kind=FailureKind.HANG, evidence=self._last or Evidence(text="no line at all"))
        if outcome.reason != "rank_failed":
            kind = FailureKind.CRASH if outcome.reason == "start_failed" else FailureKind.KILLED
            return Failure(kind=kind, evidence=Evidence(text=f"the run was ended: {outcome.reason}"))
        end = outcome.first_failed
        name = None if end is None else end.signal_name
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
