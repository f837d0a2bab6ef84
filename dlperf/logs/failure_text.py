"""What a line of a log says about a failure: one table of wordings, and the state of Python's tracebacks."""

from __future__ import annotations

import re
from enum import StrEnum


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
        chained: the exception last seen arose from the one before it.
        ignored: the line last fed belongs to a traceback that ended nothing, as Python itself says.
    """

    def __init__(self) -> None:
        self.chained = False
        self.ignored = False
        self._open = False
        self._chain_announced = False
        self._ignore_next = False
        self._lines = 0
        self._after_frame = False

    @property
    def is_open(self) -> bool:
        """Whether the next lines matter, whatever they look like."""
        return self._open

    def feed(self, text: str) -> bool:
        """Take the process's next line, unwrapped; whether it is an exception's own line."""
        if not self._open:
            self.ignored = False
        if _TRACEBACK in text:
            self._open, self._lines, self._after_frame = True, 0, False
            self.ignored, self._ignore_next = self._ignore_next, False
            self.chained, self._chain_announced = self._chain_announced, False
            return False
        if text.startswith(_CHAIN):
            self._chain_announced = True
        elif text.startswith(_IGNORED):
            self._ignore_next = True
        return self._open and self._ends(text)

    def _ends(self, text: str) -> bool:
        self._lines += 1
        if text[0] in " \t":
            self._after_frame = True
            self._open = self._lines < _LONGEST_TRACEBACK
            return False
        named = _EXCEPTION.match(text) or (self._after_frame and _PLAIN_EXCEPTION.match(text))
        self._after_frame = False
        self._open = not named and self._lines < _LONGEST_TRACEBACK
        return bool(named)
