"""The columns that a table of cases can have: a heading, and the cell of a case with a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from dlperf.errors import UserError
from dlperf.report.comparison import CaseKey, Comparison, Row, Variant, case_key
from dlperf.report.numbers import NOT_KNOWN, factor, giga, mebibytes, percent, rate
from dlperf.report.text import Inline, Link, Text, say
from dlperf.results.cases import ROW_FIELDS, CaseFigures
from dlperf.results.noise_profile import NoiseProfile
from dlperf.statistics.basic import Interval, Summary, cost_per_million_samples, ratio_interval

# A ratio that may be ten times as large is not known at all.
WIDEST_RATIO: Final = 10.0
ONE_RUN = say("one run")
NOT_MEASURED = say("not measured")


def interval_of_ratio(over: CaseFigures, under: CaseFigures) -> Interval | None:
    """The 95 % interval of over / under; None where one of them has fewer than three good runs."""
    return ratio_interval(
        [run.samples_per_sec for run in over.good], [run.samples_per_sec for run in under.good]
    )


def too_wide(interval: Interval) -> bool:
    """Whether an interval says nothing of its ratio."""
    return interval.high > WIDEST_RATIO * interval.low


@dataclass(frozen=True, kw_only=True)
class TableContext:
    """A comparison under a view, with what its tables take from the rest of the report."""

    comparison: Comparison
    view: View
    anchors: Mapping[CaseKey, str]  # of the cases in the list of runs
    shares: Mapping[CaseKey, float | None]  # `matmul_shares`
    noise_profile: NoiseProfile | None

    @cached_property
    def base(self) -> Variant:
        """The variant under every ratio: the baseline, or the first where the table does not hold it."""
        variants = self.comparison.variants
        return next((variant for variant in variants if self.view.is_baseline(variant)), variants[0])

    def cell(self, row: Row, variant: Variant) -> TableCell | None:
        """The case there; None where it has no figure."""
        figure = self.comparison.cases.get((row, variant))
        if figure is None or figure.summary is None:
            return None
        return TableCell(context=self, row=row, variant=variant, figure=figure, summary=figure.summary)

    def cells(self) -> Iterator[TableCell]:
        """The cases with a figure, row by row."""
        found = (self.cell(row, variant) for row, variant in sorted(self.comparison.cases))
        return (cell for cell in found if cell is not None)

    def link(self, figure: CaseFigures, content: Inline) -> Inline:
        """The content, leading to the runs of the case."""
        name = self.anchors.get(case_key(figure))
        return content if name is None or content == "" else Link(content, f"#{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCell:
    """A case with a figure where it stands."""

    context: TableContext
    row: Row
    variant: Variant
    figure: CaseFigures
    summary: Summary

    @property
    def devices(self) -> int:
        """Over all nodes."""
        return self.row.nodes * self.row.devices_per_node

    @property
    def speedup(self) -> float | None:
        """Against one device; None where that was not measured."""
        return self.context.comparison.speedups.get((self.row, self.variant))


@dataclass(frozen=True, slots=True)
class CaseColumn:
    """One column; `numbers` aligns it to the right."""

    heading: Inline
    cell: Callable[[TableCell], Inline]
    numbers: bool = True


def _min_to_max(cell: TableCell) -> Inline:
    return say("{low} to {high}", low=rate(cell.summary.minimum), high=rate(cell.summary.maximum))


def _interval(cell: TableCell) -> Inline:
    summary, interval = cell.summary, cell.summary.interval
    if interval is not None:
        return say("{low} to {high}", low=rate(interval.low), high=rate(interval.high))
    if summary.runs == 1:
        return ONE_RUN
    return say("{low} and {high} alone", low=rate(summary.minimum), high=rate(summary.maximum))


def _efficiency(cell: TableCell) -> Inline:
    return NOT_KNOWN if cell.speedup is None else percent(cell.speedup / cell.devices, decimals=0)


def _share(cell: TableCell) -> Inline:
    return percent(cell.context.shares.get(case_key(cell.figure)), decimals=0) or NOT_KNOWN


def _loss(cell: TableCell) -> Inline:
    if not cell.figure.good:
        return NOT_KNOWN
    first, last = cell.figure.good[0].loss_first, cell.figure.good[0].loss_last
    if first is None:
        return say("not printed")
    if last is None:
        return say("{first} to not finite", first=f"{first:#.4g}")
    return say("{low} to {high}", low=f"{first:#.4g}", high=f"{last:#.4g}")


def noise_floor(noise_profile: NoiseProfile | None, figure: CaseFigures) -> float | None:
    """The A/A noise floor of a case's samples/s, as a fraction; None where it was not measured."""
    if noise_profile is None:
        return None
    floor = noise_profile.floor([(figure.case, figure.hardware)], "samples_per_sec", in_turns=True)
    return None if floor is None else floor.value


