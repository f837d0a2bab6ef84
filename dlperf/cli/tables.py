"""Tables of cases on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlperf.report.numbers import factor, mebibytes, percent, rate, span
from dlperf.results.limits import StoredLimit

if TYPE_CHECKING:
    from dlperf.results.tables import Record  # it loads pandas

# Wide enough that no cell is ever cut where the output is no terminal.
_FILE_WIDTH = 400


def rendered(table: Table, *, stream: Any = None) -> str:
    """The table as text: coloured and fitted on a terminal, plain and as wide as it needs elsewhere."""
    stream = stream or sys.stdout
    console = Console(file=stream)
    if not console.is_terminal:
        console = Console(file=stream, width=_FILE_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def case_table(rows: list[Record]) -> Table:
    """One line a case: what it is, what it came to, or why it did not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in _COLUMNS:
        table.add_column(heading, justify=justify)
    for row in rows:
        cells = (
            f"{row['framework']} {row['version']}",
            str(row["experiment"]),
            _parallelism(row),
            str(row["topology"]),
            str(row["batch_size_per_device"]),
            str(row["num_classes"]),
            str(row["precision"]),
            "?" if row["threads_per_device"] is None else str(row["threads_per_device"]),
            str(row["status"]),
            rate(_number(row, "samples_per_sec")),
            span(_number(row, "samples_per_sec_min"), _number(row, "samples_per_sec_max")),
            percent(_number(row, "cv")),
            span(_number(row, "interval_low"), _number(row, "interval_high")),
            runs(row),
            factor(_number(row, "speedup")),
            str(row["reason"] or ""),
        )
        # Text, not markup: a reason may hold brackets.
        table.add_row(*(Text(cell) for cell in cells))
    return table


_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("framework", "left"),
    ("experiment", "left"),
    ("parallelism", "left"),
    ("topology", "left"),
    ("batch", "right"),
    ("classes", "right"),
    ("precision", "left"),
    ("threads", "right"),
    ("status", "left"),
    ("samples/s", "right"),
    ("min to max", "right"),
    ("CV", "right"),
    ("95 % interval", "right"),
    ("runs ok", "right"),
    ("speedup", "right"),
    ("reason", "left"),
)


def runs(row: Record) -> str:
    """`3 of 5`, or `3` when all are good; empty where none was run."""
    good, failed = row["runs_ok"], row["runs_failed"]
    if not isinstance(good, int) or not isinstance(failed, int) or not good + failed:
        return ""
    return f"{good} of {good + failed}" if failed else str(good)


def _number(row: Record, name: str) -> float | None:
    value = row[name]
    return value if isinstance(value, int | float) else None


def _parallelism(row: Record) -> str:
    ratio = row["sample_ratio"]
    return str(row["parallelism"]) + (f" {ratio:g}" if isinstance(ratio, float) else "")


_LIMIT_COLUMNS = (
    ("case", "left"),
    ("limit", "right"),
    ("probes", "right"),
    ("by arithmetic (MiB)", "right"),
    ("measured (MiB)", "right"),
    ("", "left"),
)


def limits_table(limits: Sequence[StoredLimit]) -> Table:
    """One line a search: what was found, and the memory there by arithmetic and as it was measured."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in _LIMIT_COLUMNS:
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for limit in limits:
        record = limit.record
        at = limit.probe_at(record.trains) if record.trains is not None else None
        cells = (
            record.case.case_id,
            str(record.trains) if record.status.value == "found" else "",
            str(len(record.probes)),
            mebibytes(record.model_bytes) if record.model else "",
            mebibytes(at.peak_memory_bytes) if at is not None else "",
            record.reason,
        )
        table.add_row(*map(Text, cells))
    return table


def limits_json(limits: Sequence[StoredLimit]) -> list[dict[str, Any]]:
    """The searches for programs."""
    return [
        {
            "case_id": limit.record.case.case_id,
            "axis": limit.record.case.search.axis if limit.record.case.search is not None else None,
            "status": limit.record.status,
            "reason": limit.record.reason,
            "trains": limit.record.trains,
            "fails": limit.record.fails,
            "guess": limit.record.guess,
            "model_bytes": limit.record.model_bytes,
            "probes": [probe.model_dump(mode="json") for probe in limit.record.probes],
            "folder": str(limit.folder),
        }
        for limit in limits
    ]
