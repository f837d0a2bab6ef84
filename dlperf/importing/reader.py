"""One log read once: chunks of bytes in; batches of records, failures and unknown lines out.

Memory does not grow with the log.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from dlperf.errors import UserError
from dlperf.importing.archives import Chunk, Log
from dlperf.importing.columnar import ChunkLines, LineReader
from dlperf.importing.dialects.base import Dialect
from dlperf.importing.records import Batch, RunSplitter, empty
from dlperf.logs.endings import Outcome
from dlperf.logs.failures import Failure, FailureScan
from dlperf.logs.text import ANSI

_LONGEST_QUOTE = 60
_LONGEST_WATCHED = 64 << 10
_MOST_FAILURES = 1000
# Lines of a layout are read at once; where there are few of each in a chunk, a larger chunk holds more.
_FEW_LINES_A_LAYOUT = 100
_LARGEST_CHUNK = 4 << 20
_BINARY_SHARE = 0.02  # of random bytes a tenth are control characters
_TEXT_CONTROLS = b"\t\n\r\x0b\x0c\x1b\x08"
_PRINTABLE = bytes(byte for byte in range(256) if byte >= 32 or byte in _TEXT_CONTROLS)  # noqa: PLR2004


class NoRecords(UserError):
    """A file in which no known program's throughput line was found; the text says what was seen."""


class MixedDialects(UserError):
    """A file with lines of several programs; the text names them and the first line of each."""


class _Seen:
    """What a file looks like, for the user who gave one that is not a log."""

    def __init__(self) -> None:
        self._bytes = 0
        self._controls = 0
        self._first: bytes | None = None

    def add(self, data: bytes) -> None:
        """Look at a chunk; of a long log only the first one counts."""
        if self._bytes:
            return
        self._bytes = len(data)
        self._controls = len(data.translate(None, delete=_PRINTABLE))
        self._first = next((line for line in data.split(b"\n") if line.strip()), None)

    def summary(self, lines: int) -> str:
        """One line."""
        if not self._bytes:
            return "empty"
        if self._first is None:
            return f"{_lines(lines)}, all of them blank"
        if self._controls > _BINARY_SHARE * self._bytes:
            return "binary data, not a log"
        text = self._first[:_LONGEST_WATCHED].decode("utf-8", errors="replace")
        printable = (letter if letter.isprintable() else " " for letter in text)
        quote = " ".join("".join(printable).split())[:_LONGEST_QUOTE]
        return f"no throughput record of a known program in {_lines(lines)}; the first line is {quote!r}"


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


class LogReader:
    """Iterate over it for the batches; afterwards its attributes hold the rest.

    Attributes:
        dialect: the program's; None as long as no record was seen.
        records: how many were given.
        lines: how many lines were read.
        failures: by run, the runs that show one.
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

        Args:
            log: what to read.
            dialects: the ones that may occur; a log must hold lines of only one.
            outcome: how the process ended, where known.
            unrecognised: called with number and text of every line without a record that is not blank.
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
        self._seen = _Seen()

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

        Raises:
            MixedDialects: lines of another program than the first one's; what was given before is right.
            UserError: the log cannot be read.
        """
        for chunk in self._log.chunks():
            yield from self._counted(self._chunk(chunk))
        if self._splitter is not None:
            yield from self._counted(self._splitter.finish())
        self._finish_scan()

    def require_records(self) -> None:
        """Check that there was something in it.

        Raises:
            NoRecords: there was no record; the text says what the log looks like.
        """
        if not self.records:
            raise NoRecords(f"{self._log.name}: {self._seen.summary(self.lines)}")

    def _counted(self, batch: Batch) -> Iterator[Batch]:
        if len(batch):
            self.records += len(batch)
            yield batch

    def _chunk(self, chunk: Chunk) -> Batch:
        data = self._clean(chunk.data)
        if not data:
            return empty()
        lines = self._lines.read(data, is_cut=chunk.last and not data.endswith((b"\n", b"\r")))
        first_line = self.lines + 1
        # A piece of a line that is too long is not a line of its own.
        self.lines += len(lines) if chunk.last or data.endswith(b"\n") else len(lines) - 1
        self._check_dialects(lines, first_line)
        if lines.layouts * _FEW_LINES_A_LAYOUT > len(lines) and self._log.chunk_bytes < _LARGEST_CHUNK:
            self._log.chunk_bytes *= 2
        batch, starts = self._records(lines, first_line)
        self._look_for_failures(lines, first_line, starts)
        if self._unrecognised is not None:
            for index in lines.without_records():
                self._unrecognised(first_line + index, lines.text(index))
        return batch

    def _clean(self, data: bytes) -> bytes:
        """Without colours, and without the NULs that a lost node leaves in a file on a network."""
        self._seen.add(data)
        if b"\0" in data:
            data = data.replace(b"\0", b"")
        return ANSI.sub(b"", data) if b"\x1b" in data else data

    def _check_dialects(self, lines: ChunkLines, first_line: int) -> None:
        found = [(first_line + lines.first_record(dialect), dialect) for dialect in self._new_dialects(lines)]
        for line, dialect in sorted(found, key=lambda item: item[0]):
            if self.dialect is None:
                self.dialect, self._dialect_line = dialect, line
                self._splitter = RunSplitter(dialect.scope)
            else:
                raise MixedDialects(
                    f"{self._log.name}: mixed dialects: {self.dialect.name} in line {self._dialect_line}, "
                    f"{dialect.name} in line {line}; split the file, or read one of them with "
                    f"--dialect {self.dialect.name}"
                )

    def _new_dialects(self, lines: ChunkLines) -> list[Dialect]:
        return [dialect for dialect in lines.dialects() if dialect is not self.dialect]

    def _records(self, lines: ChunkLines, first_line: int) -> tuple[Batch, list[tuple[int, int]]]:
        """The records of the chunk that are ready, and the runs that begin in it."""
        if self.dialect is None or self._splitter is None:
            return empty(), []
        rows = lines.rows(self.dialect)
        batch = self._splitter.feed(rows.index + first_line, rows.values, rows.given)
        return batch, self._splitter.starts

    def _look_for_failures(
        self, lines: ChunkLines, first_line: int, starts: Sequence[tuple[int, int]]
    ) -> None:
        """Feed the lines that matter to the scan of their run."""
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
            self._feed_scan(lines, first_line, at)
            at += 1
        for run, _line in waiting:
            self._end_scan(run)
        if (last_record := lines.last_record()) is not None:
            self._scan.note_record(first_line + last_record)
        self._last_line = (first_line + len(lines) - 1, lines.text(len(lines) - 1))

    def _feed_scan(self, lines: ChunkLines, first_line: int, index: int) -> None:
        text = lines.text(index)[:_LONGEST_WATCHED].decode("utf-8", errors="replace")
        for part in text.split("\r"):
            self._scan.feed(self._log.name, first_line + index, part)

    def _end_scan(self, next_run: int | None, *, outcome: Outcome | None = None) -> None:
        """Keep what the run showed; the next run starts anew."""
        failure = self._scan.failure(outcome)
        if failure is not None and len(self.failures) < _MOST_FAILURES:
            self.failures[self._scanned_run] = failure
        self._scan = FailureScan()
        self._scanned_run = next_run or 0

    def _finish_scan(self) -> None:
        if self._last_line is not None:
            self._scan.note_last(
                self._log.name, self._last_line[0], self._last_line[1].decode(errors="replace")
            )
        self._end_scan(None, outcome=self._outcome)
