"""One log read once: chunks of bytes in; batches of records, failures and unknown lines out.

Memory does not grow with the log.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from dlperf.errors import UserError
from dlperf.importing.archives import Log
from dlperf.importing.columnar import ChunkLines, LineReader
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.records import Batch, RunSplitter
from dlperf.logs.endings import Outcome
from dlperf.logs.failures import Failure, FailureScan
from dlperf.logs.text import ANSI, plain

_LONGEST_QUOTE = 60
_LONGEST_WATCHED = 64 << 10
_MOST_FAILURES = 1000
# Lines of a layout are read at once; where there are few of each in a chunk, a larger chunk holds more.
_FEW_LINES_A_LAYOUT = 100
_LARGEST_CHUNK = 4 << 20
BINARY = "binary data, not a log"
_BINARY_SHARE = 0.02  # of random bytes a tenth are control characters
_TEXT_CONTROLS = b"\t\n\r\x0b\x0c\x1b\x08"
_PRINTABLE = bytes(byte for byte in range(256) if byte >= 32 or byte in _TEXT_CONTROLS)  # noqa: PLR2004


def looks_binary(start: bytes | bytearray) -> bool:
    """Whether a file that begins so is no text; a log may hold some NULs, which a lost node leaves in it."""
    text = start.replace(b"\0", b"")
    controls = text.translate(None, delete=_PRINTABLE)
    return bool(start) and (not text or len(controls) > _BINARY_SHARE * len(text))


def _appearance(start: bytes | bytearray, lines: int) -> str:
    """What a log without records looks like, by its first chunk, for the user who gave it."""
    count = "1 line" if lines == 1 else f"{lines} lines"
    if not start:
        return "empty"
    if not start.strip():
        return f"{count}, all of them blank"
    if looks_binary(start):
        return BINARY
    first_line = start.lstrip().partition(b"\n")[0][:_LONGEST_WATCHED]
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
        self.failures: dict[int, Failure] = {}
        self._log = log
        self._outcome = outcome
        self._unrecognised = unrecognised
        self._lines = LineReader(dialects)
        self._dialect_line = 0
        self._splitter: RunSplitter | None = None
        self._scan = FailureScan()
        self._scanned_run = 0
        self._last_line: tuple[int, bytes] | None = None
        self._start: bytes | bytearray = b""

    @property
    def runs(self) -> int:
        """How many runs were seen."""
        return 0 if self._splitter is None else self._splitter.run + 1

    @property
    def failure(self) -> Failure | None:
        """The failure of the last run that shows one."""
        return self.failures[max(self.failures)] if self.failures else None

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
        if self._last_line is not None:
            number, text = self._last_line
            self._scan.note_last(self._log.name, number, text.decode(errors="replace"))
        self._end_scan(None, outcome=self._outcome)

    def require_records(self) -> None:
        """UserError where there was no record; the text says what the log looks like."""
        if not self.records:
            raise UserError(f"{self._log.name}: {_appearance(self._start, self.lines)}")

    def _read(self, data: bytes | bytearray, *, is_last: bool) -> list[Batch]:
        self._start = self._start or data
        if b"\0" in data:  # a lost node leaves them in a file on a network
            data = data.replace(b"\0", b"")
        if b"\x1b" in data:
            data = ANSI.sub(b"", data)
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
        batches, starts = [], []
        if self.dialect is not None and self._splitter is not None:
            rows = lines.rows(self.dialect)
            batches = self._splitter.feed(replace(rows, line=rows.line + first_line))
            starts = self._splitter.starts
        self._look_for_failures(lines, first_line, starts)
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

    def _look_for_failures(
        self, lines: ChunkLines, first_line: int, starts: Sequence[tuple[int, int]]
    ) -> None:
        """Feed the lines that matter to the scan of their run; `starts` has the runs that begin here."""
        watched = lines.worth_watching().tolist()
        waiting = list(starts)
        at = 0
        while True:
            if not self._scan.wants_more:
                next_watched = bisect_left(watched, at)
                at = watched[next_watched] if next_watched < len(watched) else len(lines)
            if at >= len(lines):
                break
            while waiting and first_line + at >= waiting[0][1]:
                self._end_scan(waiting.pop(0)[0])
            text = lines.text(at)[:_LONGEST_WATCHED].decode("utf-8", errors="replace")
            for part in text.split("\r"):
                self._scan.feed(self._log.name, first_line + at, part)
            at += 1
        for run, _line in waiting:
            self._end_scan(run)
        if (last_record := lines.last_record()) is not None:
            self._scan.note_record(first_line + last_record)
        self._last_line = (first_line + len(lines) - 1, lines.text(len(lines) - 1))

    def _end_scan(self, next_run: int | None, *, outcome: Outcome | None = None) -> None:
        """Keep what the run showed; the next run starts anew."""
        failure = self._scan.failure(outcome)
        if failure is not None and len(self.failures) < _MOST_FAILURES:
            self.failures[self._scanned_run] = failure
        self._scan = FailureScan()
        self._scanned_run = next_run or 0