def interference(figure: CaseFigures) -> float | None:
    """The largest share of CPU time that other work took from a good run; None where none measured it."""
    good = (run.result.interference for run in figure.good_runs)
    return max((measured.share for measured in good if measured is not None), default=None)


def _cost(cell: TableCell) -> Inline:
    price = cell.context.view.price_per_device_hour
    if price is None:
        return NOT_KNOWN
    return rate(
        cost_per_million_samples(cell.summary.median, devices=cell.devices, price_per_device_hour=price)
    )


def ratio_cell(over: CaseFigures | None, under: CaseFigures | None) -> Inline:
    """Over / under with the interval of the ratio; empty where one has no figure."""
    if over is None or under is None or over.summary is None or under.summary is None:
        return ""
    ratio = factor(over.summary.median / under.summary.median)
    interval = interval_of_ratio(over, under)
    if interval is None:
        return ratio
    # One that excludes 1 says who is faster, however wide it is.
    if too_wide(interval) and interval.low <= 1 <= interval.high:
        return say("{ratio} (interval too wide)", ratio=ratio)
    return say("{ratio} ({low} to {high})", ratio=ratio, low=factor(interval.low), high=factor(interval.high))


def _of_runs(content: Callable[[TableCell], Inline]) -> Callable[[TableCell], Inline]:
    """The cell; of a published figure whose single runs the source does not print, that it does not."""
    return lambda cell: (
        say("not printed") if cell.figure.published and cell.summary.runs == 1 else content(cell)
    )


def rate_as_read(figure: CaseFigures) -> str:
    """The figure, with no more digits than a published one has: `894 ± 35` of a chart, `~5200` if rounded."""
    if figure.summary is None:
        return ""
    printed, median = figure.published, figure.summary.median
    if printed is not None and printed.uncertainty is not None:
        return f"{median:.0f} ± {printed.uncertainty:g}"
    if printed is not None and printed.reading == "rounded":
        return f"~{median:.0f}"
    return rate(median)


COLUMNS: Mapping[str, CaseColumn] = {
    "samples_per_sec": CaseColumn(say("samples/s"), lambda cell: rate_as_read(cell.figure)),
    "speedup": CaseColumn(say("speedup"), lambda cell: factor(cell.speedup)),
    "efficiency": CaseColumn(say("scaling efficiency"), _efficiency),
    "ratio": CaseColumn(
        say("ratio"),
        lambda cell: ratio_cell(
            cell.figure, cell.context.comparison.cases.get((cell.row, cell.context.base))
        ),
    ),
    "spread": CaseColumn(say("min to max"), _of_runs(_min_to_max)),
    "cv": CaseColumn(say("CV"), _of_runs(lambda cell: percent(cell.summary.cv) or ONE_RUN)),
    "interval": CaseColumn(say("95 % interval of the mean"), _of_runs(_interval)),
    "noise_floor": CaseColumn(
        say("A/A noise floor"),
        lambda cell: percent(noise_floor(cell.context.noise_profile, cell.figure)) or NOT_MEASURED,
    ),
    "interference": CaseColumn(
        say("CPU time lost to other work, at most"),
        lambda cell: percent(interference(cell.figure)) or NOT_MEASURED,
    ),
    "waiting": CaseColumn(
        say("waiting for data"), lambda cell: percent(cell.figure.data_wait_share, decimals=1) or NOT_MEASURED
    ),
    "runs": CaseColumn(say("good runs"), _of_runs(lambda cell: str(cell.summary.runs))),
    "failed": CaseColumn(say("runs without a figure"), _of_runs(lambda cell: str(len(cell.figure.failed)))),
    "step": CaseColumn(
        say("median step (s)"), lambda cell: rate(cell.figure.step_seconds_median) or NOT_KNOWN
    ),
    "step_p95": CaseColumn(say("p95 step (s)"), lambda cell: rate(cell.figure.step_seconds_p95) or NOT_KNOWN),
    "gflops": CaseColumn(
        say("model GFLOP/s"), lambda cell: giga(cell.figure.model_flops_per_second) or NOT_KNOWN
    ),
    "share": CaseColumn(say("share of matmul rate"), _share),
    "loss": CaseColumn(say("loss, first to last"), _loss, numbers=False),
    "memory": CaseColumn(say("peak memory of a rank (MiB)"), lambda _: NOT_KNOWN),
    "cost": CaseColumn(say("cost of a million samples"), _cost),
}


