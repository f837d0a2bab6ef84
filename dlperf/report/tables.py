"""The tables of a comparison. Where a number would stand and there is none, its status stands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from urllib.parse import quote

from dlperf.report.columns import COLUMNS, Place, View, ratio_cell
from dlperf.report.comparison import Comparison, Row, Variant, sampled_parallelism
from dlperf.report.numbers import NOT_KNOWN, rate
from dlperf.report.text import (
    GRAPH,
    Anchor,
    Code,
    Column,
    Inline,
    Link,
    Table,
    Text,
    columns,
    in_order,
    phase_name,
    plural,
    say,
)
from dlperf.results.cases import NOT_YET, CaseFigures
from dlperf.results.noise_profile import NoiseProfile
from dlperf.results.query import Loaded, run_digest
from dlperf.results.schema import Status
from dlperf.results.store import StoredRun

ABSENT = say("no such case")
NOT_TOLD = say("not told")
NO_SUCH_PART = say("none")
_WORDS = {
    Status.OK: say("ok"),
    Status.OOM: say("out of memory"),
    Status.TIMEOUT: say("timeout"),
    Status.STALLED: say("stalled"),
    Status.CRASH: say("crash"),
    Status.KILLED: say("killed"),
    Status.LOST_NODE: say("lost node"),
    Status.INCOMPLETE: say("incomplete"),
    Status.UNSTEADY: say("unsteady"),
    Status.DISTURBED: say("disturbed"),
    Status.INSUFFICIENT: say("insufficient"),
    Status.UNSUPPORTED: say("unsupported"),
    Status.NOT_MEASURED: say("not measured"),
}
_REPEATS = ("samples_per_sec", "spread", "cv", "interval", "runs", "failed")
_INSIDE = ("step", "step_p95", "gflops", "share", "loss", "memory")


def status_word(status: Status) -> Text:
    """A status as people read it."""
    return _WORDS[status]


@dataclass(frozen=True, kw_only=True)
class TableContext:
    """A comparison under a view, with what its tables take from the rest of the report."""

    comparison: Comparison
    evidence: Evidence
    view: View = field(default_factory=View)
    ceilings: Mapping[tuple[str, int], float] = field(default_factory=dict)
    noise_profile: NoiseProfile | None = None

    @cached_property
    def base(self) -> Variant:
        """The arm under every ratio."""
        return self.view.base_of(self.comparison)

    def place(self, row: Row, variant: Variant) -> Place | None:
        """The case there; None where it has no figure."""
        figure = self.comparison.cases.get((row, variant))
        if figure is None or figure.summary is None:
            return None
        return Place(
            comparison=self.comparison,
            row=row,
            variant=variant,
            figure=figure,
            summary=figure.summary,
            base=self.base,
            ceilings=self.ceilings,
            noise_profile=self.noise_profile,
            price_per_device_hour=self.view.price_per_device_hour,
        )

    def places(self) -> Iterator[Place]:
        """The cases with a figure, row by row."""
        found = (self.place(row, variant) for row, variant in sorted(self.comparison.cases))
        return (place for place in found if place is not None)


def throughput_table(context: TableContext) -> Table:
    """The 2021 table: a row per cell, the columns of every framework, then the ratios to the baseline.

    The first column of a framework leads to the runs behind it.
    """
    comparison, variants = context.comparison, context.comparison.variants
    names = context.view.columns_of(comparison)
    own = [name for name in names if name != "ratio"]
    others = [variant for variant in variants if variant != context.base]
    headings = [*_row_columns(comparison)]
    headings += [_column_of(name, comparison.label(variant)) for variant in variants for name in own]
    if "ratio" in names:
        under = comparison.label(context.base)
        headings += columns(*(f"{comparison.label(variant)} / {under}" for variant in others), numbers=True)
    rows = []
    for row in comparison.rows:
        cells: list[Inline] = [*_row_cells(comparison, row)]
        places = {variant: context.place(row, variant) for variant in variants}
        for variant, place in places.items():
            cells += _cells_of_arm(context, comparison.cases.get((row, variant)), place, own)
        if "ratio" in names:
            cells += [
                COLUMNS["ratio"].cell(place) if (place := places[variant]) else "" for variant in others
            ]
        rows.append(tuple(cells))
    caption = say("Throughput: {experiment}", experiment=comparison.sample.workload.experiment)
    return Table(caption=caption, columns=tuple(headings), rows=tuple(rows))


def _column_of(name: str, label: str) -> Column:
    column = COLUMNS[name]
    heading = say("{framework} {column}", framework=label, column=column.heading)
    return Column(heading=heading, numbers=column.numbers)


def _cells_of_arm(
    context: TableContext, figure: CaseFigures | None, place: Place | None, names: Sequence[str]
) -> list[Inline]:
    if not names:
        return []
    if place is None or figure is None:
        word = ABSENT if figure is None else status_word(figure.status)
        return [word, *[""] * (len(names) - 1)]
    first, *rest = (COLUMNS[name].cell(place) for name in names)
    return [context.evidence.link(figure, first), *rest]


def repeats_table(context: TableContext) -> Table:
    """How far the runs of each case lie apart."""
    names = _REPEATS if context.noise_profile is None else (*_REPEATS, "noise_floor")
    return _case_table(context, names, caption=say("Spread of the repeats, samples/s"))


def inside_table(context: TableContext) -> Table:
    """What a step took and what it achieved, with the loss as a check that something was trained."""
    names = (*_INSIDE, "efficiency") if context.comparison.scales else _INSIDE
    return _case_table(context, names, caption=say("Inside a run (medians over the good runs)"))


def _case_table(context: TableContext, names: Sequence[str], *, caption: Text) -> Table:
    chosen = [COLUMNS[name] for name in names]
    return Table(
        caption=caption,
        columns=(
            *_case_columns(context.comparison),
            *(Column(heading=column.heading, numbers=column.numbers) for column in chosen),
        ),
        rows=tuple(
            (*_case_cells(context, place), *(column.cell(place) for column in chosen))
            for place in context.places()
        ),
    )


def breakdown_table(context: TableContext) -> Table | None:
    """Where the time of a profiled step goes; None where no engine told."""
    told = [place for place in context.places() if place.figure.phase_seconds]
    names = in_order({name: 0.0 for place in told for name in place.figure.phase_seconds})
    if not told:
        return None
    parts = (say("{phase} (s)", phase=phase_name(name)) for name in names)
    headings = (
        *_case_columns(context.comparison),
        *columns(*parts, say("sum (s)"), say("median measured step (s)"), numbers=True),
    )
    rows = [
        (
            *_case_cells(context, place),
            *(_phase_cell(place.figure.phase_seconds, name) for name in names),
            rate(sum(place.figure.phase_seconds.values())),
            rate(place.figure.step_seconds_median) or NOT_KNOWN,
        )
        for place in told
    ]
    caption = say(
        "Where the time goes (steps profiled behind the measured ones, rank 0, nothing overlapping)"
    )
    return Table(caption=caption, columns=headings, rows=tuple(rows))


def _phase_cell(seconds: Mapping[str, float], name: str) -> Inline:
    """An engine that runs a step as one graph tells no parts; one that tells them had none of this one."""
    return rate(seconds.get(name)) or (NOT_TOLD if GRAPH in seconds else NO_SUCH_PART)


def _extra(comparison: Comparison) -> list[str]:
    """The fields of a row that get a column only where they vary."""
    return [name for name in ("num_classes", "precision", "sample_ratio") if comparison.varying(name)]


def _row_columns(comparison: Comparison) -> tuple[Column, ...]:
    device = "gpu" if comparison.sample.device == "cuda" else "device"
    names = ("node_num", f"{device}_num_per_node", "batch_size_per_device")
    return columns(*names, *_extra(comparison), numbers=True)


def _row_cells(comparison: Comparison, row: Row) -> list[str]:
    shown = ("nodes", "devices_per_node", "batch_size_per_device", *_extra(comparison))
    return [row.shown(name) for name in shown]


def _case_columns(comparison: Comparison) -> tuple[Column, ...]:
    first = columns(say("framework"), say("topology"))
    return (*first, *columns(say("batch"), *_extra(comparison), numbers=True))


def _case_cells(context: TableContext, place: Place) -> Sequence[Inline]:
    """The name leads to the runs behind the whole row."""
    comparison, row = context.comparison, place.row
    extra = (row.shown(name) for name in _extra(comparison))
    label = context.evidence.link(place.figure, comparison.label(place.variant))
    return (label, row.topology, row.shown("batch_size_per_device"), *extra)


CaseKey = tuple["Path", str, str]


def case_key(figure: CaseFigures) -> CaseKey:
    """What no two cases of a report share."""
    return (figure.sweep, figure.hardware, figure.case.content_hash)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Anchors of the cases in the list of runs; empty where a report has no such list."""

    anchors: Mapping[CaseKey, str] = field(default_factory=dict)

    @classmethod
    def of(cls, figures: Sequence[CaseFigures]) -> Evidence:
        """Numbered in the order of the figures; a case without a run has no evidence."""
        ran = (figure for figure in figures if figure.runs)
        return cls(anchors={case_key(figure): f"e{number}" for number, figure in enumerate(ran, 1)})

    def link(self, figure: CaseFigures, content: Inline) -> Inline:
        """The content, leading to the runs of the case."""
        name = self.anchors.get(case_key(figure))
        return content if name is None or content == "" else Link(content, f"#{name}")

    def table(
        self,
        figures: Sequence[CaseFigures],
        *,
        report_folder: Path,
        sources: Mapping[Path, Mapping[str, str]],
    ) -> Table | None:
        """A row per run.

        Args:
            figures: the cases.
            report_folder: the folder of the report, from which the links to the run folders start.
            sources: of the run folders, `dlperf.results.query.run_sources`.
        """
        headings = (
            *columns(say("case"), say("run"), say("status")),
            *columns(say("samples/s"), numbers=True),
            *columns(say("SHA-256 of case, outcome and logs")),
        )
        rows = []
        for figure in figures:
            name = self.anchors.get(case_key(figure), "")
            for number, run in enumerate(figure.runs):
                case: Inline = figure.case.case_id
                result = run.result
                rows.append(
                    (
                        Anchor(case, name) if number == 0 else case,
                        Link(run.folder.name, link_to(run.folder, report_folder=report_folder) + "/"),
                        status_word(result.status),
                        rate(result.figures.samples_per_sec) if result.figures else "",
                        run_digest(sources[run.folder]) if run.folder in sources else "",
                    )
                )
        return Table(caption=say("Evidence"), columns=headings, rows=tuple(rows)) if rows else None


