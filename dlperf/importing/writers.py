"""Records as a table, JSON or CSV, written as they come: no format needs the whole log in memory."""

import csv
import json
import math
import shutil
import tempfile
from typing import IO

from dlperf.importing.records import Batch, Record
from dlperf.logs.failures import Failure

_SPOOL_BYTES = 8 << 20
_WIDTHS = dict(zip(Record._fields, (3, 8, 9, 5, 4, 15, 12, 12, 13), strict=True))


class Writer:
    """Writes logs; for each call `begin`, then `write` and `unrecognised` any number of times, then `end`.

    This one writes columns for people, and the failure below them.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._file = ""
        self._count = 0

    def begin(self, *, file: str) -> None:
        """A log begins."""
        self._file, self._count = file, 0

    def write(self, batch: Batch, *, dialect: str) -> None:
        """Write some of its records."""
        if not self._count:
            self._out.write(f"{self._file}: {dialect}\n{_row(tuple(_WIDTHS))}\n")
        self._count += len(batch)
        self._out.writelines(_row(record) + "\n" for record in batch.records())

    def unrecognised(self, line: int, text: str) -> None:
        """Write a line that no dialect knows."""
        self._out.write(f"{self._file}:{line}: {text}\n")

    def end(self, *, failure: Failure | None) -> None:
        """The log ends."""
        if failure is not None:
            self._out.write(f"failure: {failure.kind}: {failure.evidence}\n")


def _row(cells: tuple[object, ...]) -> str:
    texts = ["-" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells]
    return " ".join(text.rjust(width) for text, width in zip(texts, _WIDTHS.values(), strict=True))


class _JsonWriter(Writer):
    """One JSON object per log, each on a line of its own; the epilog of `dlperf parse` shows one.

    JSON has no NaN: a loss that was printed as nan or inf is null, with the text in `loss_text`.
    """

    def begin(self, *, file: str) -> None:
        super().begin(file=file)
        self._unrecognised = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+")  # noqa: SIM115  closed by `end`

    def write(self, batch: Batch, *, dialect: str) -> None:
        self._out.write(", " if self._count else self._opening(dialect))
        self._count += len(batch)
        self._out.write(", ".join(_json(record) for record in batch.records()))

    def unrecognised(self, line: int, text: str) -> None:
        separator = ", " if self._unrecognised.tell() else ""
        self._unrecognised.write(separator + json.dumps({"line": line, "text": text}))

    def end(self, *, failure: Failure | None) -> None:
        if not self._count:
            self._out.write(self._opening(None))
        told = None
        if failure is not None:
            seen = failure.evidence
            told = {"kind": failure.kind, "evidence": seen.text, "file": seen.file, "line": seen.line}
        self._out.write('], "failure": ' + json.dumps(told))
        with self._unrecognised as lines:
            if lines.tell():
                lines.seek(0)
                self._out.write(', "unrecognised": [')
                shutil.copyfileobj(lines, self._out)
                self._out.write("]")
        self._out.write("}\n")

    def _opening(self, dialect: str | None) -> str:
        return f'{{"file": {json.dumps(self._file)}, "dialect": {json.dumps(dialect)}, "records": ['


def _json(record: Record) -> str:
    cells = record._asdict()
    for name, value in record._asdict().items():
        if isinstance(value, float) and not math.isfinite(value):
            cells.update({name: None, f"{name}_text": str(value)})
    return json.dumps(cells)


class _CsvWriter(Writer):
    """One table of the records of all logs, `file` first; what a line does not say is an empty field."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._table = csv.writer(out, lineterminator="\n")
        self._table.writerow(("file", "dialect", *Record._fields))

    def write(self, batch: Batch, *, dialect: str) -> None:
        self._table.writerows((self._file, dialect, *record) for record in batch.records())

    def unrecognised(self, line: int, text: str) -> None:
        """Left out: it is no record."""

    def end(self, *, failure: Failure | None) -> None:
        """Nothing follows the records."""


WRITERS: dict[str, type[Writer]] = {"table": Writer, "json": _JsonWriter, "csv": _CsvWriter}
