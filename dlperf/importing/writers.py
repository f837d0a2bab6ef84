"""Records as a table, JSON or CSV, written as they come: no format needs the whole log in memory."""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
from typing import IO, TYPE_CHECKING, Any, Protocol

from dlperf.importing.records import FIELDS, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.importing.records import Batch
    from dlperf.logs.failures import Failure

_SPOOL_BYTES = 8 << 20
_COLUMNS = ("run", "line", *FIELDS)
_WIDTHS = {
    "run": 3,
    "line": 8,
    "iteration": 9,
    "epoch": 5,
    "rank": 4,
    "samples_per_sec": 15,
    "loss": 12,
    "lr": 12,
}


class Writer(Protocol):
    """Writes one log; call the methods in this order, the second any number of times."""

    def begin(self, *, file: str) -> None:
        """A log begins."""

    def write(self, batch: Batch, *, dialect: str) -> None:
        """Some of its records."""

    def unrecognised(self, line: int, text: str) -> None:
        """A line that no dialect knows."""

    def end(self, *, failure: Failure | None) -> None:
        """The log ends."""


class JsonWriter:
    """One JSON object a log, each on a line of its own.

    {"file", "dialect", "records": [{"run", "line", "iteration", ...}, ...],
     "failure": {"kind", "evidence", "file", "line"} or null}
    JSON has no NaN: a loss that was printed as nan or inf is null, with the text in `loss_text`.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._file = ""
        self._count = 0
        self._unrecognised: IO[str] | None = None

    def begin(self, *, file: str) -> None:
        """See Writer."""
        self._file, self._count, self._unrecognised = file, 0, None

    def write(self, batch: Batch, *, dialect: str) -> None:
        """See Writer."""
        if not self._count:
            self._open(dialect)
        else:
            self._out.write(", ")
        self._count += len(batch)
        self._out.write(", ".join(_json(record) for record in batch.records()))

    def unrecognised(self, line: int, text: str) -> None:
        """See Writer."""
        if self._unrecognised is None:
            self._unrecognised = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+")  # noqa: SIM115  closed by `end`
        else:
            self._unrecognised.write(", ")
        self._unrecognised.write(json.dumps({"line": line, "text": text}))

    def end(self, *, failure: Failure | None) -> None:
        """See Writer."""
        if not self._count:
            self._open(None)
        self._out.write('], "failure": ' + json.dumps(_failure(failure)))
        if self._unrecognised is not None:
            self._unrecognised.seek(0)
            self._out.write(', "unrecognised": [')
            shutil.copyfileobj(self._unrecognised, self._out)
            self._out.write("]")
            self._unrecognised.close()
        self._out.write("}\n")

    def _open(self, dialect: str | None) -> None:
        self._out.write(f'{{"file": {json.dumps(self._file)}, "dialect": {json.dumps(dialect)}, "records": [')


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    """As it stands in JSON: kind, the evidence's text, its file and line."""
    if failure is None:
        return None
    evidence = failure.evidence
    return {
        "kind": str(failure.kind),
        "evidence": evidence.text,
        "file": evidence.file,
        "line": evidence.line,
    }


def _json(record: Record) -> str:
    cells: dict[str, Any] = {"run": record.run, "line": record.line}
    for name in FIELDS:
        value = getattr(record, name)
        if isinstance(value, float) and not math.isfinite(value):
            cells[name] = None
            cells[name + "_text"] = str(value)
        else:
            cells[name] = value
    return json.dumps(cells)


class CsvWriter:
    """One table for all logs, `file` first; what a line does not say is an empty field."""

    def __init__(self, out: IO[str]) -> None:
        self._table = csv.writer(out, lineterminator="\n")
        self._file = ""
        self._table.writerow(("file", "dialect", *_COLUMNS))

    def begin(self, *, file: str) -> None:
        """See Writer."""
        self._file = file

    def write(self, batch: Batch, *, dialect: str) -> None:
        """See Writer."""
        self._table.writerows(
            (self._file, dialect, *("" if cell is None else cell for cell in _cells(record)))
            for record in batch.records()
        )

    def unrecognised(self, line: int, text: str) -> None:
        """CSV holds records alone."""

    def end(self, *, failure: Failure | None) -> None:
        """CSV holds records alone."""


class TableWriter:
    """Columns for people; the failure below them."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._file = ""
        self._count = 0

    def begin(self, *, file: str) -> None:
        """See Writer."""
        self._file, self._count = file, 0

    def write(self, batch: Batch, *, dialect: str) -> None:
        """See Writer."""
        if not self._count:
            self._out.write(f"{self._file}: {dialect}\n")
            self._out.write(_row(_COLUMNS) + "\n")
        self._count += len(batch)
        self._out.writelines(_row(_cells(record)) + "\n" for record in batch.records())

    def unrecognised(self, line: int, text: str) -> None:
        """See Writer."""
        self._out.write(f"{self._file}:{line}: {text}\n")

    def end(self, *, failure: Failure | None) -> None:
        """See Writer."""
        if failure is not None:
            self._out.write(f"failure: {failure.kind}: {failure.evidence}\n")


def _cells(record: Record) -> tuple[int | float | None, ...]:
    return tuple(getattr(record, column) for column in _COLUMNS)


def _row(cells: tuple[object, ...]) -> str:
    texts = ["-" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells]
    widths = (_WIDTHS.get(column, 13) for column in _COLUMNS)
    return " ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))


WRITERS: dict[str, Callable[[IO[str]], Writer]] = {"table": TableWriter, "json": JsonWriter, "csv": CsvWriter}