def link_to(path: Path, *, report_folder: Path) -> str:
    """The path from a folder on, quoted for a link."""
    folder = _relative(path.parent, report_folder)
    return quote(path.name if folder == os.curdir else f"{folder}/{path.name}", safe="/")


@lru_cache(maxsize=4096)
def _relative(folder: Path, report_folder: Path) -> str:
    """The way from one folder to another; the runs of a case share theirs."""
    return os.path.relpath(folder, report_folder)


def missing_cells_table(comparisons: Iterable[Comparison]) -> Table | None:
    """Every cell without a number and every run that failed beside good ones; None where there is none."""
    rows = tuple(row for comparison in comparisons for row in _gaps(comparison))
    if not rows:
        return None
    headings = (
        *columns(say("experiment"), say("parallelism"), say("framework"), say("topology"), say("batch")),
        *columns(say("classes"), say("precision"), say("status"), say("reason"), say("evidence")),
    )
    return Table(caption=say("Cells without a number"), columns=headings, rows=rows)


def _gaps(comparison: Comparison) -> Iterator[tuple[Inline, ...]]:
    for (row, variant), figure in sorted(comparison.cases.items()):
        case = figure.case
        ratio = f" {case.sample_ratio:g}" if case.sample_ratio is not None else ""
        place = (
            case.workload.experiment,
            case.parallelism + ratio,
            comparison.label(variant),
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


@dataclass(frozen=True, slots=True, order=True)
class _Cell:
    """What two sources must agree on to stand in one row; versions may differ, and are shown."""

    experiment: str
    parallelism: str
    row: Row
    framework: str
    workload: str  # its content: two experiment files of one name can differ


Source = tuple[str, str]  # name of the sweep or of the published data, hardware


def other_sources_table(loaded: Loaded, *, titles: Mapping[str, str]) -> Table | None:
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
    names = list(dict.fromkeys(source for sources in shared.values() for source in sources))
    headings = (
        *columns(say("framework"), say("workload"), say("parallelism"), say("topology")),
        *columns(say("batch"), say("classes"), numbers=True),
        *columns(say("precision")),
        *columns(*(f"{name} ({hardware})" for name, hardware in names), numbers=True),
        *columns(*(f"{name} / {names[0][0]}" for name, _ in names[1:]), numbers=True),
    )
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
    return Table(caption=caption, columns=headings, rows=tuple(rows))


def _median(figure: CaseFigures) -> float:
    return figure.summary.median if figure.summary else 0.0


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
