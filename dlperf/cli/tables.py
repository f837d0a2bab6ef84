"""Tables of cases on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlperf.report.numbers import factor, percent, rate, span

if TYPE_CHECKING:
    from dlperf.results.rows import Row

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


def case_table(rows: list[Row]) -> Table:
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


def runs(row: Row) -> str:
    """`3 of 5`, or `3` when all are good; empty where none was run."""
    good, failed = row["runs_ok"], row["runs_failed"]
    if not isinstance(good, int) or not isinstance(failed, int) or not good + failed:
        return ""
    return f"{good} of {good + failed}" if failed else str(good)


def _number(row: Row, name: str) -> float | None:
    value = row[name]
    return value if isinstance(value, int | float) else None


def _parallelism(row: Row) -> str:
    ratio = row["sample_ratio"]
    return str(row["parallelism"]) + (f" {ratio:g}" if isinstance(ratio, float) else "")
