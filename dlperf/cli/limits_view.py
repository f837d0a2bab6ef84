"""The limits of a results folder on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dlperf.report.numbers import mebibytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.results.limits import StoredLimit

_COLUMNS = (
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
    for heading, justify in _COLUMNS:
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
