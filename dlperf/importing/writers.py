"""Records as a table, JSON or CSV, written as they come: no format needs the whole log in memory."""

import csv
import datetime as dt
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.dialects.base import Dialect, Scope
from dlperf.importing.records import FIELDS, Batch, Record
from dlperf.logs.failures import Failure
from dlperf.statistics.changepoint import FEWEST_JUDGED, classify
from dlperf.wording import plural

_SPOOL_BYTES = 8 << 20
_WIDTHS = {
    "run": 3, "line": 6, "iteration": 9, "epoch": 5, "rank": 4, "samples_per_sec": 10, "loss": 10, "lr": 10,
    "time": 23,
}  # fmt: skip
_HEADINGS = {"samples_per_sec": "samples/s"}


class Writer:
    """Writes logs; for each call `begin`, then `write` and `unrecognised` any number of times, then `end`.

    This one writes columns for people, and below them what each run comes to and how the log failed. It keeps
    the rates, 8 bytes per record.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._file = ""
        self._count = 0
        self._columns: list[str] = []  # that have been given so far
        self._rates: dict[int, list[NDArray[np.float64]]] = {}  # by run

    def begin(self, *, file: str) -> None:
        """A log begins."""
        self._file, self._count, self._columns, self._rates = file, 0, [], {}

    def write(self, batch: Batch, *, dialect: Dialect) -> None:
        """Write some of its records."""
        if not self._count:
            self._out.write(f"{self._file}: {dialect.name}, {_RATES[dialect.scope]} rate\n")
        self._count += len(batch)
        absent = {name for name, is_given in zip(FIELDS, batch.given.T, strict=True) if not is_given.any()}
        given = {name for name in _WIDTHS if name in self._columns or name not in absent}
        if len(given) > len(self._columns):
            self._columns = [name for name in _WIDTHS if name in given]
            self._out.write(_row([_HEADINGS.get(name, name) for name in self._columns], self._columns))
        for record in batch.records():
            self._out.write(
                _row([_cell(name, getattr(record, name)) for name in self._columns], self._columns)
            )
        for run in np.unique(batch.run).tolist():
            self._rates.setdefault(run, []).append(batch.column("samples_per_sec")[batch.run == run])

    def unrecognised(self, line: int, text: str) -> None:
        """Write a line that no dialect knows."""
        self._out.write(f"{self._file}:{line}: {text}\n")

    def end(self, *, failure: Failure | None) -> None:
        """The log ends."""
        for run, rates in sorted(self._rates.items()):
            self._out.write(f"run {run}: {_summary(np.concatenate(rates))}\n")
        if failure is not None:
            self._out.write(f"failure: {failure.kind}: {failure.evidence}\n")


_RATES = {Scope.JOB: "the whole job's", Scope.PROCESS: "one process's"}


def _row(cells: Sequence[str], columns: Sequence[str]) -> str:
    return " ".join(cell.rjust(_WIDTHS[name]) for cell, name in zip(cells, columns, strict=True)) + "\n"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name != "time":
        return f"{value:g}" if isinstance(value, float) else str(value)
    try:
        return str(dt.datetime.fromtimestamp(value / 1000, dt.UTC).replace(tzinfo=None))[:23]
    except (ValueError, OverflowError, OSError):  # a year that there is not
        return str(value)


def _summary(rates: NDArray[np.float64]) -> str:
    """What the records of a run come to; the steady rate is that of the steady stretch's records."""
    good = rates[(rates > 0) & np.isfinite(rates)]
    count = plural(len(rates), "record")
    if not len(good):
        return f"{count}, none with a rate"
    text = f"{count}, mean {good.mean():.2f}, median {np.median(good):.2f}"
    if len(good) < FEWEST_JUDGED:
        return f"{text} samples/s (a steady rate takes {FEWEST_JUDGED} records)"
    stretch = classify((1 / good).tolist())
    if stretch.first is None:
        return f"{text} samples/s, never steady ({stretch.shape})"
    is_kept = np.arange(len(good)) >= stretch.first
    is_kept[list(stretch.pauses)] = False
    kept = good[is_kept]
    begin = "" if stretch.first == 0 else f" from record {stretch.first + 1} on"
    return f"{text}, steady {len(kept) / (1 / kept).sum():.2f} samples/s{begin}"


class _JsonWriter(Writer):
    """One JSON object per log, each on a line of its own; the epilog of `dlperf parse` shows one.

    JSON has no NaN: a loss that was printed as nan or inf is null, with the text in `loss_text`.
    """

    def begin(self, *, file: str) -> None:
        super().begin(file=file)
        self._unrecognised = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+")  # noqa: SIM115  closed by `end`

    def write(self, batch: Batch, *, dialect: Dialect) -> None:
        self._out.write(", " if self._count else self._opening(dialect.name))
        self._count += len(batch)
        self._out.write(", ".join(_json(record) for record in batch.records()))

    def unrecognised(self, line: int, text: str) -> None:
        separator = ", " if self._unrecognised.tell() else ""
        self._unrecognised.write(separator + json.dumps({"line": line, "text": text}))

    def end(self, *, failure: Failure | None) -> None:
        if not self._count:
            self._out.write(self._opening(None))
        shown = None
        if failure is not None:
            seen = failure.evidence
            shown = {"kind": failure.kind, "evidence": seen.text, "file": seen.file, "line": seen.line}
        self._out.write('], "failure": ' + json.dumps(shown))
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

    def write(self, batch: Batch, *, dialect: Dialect) -> None:
        self._table.writerows((self._file, dialect.name, *record) for record in batch.records())

    def unrecognised(self, line: int, text: str) -> None:
        """Left out: it is no record."""

    def end(self, *, failure: Failure | None) -> None:
        """Nothing follows the records."""


WRITERS: dict[str, type[Writer]] = {"table": Writer, "json": _JsonWriter, "csv": _CsvWriter}
