"""Why a run failed, from its log and from how its processes ended, with the line that shows it.

| kind | what names it |
|---|---|
| data | an event `data_error` of a training program of ours: a damaged image, with its file and place |
| oom | "out of memory" of an allocator or the kernel, in the wording of any engine |
| nccl | an error of the NCCL library, or of a call into it |
| killed | a bare `Killed` line; a process ended by a signal from outside |
| hang | the supervisor's stall limit |
| crash | any other traceback, abort or exit code; a log that stops within a traceback |

A program that goes on training survived what its log shows: a traceback that its own process prints a record
behind, and anything that ten records stand behind. When one process runs out of memory the others report
broken connections, so `oom` outranks every other cause but `data`, which our own programs tell. A kill
outranks a traceback, but a mere request to end does not: launchers send one to all other processes when one
has failed, so behind the report of a failure it says nothing. Of what is left the earliest is the cause.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from dlperf.logs.endings import Outcome
from dlperf.logs.events import PREFIX, read_events
from dlperf.logs.text import unwrapped, without_colours


class Mark(StrEnum):
    """What a line is a sign of."""

    DATA = "data"  # our own programs' event of an image that cannot be read
    OOM = "oom"
    NCCL = "nccl"
    KILLED = "killed"
    TERMINATED = "terminated"  # asked to end, by a person, a scheduler, or a launcher after a failure
    ABORT = "abort"  # an engine's or the C++ runtime's own last words
    EXCEPTION = "exception"  # the last line of a Python traceback
    UNFINISHED = "unfinished"  # the first line of a traceback without its last
    MENTION = "mention"  # a line that looks like one, without a traceback above it
    LAUNCHER = "launcher"  # a launcher's report that a process of its failed
    EXIT_CODE = "exit_code"


_OOM = r"""
    out\ of\ memory | (?<![\w-])out_of_memory(?:_error)?(?!\w) | OutOfMemory
  | \boom[ _-]?kill | \boom_reaper\b | \bbad_alloc\b
  | \bTERM_MEMLIMIT\b | \bjob\ killed:\ [pv]?mem
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
  | \boom[ _-]?kill\w*['"]?(?:\s*[=:]\s*|\ )['"]?(?:0|false|no|off|(?:is\ )?disabled)\b
  | \b(?:0|no)\ oom[ _-]kill
"""
_NCCL = r"""
    \bNCCL\ (?:error|failure) | \bNCCL\ communicator\ was\ aborted
  | \bnccl(?:Group(?:Start|End)|CommInitRank\w*|CommInitAll|AllReduce|AllGather|Broadcast)\b
  | unhandled\ (?:system|cuda)\ error | nccl(?:System|Internal|UnhandledCuda|Remote)Error
  | ncclInvalid(?:Usage|Argument) | Watchdog\ caught\ collective\ operation\ timeout
  | \bwatchdog\ got\ stuck | \bNCCL\ (?:watchdog\ thread\ terminated|operations\ have\ failed)
  | (?<!\w)[EF]\d*\ (?:[\d:.]+\ )*ProcessGroupNCCL\.cpp:
"""
# How launchers, shells, containers and schedulers write an exit code.
_CODE = r"(?i:\b(?:exit|status|return)(?:ed|s)?(?:\ with)?(?:[ _]?(?:exit|status|code))*['\"]?\s*[:=]?\s*\(?)"
_KILLED = rf"""
    ^\W*(?:\[\d+\][+-]?\s+)?Killed\W*$ | :\s+(?:line\s+\d+:\s+)?\d+\s+Killed\b
  | \bexited\ on\ signal\ 9\b
  | \b(?:Signal|signal)\ 9\ \(SIGKILL\) | \bSIGKILL:\ 9\b | \bkilled\ by\ signal:\ Killed\b
  | {_CODE}(?:137|-9)\b | \bstatus=9/KILL\b | \bjob\ killed\b | \bTERM_RUNLIMIT\b
"""
_TERMINATED = rf"""
    ^\W*Terminated\W*$ | :\s+(?:line\s+\d+:\s+)?\d+\s+Terminated\b | \bexited\ on\ signal\ (?:15|1|2|3)\b
  | \b(?:Signal|signal)\ 15\ \(SIGTERM\) | \bSIGTERM:\ 15\b | \bkilled\ by\ signal:\ Terminated\b
  | \*\*\*\ SIGTERM\b | \bTermination\ signal\b.*\bdetected\b | \bstatus=15/TERM\b
  | \btask\s\d[\d,-]*:\s(?:Killed|Terminated)\b | \bCANCELLED\ AT\b
  | \bSignalException:\ Process\ \d+\ got\ signal | ^KeyboardInterrupt\b
  | {_CODE}(?:143|-15)\b
"""
_ABORT = r"""
    \bterminate\ called\b | \bSegmentation\ fault\b | \bBus\ error\b
  | \bAborted\b.*\bcore\ dumped | ^\W*Aborted\W*$
  | ^Fatal\ Python\ error | \bdouble\ free\ or\ corruption\b | \bIllegal\ instruction\b
  | \bFloating\ point\ exception\b
  | ^\[?F\d{3,8}\ .*\] | \bCheck\ failed: | \*\*\*\ SIG(?:SEGV|ABRT|BUS|FPE|ILL)\b | \bexited\ on\ signal\ \d
  | \bcode=dumped\b
"""
_LAUNCHER = r"""
    \b(?:ChildFailedError|CalledProcessError|ProcessExitedException|ProcessRaisedException)\b
  | \bABORT!!!\ Out\ of\ all\b
"""
_EXIT_CODE = r"""
    \bexit(?:ed)?(?:\ with)?(?:(?:[ _]?(?:exit|status|code))+['"]?\s*[:=]?\s*|\ \()-?0*[1-9]
  | \bnon-zero\ (?:exit\ )?(?:status|code)\b | \bcode=exited,\ status=[1-9]
"""
_SUSPICIOUS = re.compile(
    rb"memory|alloc|oom|nccl|unhandled|watchdog|kill|terminat|cancel|signal|exit|non-zero|status|traceback"
    rb"|error|exception|interrupt|abort|fault|fail|fatal|illegal|corruption|timeout|direct cause"
    rb"|return|(?:^|[ \[\]:>])f[0-9]{3}"
)
_TRACEBACK = "Traceback (most recent call last)"

_MARKS = {
    Mark.OOM: re.compile(_OOM, re.VERBOSE | re.IGNORECASE),
    Mark.NCCL: re.compile(_NCCL, re.VERBOSE | re.IGNORECASE),
    Mark.KILLED: re.compile(_KILLED, re.VERBOSE),
    Mark.TERMINATED: re.compile(_TERMINATED, re.VERBOSE),
    Mark.LAUNCHER: re.compile(_LAUNCHER, re.VERBOSE),
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


def data_error(text: str) -> str | None:
    """What an event `data_error` in the line says, as one line; None where there is none."""
    if PREFIX not in text or "data_error" not in text:
        return None
    for event in read_events([text]):
        if event.key == "data_error" and isinstance(event.value, dict):
            value = event.value
            record = value.get("record")
            place = "" if record is None else f"record {record} at byte {value.get('offset')}: "
            return f"{value.get('file')}: {place}{value.get('what')}"
    return None


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

    def feed(self, text: str) -> Mark | None:
        """Take the process's next line, unwrapped; whether it begins a traceback or is an exception's own."""
        if not self.is_open:
            self.ignored = False
        if _TRACEBACK in text:
            self.is_open, self._lines, self._after_frame = True, 0, False
            self.ignored, self._ignore_next = self._ignore_next, False
            self.chained, self._chain_announced = self._chain_announced, False
            return Mark.UNFINISHED
        if text.startswith(_CHAIN):
            self._chain_announced = True
        elif text.startswith(_IGNORED):
            self._ignore_next = True
        return Mark.EXCEPTION if self.is_open and self._ends(text) else None

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

    DATA = "data"
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


@dataclass(slots=True)
class _Sign:
    """The first line with a mark; the process that printed it, and how many records stand behind it."""

    evidence: Evidence
    process: str
    records: int = 0


# So many records behind a sign, whoever prints them, show that the job goes on. Fewer may come from ranks
# that have not yet noticed that another one failed.
_SURVIVED = 10
_ENDS_A_PROCESS = frozenset({Mark.EXCEPTION, Mark.UNFINISHED, Mark.MENTION})


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
        self._signs: dict[Mark, _Sign] = {}  # in the order in which the marks were first seen
        self._tracebacks: defaultdict[str, Traceback] = defaultdict(Traceback)
        self._last: Evidence | None = None

    @property
    def wants_more(self) -> bool:
        """Whether a traceback is open, so that the next lines matter whatever they look like."""
        return any(traceback.is_open for traceback in self._tracebacks.values())

    @property
    def has_signs(self) -> bool:
        """Whether a record behind what was fed matters."""
        return bool(self._signs)

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
        part = traceback.feed(text)
        mark = None if is_frame else mark_of(text)
        unreadable = data_error(text)
        if unreadable is not None:
            mark, evidence = Mark.DATA, replace(evidence, text=unreadable[:_LONGEST_EVIDENCE])
        if part is not None and mark in {None, Mark.ABORT, Mark.EXIT_CODE, Mark.MENTION}:
            mark = part
        if mark in _ENDS_A_PROCESS and traceback.ignored:
            return
        if part is Mark.EXCEPTION and self._is_of(Mark.UNFINISHED, process):
            del self._signs[Mark.UNFINISHED]
        # The first exception counts, and of a chain of them its last: the one that ended the process.
        if mark is Mark.EXCEPTION and traceback.chained and self._is_of(mark, process):
            self._signs[mark].evidence = evidence
        elif mark is not None:
            self._signs.setdefault(mark, _Sign(evidence, process))

    def _is_of(self, mark: Mark, process: str) -> bool:
        return mark in self._signs and self._signs[mark].process == process

    def note_records(self, ranks: Collection[str]) -> None:
        """Say that records of these ranks ("" where a record names none) stand behind what was fed so far."""
        for mark, sign in list(self._signs.items()):
            sign.records += len(ranks)
            is_own = not sign.process.isdigit() or sign.process in ranks
            if sign.records >= _SURVIVED or (is_own and mark in _ENDS_A_PROCESS):
                del self._signs[mark]

    def failure(self, outcome: Outcome | None = None) -> Failure | None:
        """The verdict on what was fed so far; see `classify`."""
        if outcome is not None and outcome.reason == "completed":
            return None
        return self._by_text() or self._by_ending(outcome) or self._by_exit_text()

    def _by_text(self) -> Failure | None:
        if Mark.DATA in self._signs:
            return Failure(kind=FailureKind.DATA, evidence=self._signs[Mark.DATA].evidence)
        if Mark.OOM in self._signs:
            return Failure(kind=FailureKind.OOM, evidence=self._signs[Mark.OOM].evidence)
        order = list(self._signs)
        if Mark.KILLED in order:  # what the other processes then raised is its consequence
            order = [mark for mark in order if mark in {Mark.KILLED, Mark.NCCL}]
        reports = [place for place, mark in enumerate(order) if mark in {Mark.LAUNCHER, Mark.EXIT_CODE}]
        for place, mark in enumerate(order):
            if (kind := _KIND_OF.get(mark)) and not (
                mark is Mark.TERMINATED and min(reports, default=place) < place
            ):
                return Failure(kind=kind, evidence=self._signs[mark].evidence)
        return None

    def _by_exit_text(self) -> Failure | None:
        marks = (Mark.UNFINISHED, Mark.MENTION, Mark.LAUNCHER, Mark.EXIT_CODE)
        sign = next((self._signs[mark] for mark in marks if mark in self._signs), None)
        return None if sign is None else Failure(kind=FailureKind.CRASH, evidence=sign.evidence)

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
