"""One log read once: chunks of bytes in; batches of records, failures and unknown lines out.

Memory does not grow with the log.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from dlperf.errors import UserError
from dlperf.importing.archives import Log
from dlperf.importing.columnar import ChunkLines, LineReader
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.records import Batch
from dlperf.importing.runs import Endings, RunSplitter
from dlperf.logs.endings import Outcome
from dlperf.logs.failures import Failure, FailureKind
from dlperf.logs.text import ANSI, plain
from dlperf.wording import plural

_LONGEST_QUOTE = 60
_LONGEST_QUOTED = 4096
# Lines of a layout are read at once; where there are few of each in a chunk, a larger chunk holds more.
_FEW_LINES_A_LAYOUT = 100
_LARGEST_CHUNK = 4 << 20
BINARY = "binary data, not a log"
_BINARY_SHARE = 0.02  # of random bytes a tenth are control characters
_TEXT_CONTROLS = b"\t\n\r\x0b\x0c\x1b\x08"
_PRINTABLE = bytes(byte for byte in range(256) if byte >= 32 or byte in _TEXT_CONTROLS)  # noqa: PLR2004


# A line as docker's json-file driver stores it.
_JSON_LINE = re.compile(rb"^\{[^\r\n]*\}", re.MULTILINE)
# Spaces that are no ASCII, as web pages, word processors and Windows-1252 have them.
_SPACES = re.compile(rb"\xc2\xa0|\xe2\x80[\x80-\x8a\xaf]|\xe3\x80\x80|(?<![\x80-\xff])\xa0(?![\x80-\xff])")


_SPACE_BYTES = (b"\xa0", b"\xe2", b"\xe3")  # one is in each of them
_HEAD_BYTES = 4096


def _unpacked(line: re.Match[bytes]) -> bytes:
    """The text in the line, with its time in front; the line as it is where it holds something else."""
    try:
        content = json.loads(line[0])
        text, time = content["log"].rstrip("\r\n").replace("\n", " "), content.get("time", "")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return line[0]
    return f"{time} {text}".lstrip().encode(errors="replace")


def _plain(data: bytes | bytearray) -> bytes | bytearray:
    """The same lines without what wraps their text; most chunks need no change.

    Looking for one byte takes no time to speak of; looking for two does.
    """
    if b"\0" in data:  # a lost node leaves them in a file on a network
        data = data.replace(b"\0", b"")
    if data.startswith(b"{") or data.find(b"\n{", 0, _HEAD_BYTES) >= 0:
        data = _JSON_LINE.sub(_unpacked, data)
    if b"\x1b" in data:
        data = ANSI.sub(b"", data)
    return _SPACES.sub(b" ", data) if any(byte in data for byte in _SPACE_BYTES) else data


def looks_binary(start: bytes | bytearray) -> bool:
    """Whether a file that begins so is no text; a log may hold some NULs, which a lost node leaves in it."""
    text = start.replace(b"\0", b"")
    controls = text.translate(None, delete=_PRINTABLE)
    return bool(start) and (not text or len(controls) > _BINARY_SHARE * len(text))


def _appearance(start: bytes | bytearray, lines: int) -> str:
    """What a log without records looks like, by its first chunk, for the user who gave it."""
    count = plural(lines, "line")
    if not start:
        return "empty"
    if not start.strip():
        return f"{count}, all of them blank"
    if looks_binary(start):
        return BINARY
    first_line = start.lstrip().partition(b"\n")[0][:_LONGEST_QUOTED]
    quote = plain(first_line.decode("utf-8", errors="replace"))[:_LONGEST_QUOTE]
    return f"no throughput record of a known program in {count}; the first line is {quote!r}"


class LogReader:
    """Iterate over it for the batches; afterwards its attributes hold the rest.

    `dialect` is None as long as no record was seen; `failures` holds the runs that show one.
    """

    def __init__(
        self,
        log: Log,
        *,
        dialects: Sequence[Dialect],
        outcome: Outcome | None = None,
        unrecognised: Callable[[int, bytes], None] | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        A log must hold lines of only one of `dialects`. `outcome` is how the process ended, where known.
        `unrecognised` is called with number and text of every line without a record that is not blank.
        """
        self.dialect: Dialect | None = None
        self.records = 0
        self.lines = 0
        self._log = log
        self._outcome = outcome
        self._unrecognised = unrecognised
        self._lines = LineReader(dialects)
        self._dialect_line = 0
        self._splitter: RunSplitter | None = None
        self._endings = Endings(log.name)
        self._is_of_a_program = len(dialects) == 1 or outcome is not None
        self._start: bytes | bytearray = b""

    @property
    def runs(self) -> int:
        """How many runs were seen."""
        return 0 if self._splitter is None else self._splitter.run + 1

    @property
    def failures(self) -> dict[int, Failure]:
        """How the runs failed that did.

        A log without a record has a run only where the user names its program or its exit code.
        """
        return self._endings.failures if self.records or self._is_of_a_program else {}

    @property
    def failure(self) -> Failure | None:
        """The failure of the last run that shows one."""
        return self.failures[max(self.failures)] if self.failures else None

    @property
    def trace(self) -> str:
        """What a log without records shows of a failure: `; line 5 shows ...`, or ""."""
        seen = self._endings.failures.get(0)
        if self.records or seen is None:
            return ""
        article = "a " if seen.kind is FailureKind.CRASH else ""
        return f"; line {seen.evidence.line} shows {article}{seen.kind}: {seen.evidence.text}"

    def __iter__(self) -> Iterator[Batch]:
        """The batches, each with at least one record.

        UserError where the log cannot be read, or has lines of another program; what came before is right.
        """
        for data, is_last in self._log.chunks():
            for batch in self._read(data, is_last=is_last):
                self.records += len(batch)
                yield batch
        if self._splitter is not None:
            for batch in self._splitter.finish():
                self.records += len(batch)
                yield batch
        self._endings.finish(self._outcome)
        if self._lines.has_cut_record and not self._log.warnings:
            self._log.warnings.append("the last line is cut; its record is left out")

    def require_records(self) -> None:
        """UserError where there was no record; the text says what the log looks like."""
        if not self.records:
            raise UserError(f"{self._log.name}: {_appearance(self._start, self.lines)}{self.trace}")

    def _read(self, data: bytes | bytearray, *, is_last: bool) -> list[Batch]:
        self._start = self._start or data
        data = _plain(data)
        if not data:
            return []
        lines = self._lines.read(data, is_cut=is_last and not data.endswith((b"\n", b"\r")))
        first_line = self.lines + 1
        # A piece of a line that is too long is not a line of its own.
        self.lines += len(lines) if is_last or data.endswith(b"\n") else len(lines) - 1
        self._check_dialects(lines, first_line)
        if (
            len(lines.entry_codes) * _FEW_LINES_A_LAYOUT > len(lines)
            and self._log.chunk_bytes < _LARGEST_CHUNK
        ):
            self._log.chunk_bytes *= 2
        batches, starts, rows = [], [], None
        if self.dialect is not None and self._splitter is not None:
            rows = lines.rows(self.dialect)
            rows = replace(rows, line=rows.line + first_line)
            try:
                batches = self._splitter.feed(rows)
            except UserError as error:
                raise UserError(f"{self._log.name}: {error}") from error
            starts = self._splitter.starts
        self._endings.feed(lines, first_line, rows=rows, starts=starts)
        if self._unrecognised is not None:
            for index in lines.without_records():
                self._unrecognised(first_line + index, lines.text(index))
        return batches

    def _check_dialects(self, lines: ChunkLines, first_line: int) -> None:
        for index, dialect in lines.first_records(besides=self.dialect):
            line = first_line + index
            if self.dialect is not None:
                raise UserError(
                    f"{self._log.name}: mixed dialects: {self.dialect.name} in line {self._dialect_line}, "
                    f"{dialect.name} in line {line}; split the file, or read one of them with "
                    f"--dialect {self.dialect.name}"
                )
            self.dialect, self._dialect_line = dialect, line
            self._splitter = RunSplitter(dialect.scope)