def _peak(name: str, heading: Text) -> CaseColumn:
    return CaseColumn(heading, lambda cell: mebibytes(cell.figure.peaks.get(name)) or NOT_KNOWN)


# `memory` stands for those of these that were measured: never two kinds in one column.
_PEAKS: Final[Mapping[str, CaseColumn]] = {
    "peak_anonymous_bytes": _peak("peak_anonymous_bytes", say("peak anonymous memory of a rank (MiB)")),
    "peak_device_bytes": _peak("peak_device_bytes", say("peak device memory of a rank (MiB)")),
    "peak_allocated_bytes": _peak("peak_allocated_bytes", say("peak memory allocated by tensors (MiB)")),
    "peak_reserved_bytes": _peak("peak_reserved_bytes", say("peak memory reserved by the allocator (MiB)")),
    "peak_memory_bytes": _peak("peak_memory_bytes", say("peak resident memory of a rank (MiB)")),
}


def columns_of(names: Iterable[str], figures: Iterable[CaseFigures]) -> list[CaseColumn]:
    """The columns of `COLUMNS` that are named, as the figures have them."""
    measured = {name for figure in figures for name in figure.peaks}
    peaks = [column for name, column in _PEAKS.items() if name in measured]
    return [column for name in names for column in (peaks if name == "memory" and peaks else [COLUMNS[name]])]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How results are looked at; nothing of it changes a figure."""

    columns: tuple[str, ...] = ()  # of `COLUMNS` in the main table; none takes samples/s, speedup and ratio
    baseline: str | None = None  # that ratios are taken to, `name` or `name==version`; None takes the first
    group_by: tuple[str, ...] = ()  # fields of `ROW_FIELDS`; each of their values gets tables of its own
    price_per_device_hour: float | None = None  # in any currency

    def __post_init__(self) -> None:
        _known(self.columns, COLUMNS, what="column")
        _known(self.group_by, ROW_FIELDS, what="field to group by")
        if "cost" in self.columns and self.price_per_device_hour is None:
            raise UserError("the column cost needs --price-per-device-hour")
        price = self.price_per_device_hour
        if price is not None and not (math.isfinite(price) and price > 0):
            raise UserError(f"--price-per-device-hour {price:g}: a price is a finite number above 0")

    def columns_of(self, comparison: Comparison) -> tuple[str, ...]:
        """The names of the main table's columns."""
        if self.columns:
            return self.columns
        speedup = ("speedup",) if comparison.scales else ()
        cost = ("cost",) if self.price_per_device_hour is not None else ()
        return ("samples_per_sec", *speedup, *cost, "ratio")

    def is_baseline(self, variant: Variant) -> bool:
        """Whether the baseline's name means the variant."""
        return self.baseline in {variant.framework, f"{variant.framework}=={variant.version}"}


def check_baseline(view: View, variants: Iterable[Variant]) -> None:
    """Raise UserError where no variant of the report is the baseline."""
    known = sorted({f"{variant.framework}=={variant.version}" for variant in variants})
    if view.baseline is not None and known and not any(view.is_baseline(variant) for variant in variants):
        raise UserError(f"no results of the baseline {view.baseline!r}; there are {', '.join(known)}")


def _known(names: Sequence[str], known: Iterable[str], *, what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"no {what} is named {unknown[0]!r}; known: {', '.join(known)}")
