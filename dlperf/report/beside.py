"""The same cells as other sources have them: earlier results, other machines, published figures.

Each stands in its own column with what it was measured on. Such a ratio is of whole systems, never of
frameworks: hardware, versions and sessions differ, and the table says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.report.columns import ratio_cell
from dlperf.report.comparison import Row
from dlperf.report.distinctions import sampled_parallelism
from dlperf.report.numbers import rate
from dlperf.report.text import Column, Table, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlperf.report.text import Inline
    from dlperf.results.cases import CaseFigures
    from dlperf.results.query import Loaded


@dataclass(frozen=True, slots=True, order=True)
class _Cell:
    """What two sources must agree on to stand in one row; versions may differ, and are shown."""

    experiment: str
    parallelism: str
    row: Row
    framework: str
    workload: str  # its content: two experiment files of one name can differ


Source = tuple[str, str]  # name of the sweep or of the published data, hardware


def beside_table(loaded: Loaded, *, titles: Mapping[str, str]) -> Table | None:
    """Every cell that at least two sources have a figure of; None where there is none.

    A source is a sweep on one kind of hardware, or a published data set. Where a sweep has a cell several
    times (other versions, threads, options), its fastest stands here, and the caption says so.
    """
    cells: dict[_Cell, dict[Source, CaseFigures]] = {}
    for figure in loaded.all_figures:
        if figure.summary is not None:
            sources = cells.setdefault(_cell(figure), {})
            source = (figure.sweep.name, figure.hardware)
            sources[source] = max(sources.get(source, figure), figure, key=_median)
    shared = {cell: sources for cell, sources in sorted(cells.items()) if len(sources) > 1}
    if not shared:
        return None
    return _table(shared, titles)


def _median(figure: CaseFigures) -> float:
    return figure.summary.median if figure.summary else 0.0


def _table(shared: Mapping[_Cell, Mapping[Source, CaseFigures]], titles: Mapping[str, str]) -> Table:
    names = list(dict.fromkeys(source for sources in shared.values() for source in sources))
    columns = [
        Column(heading=say("framework")),
        Column(heading=say("workload")),
        Column(heading=say("parallelism")),
        Column(heading=say("topology")),
        Column(heading=say("batch"), numbers=True),
        Column(heading=say("classes"), numbers=True),
        Column(heading=say("precision")),
        *(Column(heading=f"{name} ({hardware})", numbers=True) for name, hardware in names),
        *(Column(heading=f"{name} / {names[0][0]}", numbers=True) for name, _ in names[1:]),
    ]
    rows = [
        (
            titles.get(cell.framework, cell.framework),
            cell.experiment,
            sampled_parallelism(cell.parallelism, cell.row.sample_ratio or None),
            cell.row.topology,
            cell.row.shown("batch_size_per_device"),
            cell.row.shown("num_classes"),
            cell.row.precision,
            *(_figure(sources.get(name)) for name in names),
            *(ratio_cell(sources.get(name), sources.get(names[0])) for name in names[1:]),
        )
        for cell, sources in shared.items()
    ]
    caption = say(
        "The same cells in several sources, samples/s; where a source has one several times (other versions, "
        "threads, options), its fastest. Hardware, versions, data and sessions may differ: a ratio here is "
        "of whole systems, not of frameworks"
    )
    return Table(caption=caption, columns=tuple(columns), rows=tuple(rows))


def _cell(figure: CaseFigures) -> _Cell:
    case = figure.case
    return _Cell(
        experiment=case.workload.experiment,
        parallelism=case.parallelism,
        row=Row.of(case),
        framework=case.framework,
        workload=case.workload.model_dump_json(),
    )


def _figure(figure: CaseFigures | None) -> Inline:
    if figure is None or figure.summary is None:
        return ""
    return say("{rate} ({version})", rate=rate(figure.summary.median), version=figure.case.version)
