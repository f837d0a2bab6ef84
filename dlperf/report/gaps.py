"""Every cell without a number, with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.numbers import NOT_KNOWN
from dlperf.report.tables import status_word
from dlperf.report.text import Code, Column, Table, plural, say
from dlperf.results.cases import NOT_YET
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dlperf.report.comparison import Comparison
    from dlperf.report.text import Inline
    from dlperf.results.store import StoredRun


def gaps_table(comparisons: Iterable[Comparison]) -> Table | None:
    """Every cell without a number and every run that failed beside good ones; None where there is none."""
    rows = tuple(row for comparison in comparisons for row in _gaps(comparison))
    if not rows:
        return None
    headings = (
        say("experiment"),
        say("parallelism"),
        say("framework"),
        say("topology"),
        say("batch"),
        say("classes"),
        say("precision"),
        say("status"),
        say("reason"),
        say("evidence"),
    )
    columns = tuple(Column(heading=heading) for heading in headings)
    return Table(caption=say("Cells without a number"), columns=columns, rows=rows)


def _gaps(comparison: Comparison) -> Iterator[tuple[Inline, ...]]:
    for (row, arm), figure in sorted(comparison.cases.items()):
        case = figure.case
        ratio = f" {case.sample_ratio:g}" if case.sample_ratio is not None else ""
        place = (
            case.workload.experiment,
            case.parallelism + ratio,
            comparison.label(arm),
            row.topology,
            row.shown("batch_size_per_device"),
            NOT_KNOWN if figure.published else row.shown("num_classes"),
            row.precision,
        )
        if not figure.runs and figure.summary is None:
            yield (*place, status_word(figure.status), _reason(figure.reason), "")
        for run in figure.failed:
            yield (*place, *_failed_cells(run, of=len(figure.runs)))
        if figure.runs and figure.missing_runs:
            status = say(
                "{status} ({runs})",
                status=status_word(Status.NOT_MEASURED),
                runs=plural(figure.missing_runs, "run"),
            )
            yield (*place, status, _reason(NOT_YET), "")


def _reason(reason: str | None) -> Inline:
    """As it was recorded; the one that dlperf itself gives in every report is a message of the report."""
    if reason == NOT_YET:
        return say("planned and not run yet; `dlperf run` goes on with the sweep")
    return reason or ""


def _failed_cells(run: StoredRun, *, of: int) -> tuple[Inline, ...]:
    result = run.result
    reason, evidence = result.reason or "", result.evidence or ""
    place, _, text = evidence.partition(": ")
    return (
        say("{status} (run {run} of {of})", status=status_word(result.status), run=result.repeat, of=of),
        reason,
        Code(place if text in reason else evidence),
    )
