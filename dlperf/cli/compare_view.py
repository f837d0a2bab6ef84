"""Findings on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dlperf.cli.tables import rendered
from dlperf.compare.metrics import IMPROVEMENTS, REGRESSIONS, Verdict
from dlperf.compare.words import HEADINGS, NUMBERS, cells, headline, shown, summary
from dlperf.results.cell import cell_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.compare.finding import Finding, Findings

_STYLES = {
    **dict.fromkeys(REGRESSIONS, "bold red"),
    **dict.fromkeys(IMPROVEMENTS, "green"),
    Verdict.MISSING: "yellow",
    Verdict.NOT_COMPARABLE: "yellow",
}


def findings_text(findings: Findings, *, everything: bool) -> str:
    """The table of a comparison, its notes, and the answer on the last line."""
    return "\n".join(_lines(findings, everything=everything)) + "\n"


def _lines(findings: Findings, *, everything: bool) -> Iterator[str]:
    yield f"{findings.candidate} against {findings.baseline}"
    rows = findings.rows if everything else shown(findings)
    if rows:
        yield ""
        yield rendered(_table(rows)).rstrip()
    for one in findings.new:
        yield f"without a baseline: {one.case.framework} {one.case.version} {cell_name(one.case)}"
    for note in findings.notes:
        yield f"note: {note}"
    yield ""
    yield summary(findings)
    yield headline(findings)


def _table(rows: tuple[Finding, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    content = [cells(row) for row in rows]
    kept = [place for place in range(len(HEADINGS)) if any(row[place] for row in content)]
    for place in kept:
        table.add_column(HEADINGS[place], justify="right" if HEADINGS[place] in NUMBERS else "left")
    for row, texts in zip(rows, content, strict=True):
        # Text, not markup: a reason may hold brackets.
        table.add_row(*(Text(texts[place]) for place in kept), style=_STYLES.get(row.verdict))
    return table
