"""The tables of a comparison. Where a number would stand and there is none, its status stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.markdown import Column, Markdown, Table, code
from dlperf.report.numbers import NOT_KNOWN, factor, giga, mebibytes, percent, plural, rate, span
from dlperf.report.phases import GRAPH, in_order, phase_name
from dlperf.results.planned import NOT_YET
from dlperf.results.schema import Status
from dlperf.results.statistics import ratio_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dlperf.report.comparison import Arm, Comparison, Row
    from dlperf.results.figures import CaseFigures
    from dlperf.results.store import StoredRun

ABSENT = "not in the sweep"
NOT_TOLD = "not told"
# A ratio that may be ten times as large is not known at all.
WIDEST_RATIO = 10.0
_WORDS = {
    Status.OOM: "out of memory",
    Status.LOST_NODE: "lost node",
    Status.NOT_MEASURED: "not measured",
}


def status_word(status: Status) -> str:
    """A status as people read it."""
    return _WORDS.get(status, status.value)


def throughput_table(comparison: Comparison) -> Table:
    """The 2021 table: a row a cell, samples/s of every framework, speedups, ratios to the first."""
    arms, base = comparison.arms, comparison.arms[0]
    columns = [*_row_columns(comparison)]
    for arm in arms:
        columns.append(Column(heading=f"{comparison.label(arm)} samples/s", numbers=True))
        if comparison.scales:
            columns.append(Column(heading="speedup", numbers=True))
    columns += [
        Column(heading=f"{comparison.label(arm)} / {comparison.label(base)}", numbers=True)
        for arm in arms[1:]
    ]
    rows = []
    for row in comparison.rows:
        cells = [*_row_cells(comparison, row)]
        for arm in arms:
            cells.append(_rate_cell(comparison.cases.get((row, arm))))
            if comparison.scales:
                cells.append(factor(comparison.speedups.get((row, arm))))
        cells += [_ratio_cell(comparison, row, arm=arm, base=base) for arm in arms[1:]]
        rows.append(tuple(cells))
    return Table(columns=tuple(columns), rows=tuple(rows))


def repeats_table(comparison: Comparison) -> Table:
    """How far the runs of each case lie apart."""
    columns = (
        *_case_columns(comparison),
        Column(heading="samples/s", numbers=True),
        Column(heading="min to max", numbers=True),
        Column(heading="CV", numbers=True),
        Column(heading="95 % interval of the mean", numbers=True),
        Column(heading="good runs", numbers=True),
        Column(heading="failed runs", numbers=True),
    )
    rows = []
    for row, arm, figure in _with_figures(comparison):
        summary = figure.summary
        interval = summary.interval if summary else None
        rows.append(
            (
                *_case_cells(comparison, row, arm),
                rate(summary.median if summary else None),
                span(summary.minimum, summary.maximum) if summary else "",
                percent(summary.cv if summary else None) or "one run",
                span(interval.low, interval.high) if interval else "one run",
                str(summary.runs if summary else 0),
                str(len(figure.failed)),
            )
        )
    return Table(columns=columns, rows=tuple(rows))


def inside_table(comparison: Comparison, *, ceilings: Mapping[tuple[str, int], float]) -> Table:
    """What a step took and what it achieved, with the loss as a check that something was trained.

    `ceilings` are the best matrix product rates of a device, by hardware and threads a device.
    """
    columns = (
        *_case_columns(comparison),
        Column(heading="median step (s)", numbers=True),
        Column(heading="p95 step (s)", numbers=True),
        Column(heading="model GFLOP/s", numbers=True),
        Column(heading="share of matmul rate", numbers=True),
        Column(heading="loss, first to last"),
        Column(heading="peak memory of a rank (MiB)", numbers=True),
    )
    rows = [
        (
            *_case_cells(comparison, row, arm),
            rate(figure.step_seconds_median) or NOT_KNOWN,
            rate(figure.step_seconds_p95) or NOT_KNOWN,
            giga(figure.model_flops_per_second) or NOT_KNOWN,
            percent(share_of_ceiling(figure, ceilings), decimals=0) or NOT_KNOWN,
            _losses(figure),
            mebibytes(figure.peak_memory_bytes) or NOT_KNOWN,
        )
        for row, arm, figure in _with_figures(comparison)
    ]
    return Table(columns=columns, rows=tuple(rows))


def breakdown_table(comparison: Comparison) -> Table | None:
    """Where the time of a profiled step goes; None where no engine told."""
    told = [(row, arm, figure) for row, arm, figure in _with_figures(comparison) if figure.phase_seconds]
    names = in_order({name: 0.0 for _, _, figure in told for name in figure.phase_seconds})
    if not told:
        return None
    columns = (
        *_case_columns(comparison),
        *(Column(heading=f"{phase_name(name)} (s)", numbers=True) for name in names),
        Column(heading="sum (s)", numbers=True),
        Column(heading="median measured step (s)", numbers=True),
    )
    rows = [
        (
            *_case_cells(comparison, row, arm),
            *(_phase_cell(figure.phase_seconds, name) for name in names),
            rate(sum(figure.phase_seconds.values())),
            rate(figure.step_seconds_median) or NOT_KNOWN,
        )
        for row, arm, figure in told
    ]
    return Table(columns=columns, rows=tuple(rows))


def _phase_cell(seconds: dict[str, float], name: str) -> str:
    """An engine that runs a step as one graph tells no parts; one that tells them had none of this one."""
    return rate(seconds.get(name)) or (NOT_TOLD if GRAPH in seconds else "none")


def share_of_ceiling(figure: CaseFigures, ceilings: Mapping[tuple[str, int], float]) -> float | None:
    """Model FLOP/s over the best matrix product rate of as many devices; None where either is not known."""
    case, flops = figure.case, figure.model_flops_per_second
    ceiling = ceilings.get((figure.hardware, case.threads_per_device))
    return flops / (ceiling * case.topology.world_size) if flops is not None and ceiling is not None else None


def ceilings(figures: Iterable[CaseFigures]) -> dict[tuple[str, int], float]:
    """The best rate that any engine reached with a large matrix product on one device."""
    best: dict[tuple[str, int], float] = {}
    for figure in figures:
        measured, key = figure.matmul_flops_per_second, (figure.hardware, figure.case.threads_per_device)
        if measured is not None:
            best[key] = max(measured, best.get(key, 0.0))
    return best


def gaps_table(comparisons: Iterable[Comparison]) -> Table | None:
    """Every cell without a number and every run that failed beside good ones; None where there is none."""
    rows = [row for comparison in comparisons for row in _gaps(comparison)]
    if not rows:
        return None
    headings = (
        "experiment",
        "parallelism",
        "framework",
        "topology",
        "batch",
        "classes",
        "precision",
        "status",
        "reason",
        "evidence",
    )
    return Table(columns=tuple(Column(heading=heading) for heading in headings), rows=tuple(rows))


def _gaps(comparison: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for (row, arm), figure in sorted(comparison.cases.items()):
        case = figure.case
        ratio = f" {case.sample_ratio:g}" if case.sample_ratio is not None else ""
        place = (
            case.workload.experiment,
            case.parallelism + ratio,
            comparison.label(arm),
            row.topology,
            str(row.batch_size_per_device),
            str(row.num_classes),
            row.precision,
        )
        if not figure.runs:
            rows.append((*place, status_word(figure.status), figure.reason or "", ""))
        rows += [(*place, *_failed_cells(run, of=len(figure.runs))) for run in figure.failed]
        if figure.runs and figure.missing_runs:
            status = f"{status_word(Status.NOT_MEASURED)} ({plural(figure.missing_runs, 'run')})"
            rows.append((*place, status, NOT_YET, ""))
    return rows


def _failed_cells(run: StoredRun, *, of: int) -> tuple[str, str, Markdown]:
    result = run.result
    reason, evidence = result.reason or "", result.evidence or ""
    place, _, text = evidence.partition(": ")
    return (
        f"{status_word(result.status)} (run {result.repeat} of {of})",
        reason,
        code(place if text in reason else evidence),
    )


_ROW_HEADINGS = (
    ("num_classes", "num_classes"),
    ("precision", "precision"),
    ("sample_ratio", "sample_ratio"),
)


def _row_columns(comparison: Comparison) -> Iterable[Column]:
    device = "gpu" if comparison.sample.device == "cuda" else "device"
    yield Column(heading="node_num", numbers=True)
    yield Column(heading=f"{device}_num_per_node", numbers=True)
    yield Column(heading="batch_size_per_device", numbers=True)
    for name, heading in _ROW_HEADINGS:
        if comparison.varying(name):
            yield Column(heading=heading, numbers=True)


def _row_cells(comparison: Comparison, row: Row) -> Iterable[str]:
    yield str(row.nodes)
    yield str(row.devices_per_node)
    yield str(row.batch_size_per_device)
    for name, _ in _ROW_HEADINGS:
        if comparison.varying(name):
            yield _plain_value(getattr(row, name))


def _case_columns(comparison: Comparison) -> Sequence[Column]:
    extra = (
        Column(heading=heading, numbers=True) for name, heading in _ROW_HEADINGS if comparison.varying(name)
    )
    return (
        Column(heading="framework"),
        Column(heading="topology"),
        Column(heading="batch", numbers=True),
        *extra,
    )


def _case_cells(comparison: Comparison, row: Row, arm: Arm) -> Sequence[str]:
    extra = (_plain_value(getattr(row, name)) for name, _ in _ROW_HEADINGS if comparison.varying(name))
    return (comparison.label(arm), row.topology, str(row.batch_size_per_device), *extra)


def _plain_value(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_figures(comparison: Comparison) -> Iterable[tuple[Row, Arm, CaseFigures]]:
    for (row, arm), figure in sorted(comparison.cases.items()):
        if figure.summary is not None:
            yield row, arm, figure


def _rate_cell(figure: CaseFigures | None) -> str:
    if figure is None:
        return ABSENT
    return rate(figure.summary.median) if figure.summary else status_word(figure.status)


def _ratio_cell(comparison: Comparison, row: Row, *, arm: Arm, base: Arm) -> str:
    over, under = comparison.cases.get((row, arm)), comparison.cases.get((row, base))
    if over is None or under is None or over.summary is None or under.summary is None:
        return ""
    ratio = factor(over.summary.median / under.summary.median)
    interval = ratio_interval(
        [run.samples_per_sec for run in over.good], [run.samples_per_sec for run in under.good]
    )
    if interval is None:
        return ratio
    if interval.high > WIDEST_RATIO * interval.low:
        return f"{ratio} (interval too wide)"
    return f"{ratio} ({factor(interval.low)} to {factor(interval.high)})"


def _losses(figure: CaseFigures) -> str:
    if not figure.good:
        return NOT_KNOWN
    first, last = figure.good[0].loss_first, figure.good[0].loss_last
    if first is None:
        return "not printed"
    return f"{first:.4g} to {last:.4g}" if last is not None else f"{first:.4g} to not finite"
