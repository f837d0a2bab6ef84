"""The tables of a comparison. Where a number would stand and there is none, its status stands."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dlperf.report.columns import (
    COLUMNS,
    CaseColumn,
    TableCell,
    TableContext,
    columns_of,
    interference,
    ratio_cell,
)
from dlperf.report.comparison import (
    CaseKey,
    Comparison,
    Row,
    case_key,
    choice_cells,
    has_choices,
    sampled_parallelism,
)
from dlperf.report.numbers import NOT_KNOWN, rate
from dlperf.report.text import (
    Anchor,
    Cells,
    Code,
    Column,
    Inline,
    Link,
    Table,
    Text,
    number,
    plural,
    say,
    table_of,
)
from dlperf.results.cases import NOT_YET, CaseFigures, data_name
from dlperf.results.query import Loaded, run_digest
from dlperf.results.schema import Status

ABSENT = say("no such case")
NOT_TOLD = say("not told")
NO_SUCH_PART = say("none")
STATUS_WORDS = {
    Status.OK: say("ok"),
    Status.OOM: say("out of memory"),
    Status.TIMEOUT: say("timeout"),
    Status.STALLED: say("stalled"),
    Status.DATA: say("data unreadable"),
    Status.CRASH: say("crash"),
    Status.KILLED: say("killed"),
    Status.LOST_NODE: say("lost node"),
    Status.PREEMPTED: say("job preempted"),
    Status.JOB_TIMEOUT: say("time limit of the job"),
    Status.INCOMPLETE: say("incomplete"),
    Status.UNSTEADY: say("unsteady"),
    Status.DISTURBED: say("disturbed"),
    Status.INSUFFICIENT: say("insufficient"),
    Status.UNSUPPORTED: say("unsupported"),
    Status.NOT_MEASURED: say("not measured"),
}
_REPEATS = ("samples_per_sec", "spread", "cv", "interval")
_INSIDE = ("step", "step_p95", "gflops", "share", "loss", "memory")


def status_of(figure: CaseFigures | None) -> Text:
    """The status of a case, or that there is no such case."""
    return ABSENT if figure is None else STATUS_WORDS[figure.status]


def throughput_table(context: TableContext) -> Table:
    """The 2021 table: a row per cell, the columns of every framework, then the ratios to the baseline."""
    comparison = context.comparison
    return table_of(
        say("Throughput: {experiment}", experiment=comparison.sample.workload.experiment),
        [_throughput_row(context, row) for row in comparison.rows],
    )


def _throughput_row(context: TableContext, row: Row) -> Cells:
    """The first column of a framework leads to the runs behind it."""
    comparison = context.comparison
    names = context.view.columns_of(comparison)
    device = "gpu" if comparison.sample.device == "cuda" else "device"
    cells: dict[Inline | Column, Inline] = {
        number("node_num"): row.shown("nodes"),
        number(f"{device}_num_per_node"): row.shown("devices_per_node"),
        number("batch_size_per_device"): comparison.shown(row, "batch_size_per_device"),
        **{number(name): comparison.shown(row, name) for name in _varying_fields(comparison)},
    }
    for variant in comparison.variants:
        figure, cell = comparison.cases.get((row, variant)), context.cell(row, variant)
        own = columns_of((name for name in names if name != "ratio"), comparison.figures)
        for index, column in enumerate(own):
            heading = say("{framework} {column}", framework=comparison.label(variant), column=column.heading)
            if cell is not None:
                content: Inline = column.cell(cell) if index else context.link(cell.figure, column.cell(cell))
            else:
                content = "" if index else status_of(figure)
            cells[Column(heading, numbers=column.numbers)] = content
        if comparison.finds_differ:
            for name in comparison.searched:
                found = figure.found if figure is not None and name == row.searched else None
                heading = say("{framework} {column}", framework=comparison.label(variant), column=name)
                cells[number(heading)] = "" if found is None else str(found)
    if "ratio" in names:
        for variant in comparison.variants:
            if variant != context.base:
                cell = context.cell(row, variant)
                over, under = comparison.label(variant), comparison.label(context.base)
                cells[number(f"{over} / {under}")] = COLUMNS["ratio"].cell(cell) if cell else ""
    return cells


def repeats_table(context: TableContext) -> Table:
    """How far the runs of each case lie apart."""
    measured = any(interference(figure) is not None for figure in context.comparison.figures)
    names = (
        *_REPEATS,
        *(["interference"] if measured else []),
        *("runs", "failed"),
        *(["noise_floor"] if context.noise_profile is not None else []),
    )
    columns = columns_of(names, context.comparison.figures)
    return case_table(context, columns, caption=say("Spread of the repeats, samples/s"))


def inside_table(context: TableContext) -> Table:
    """What a step took and what it achieved, with the loss as a check that something was trained."""
    names = (*_INSIDE, "efficiency") if context.comparison.scales else _INSIDE
    if context.comparison.sample.data is not None:
        names = (*names, "waiting")
    columns = columns_of(names, context.comparison.figures)
    return case_table(context, columns, caption=say("Inside a run (medians over the good runs)"))


def case_table(context: TableContext, columns: Sequence[CaseColumn], *, caption: Text) -> Table:
    """A row per case with a figure: which case it is, then the columns."""
    headings = {Column(column.heading, numbers=column.numbers): column for column in columns}
    return table_of(
        caption,
        (
            {**_case_cells(cell), **{heading: column.cell(cell) for heading, column in headings.items()}}
            for cell in context.cells()
        ),
    )


# Of an engine that runs a step as one graph.
GRAPH = "graph"
# As frameworks/common/phases.py names them; another adapter's own phase is called as it is.
PHASES: Mapping[str, Inline] = {
    "data": say("data"),
    "forward_backward": say("forward and backward"),
    "communication": say("communication"),
    "optimizer": say("optimizer"),
    GRAPH: say("one graph of all"),
}


def in_order(seconds: dict[str, float]) -> dict[str, float]:
    """The phases in the order of a step, unknown ones last."""
    known = {phase: seconds[phase] for phase in PHASES if phase in seconds}
    return known | {phase: value for phase, value in sorted(seconds.items()) if phase not in known}


def breakdown_table(context: TableContext) -> Table:
    """Where the time of a profiled step goes, of the engines that report it."""
    profiled = [(cell, seconds) for cell in context.cells() if (seconds := cell.figure.phase_seconds)]
    names = in_order({name: 0.0 for _, seconds in profiled for name in seconds})
    rows: list[Cells] = [
        {
            **_case_cells(cell),
            **{
                number(say("{phase} (s)", phase=PHASES.get(name, name))): _phase_cell(seconds, name)
                for name in names
            },
            number(say("sum (s)")): rate(sum(seconds.values())),
            number(say("median measured step (s)")): rate(cell.figure.step_seconds_median) or NOT_KNOWN,
        }
        for cell, seconds in profiled
    ]
    caption = say(
        "Where the time goes (steps profiled behind the measured ones, rank 0, nothing overlapping)"
    )
    return table_of(caption, rows)


def _phase_cell(seconds: Mapping[str, float], name: str) -> Inline:
    """An engine that runs a step as one graph tells no parts; one that tells them had none of this one."""
    return rate(seconds.get(name)) or (NOT_TOLD if GRAPH in seconds else NO_SUCH_PART)


def _varying_fields(comparison: Comparison) -> list[str]:
    """The fields of a row that get a column only where they vary, or were searched for."""
    names = ("num_classes", "precision", "sample_ratio")
    return [name for name in names if name in comparison.varying or name in comparison.searched]


def _case_cells(cell: TableCell) -> Cells:
    """The name leads to the runs behind the whole row."""
    comparison, row = cell.context.comparison, cell.row
    return {
        say("framework"): cell.context.link(cell.figure, comparison.label(cell.variant)),
        say("topology"): row.topology,
        number(say("batch")): cell.figure.size("batch_size_per_device"),
        **{
            number(name): cell.figure.size("num_classes") if name == "num_classes" else row.shown(name)
            for name in _varying_fields(comparison)
        },
    }


def evidence_table(
    figures: Sequence[CaseFigures],
    anchors: Mapping[CaseKey, str],
    *,
    report_folder: Path,
    sources: Mapping[Path, Mapping[str, str]],
) -> Table:
    """A row per run; links start at `report_folder`, and `sources` are `run_sources` of the run folders."""
    rows: list[Cells] = []
    for figure in figures:
        for index, run in enumerate(figure.runs):
            name, rates = figure.case.case_id, run.result.figures
            rows.append(
                {
                    say("case"): name if index else Anchor(name, anchors[case_key(figure)]),
                    say("run"): Link(run.folder.name, link_to(run.folder, report_folder=report_folder) + "/"),
                    say("status"): STATUS_WORDS[run.result.status],
                    number(say("samples/s")): rate(rates.samples_per_sec) if rates else "",
                    say("SHA-256 of case, outcome and logs"): run_digest(sources[run.folder]),
                }
            )
    return table_of(say("Evidence"), rows)


def link_to(path: Path, *, report_folder: Path) -> str:
    """The path from a folder on, quoted for a link."""
    folder = _relative(path.parent, report_folder)
    return quote(path.name if folder == os.curdir else f"{folder}/{path.name}", safe="/")


@lru_cache(maxsize=4096)
def _relative(folder: Path, report_folder: Path) -> str:
    """The way from one folder to another; the runs of a case share theirs."""
    return os.path.relpath(folder, report_folder)


def missing_cells_table(comparisons: Sequence[Comparison]) -> Table:
    """Every cell without a number and every run that failed beside good ones."""
    chosen = has_choices(comparison.sample for comparison in comparisons)
    rows = (row for comparison in comparisons for row in _missing_cells(comparison, chosen=chosen))
    return table_of(say("Cells without a number"), rows)


def _missing_cells(comparison: Comparison, *, chosen: bool) -> Iterator[Cells]:
    for (row, variant), figure in sorted(comparison.cases.items()):
        case = figure.case
        ratio = f" {case.sample_ratio:g}" if case.sample_ratio is not None else ""
        cell: Cells = {
            say("experiment"): case.workload.experiment,
            say("parallelism"): case.parallelism + ratio,
            say("framework"): comparison.label(variant),
            say("topology"): row.topology,
            say("batch"): figure.size("batch_size_per_device"),
            say("classes"): NOT_KNOWN if "num_classes" in figure.not_known else figure.size("num_classes"),
            say("precision"): row.precision,
            **(choice_cells(figure) if chosen else {}),
        }
        for status, reason, evidence in _missing_runs(figure):
            yield {**cell, say("status"): status, say("reason"): reason, say("evidence"): evidence}


def _missing_runs(figure: CaseFigures) -> Iterator[tuple[Inline, Inline, Inline]]:
    """Status, reason and evidence of a case that has no run, of each failed run, and of those to come."""
    to_come = say("planned and not run yet; `dlperf run` goes on with the sweep")
    if not figure.runs and figure.summary is None:
        yield STATUS_WORDS[figure.status], to_come if figure.reason == NOT_YET else figure.reason or "", ""
    planned = len(figure.runs) + figure.missing_runs
    for run in figure.failed:
        status, reason, recorded = run.result.status, run.result.reason or "", run.result.evidence or ""
        source, _, text = recorded.partition(": ")
        words, number_of_run = STATUS_WORDS[status], run.result.repeat
        told = say("{status} (run {run} of {of})", status=words, run=number_of_run, of=planned)
        yield told, reason, Code(source if text in reason else recorded)
    if figure.runs and figure.missing_runs:
        words, runs = STATUS_WORDS[Status.NOT_MEASURED], plural(figure.missing_runs, "run")
        yield say("{status} ({runs})", status=words, runs=runs), to_come, ""


Source = tuple[str, str]  # name of the sweep or of the published data, hardware


def other_sources_table(loaded: Loaded, *, titles: Mapping[str, str]) -> Table:
    """Every cell that at least two sources have a figure of.

    A source is a sweep on one kind of hardware, or a published data set. Where a sweep has a cell several
    times (other versions, threads, options), its fastest stands here, and the caption says so.
    """
    cells: dict[tuple[Any, ...], dict[Source, CaseFigures]] = {}
    for figure in loaded.all_figures:
        if figure.summary is not None:
            sources = cells.setdefault(_cell_key(figure), {})
            source = (figure.sweep.name, figure.hardware)
            sources[source] = max(sources.get(source, figure), figure, key=_median)
    shared = [sources for _, sources in sorted(cells.items()) if len(sources) > 1]
    names = list(dict.fromkeys(source for sources in shared for source in sources))
    caption = say(
        "The same cells in several sources, samples/s; where a source has one several times (other versions, "
        "threads, options), its fastest. Hardware, versions, data and sessions may differ: a ratio here is "
        "of whole systems, not of frameworks"
    )
    chosen = has_choices(figure.case for sources in shared for figure in sources.values())
    return table_of(caption, (_sources_row(sources, names, titles, chosen=chosen) for sources in shared))


def _cell_key(figure: CaseFigures) -> tuple[Any, ...]:
    """What two sources must agree on to stand in one row; versions may differ, and are shown."""
    case, work = figure.case, figure.case.workload  # two experiment files of one name can differ
    data = "" if case.data is None else f"{data_name(case)} {case.data.index_sha256}"
    loop = "" if case.source is None else case.source.content_hash
    return (
        work.experiment,
        case.parallelism,
        Row.of(case),
        case.framework,
        work.model_dump_json(),
        data,
        loop,
    )


def _sources_row(
    sources: Mapping[Source, CaseFigures], names: Sequence[Source], titles: Mapping[str, str], *, chosen: bool
) -> Cells:
    figure = next(iter(sources.values()))
    case = figure.case
    row = Row.of(case)
    first, *others = names
    sweeps = [name for name, _ in names]
    short = {each: each[0] if sweeps.count(each[0]) == 1 else " ".join(each) for each in names}
    return {
        say("framework"): titles.get(case.framework, case.framework),
        say("workload"): case.workload.experiment,
        say("parallelism"): sampled_parallelism(case.parallelism, case.sample_ratio),
        say("topology"): row.topology,
        number(say("batch")): row.shown("batch_size_per_device"),
        number(say("classes")): row.shown("num_classes"),
        say("precision"): case.precision,
        **(choice_cells(figure) if chosen else {}),
        **{
            number(f"{name} ({hardware})"): _figure(sources.get((name, hardware))) for name, hardware in names
        },
        **{
            number(f"{short[other]} / {short[first]}"): ratio_cell(sources.get(other), sources.get(first))
            for other in others
        },
    }


def _median(figure: CaseFigures) -> float:
    return figure.summary.median if figure.summary else 0.0


def _figure(figure: CaseFigures | None) -> Inline:
    if figure is None or figure.summary is None:
        return ""
    return say("{rate} ({version})", rate=rate(figure.summary.median), version=figure.case.version)
