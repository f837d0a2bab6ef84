"""The columns that a table of cases can have: a heading, and the cell of a case with a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dlperf.errors import UserError
from dlperf.report.comparison import ROW_FIELDS, Comparison, Row, Variant
from dlperf.report.numbers import NOT_KNOWN, factor, giga, mebibytes, percent, rate
from dlperf.report.text import Inline, Text, say
from dlperf.results.cases import CaseFigures
from dlperf.results.noise_profile import NoiseProfile
from dlperf.statistics.basic import Interval, Summary, cost_per_million_samples, ratio_interval

# A ratio that may be ten times as large is not known at all.
WIDEST_RATIO: Final = 10.0


def interval_of_ratio(over: CaseFigures, under: CaseFigures) -> Interval | None:
    """The 95 % interval of over / under; None where one of them has fewer than two good runs."""
    return ratio_interval(
        [run.samples_per_sec for run in over.good], [run.samples_per_sec for run in under.good]
    )


def too_wide(interval: Interval) -> bool:
    """Whether an interval says nothing of its ratio."""
    return interval.high > WIDEST_RATIO * interval.low


ONE_RUN = say("one run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A case with a figure, where it stands, and what its columns need to know of the rest.

    `ceilings` are the best matrix product rates of a device, by hardware and threads per device.
    """

    comparison: Comparison
    row: Row
    variant: Variant
    figure: CaseFigures
    summary: Summary
    base: Variant
    ceilings: Mapping[tuple[str, int], float] = field(default_factory=dict)
    noise_profile: NoiseProfile | None = None
    price_per_device_hour: float | None = None

    @property
    def devices(self) -> int:
        """Over all nodes."""
        return self.row.nodes * self.row.devices_per_node

    @property
    def speedup(self) -> float | None:
        """Against one device; None where that was not measured."""
        return self.comparison.speedups.get((self.row, self.variant))


@dataclass(frozen=True, slots=True)
class CaseColumn:
    """One column; `numbers` aligns it to the right."""

    heading: Text
    cell: Callable[[Place], Inline]
    numbers: bool = True


def _min_to_max(place: Place) -> Inline:
    return say("{low} to {high}", low=rate(place.summary.minimum), high=rate(place.summary.maximum))


def _interval(place: Place) -> Inline:
    interval = place.summary.interval
    return say("{low} to {high}", low=rate(interval.low), high=rate(interval.high)) if interval else ONE_RUN


def _efficiency(place: Place) -> Inline:
    speedup = place.speedup
    return NOT_KNOWN if speedup is None else percent(speedup / place.devices, decimals=0)


def _share(place: Place) -> Inline:
    return percent(share_of_ceiling(place.figure, place.ceilings), decimals=0) or NOT_KNOWN


def _loss(place: Place) -> Inline:
    if not place.figure.good:
        return NOT_KNOWN
    first, last = place.figure.good[0].loss_first, place.figure.good[0].loss_last
    if first is None:
        return say("not printed")
    if last is None:
        return say("{first} to not finite", first=f"{first:#.4g}")
    return say("{low} to {high}", low=f"{first:#.4g}", high=f"{last:#.4g}")


def _noise_floor(place: Place) -> Inline:
    figure, noise_profile = place.figure, place.noise_profile
    if noise_profile is None:
        return say("not measured")
    cases = [(figure.case, figure.hardware)]
    floor = noise_profile.floor(cases, "samples_per_sec", in_turns=True)
    return say("not measured") if floor is None else percent(floor.value)


def _cost(place: Place) -> Inline:
    if place.price_per_device_hour is None:
        return NOT_KNOWN
    return rate(
        cost_per_million_samples(
            place.summary.median, devices=place.devices, price_per_device_hour=place.price_per_device_hour
        )
    )


def ratio_cell(over: CaseFigures | None, under: CaseFigures | None) -> Inline:
    """Over / under with the interval of the ratio; empty where one has no figure."""
    if over is None or under is None or over.summary is None or under.summary is None:
        return ""
    ratio = factor(over.summary.median / under.summary.median)
    interval = interval_of_ratio(over, under)
    if interval is None:
        return ratio
    if too_wide(interval):
        return say("{ratio} (interval too wide)", ratio=ratio)
    low, high = factor(interval.low), factor(interval.high)
    return say("{ratio} ({low} to {high})", ratio=ratio, low=low, high=high)


def _ratio(place: Place) -> Inline:
    if place.variant == place.base:
        return ""
    return ratio_cell(place.figure, place.comparison.cases.get((place.row, place.base)))


def _of_runs(cell: Callable[[Place], Inline]) -> Callable[[Place], Inline]:
    """The cell; of a published figure whose single runs the source does not print, that it does not."""
    return lambda place: (
        say("not printed") if place.figure.published and place.summary.runs == 1 else cell(place)
    )


COLUMNS: Mapping[str, CaseColumn] = {
    "samples_per_sec": CaseColumn(say("samples/s"), lambda place: rate(place.summary.median)),
    "speedup": CaseColumn(say("speedup"), lambda place: factor(place.speedup)),
    "efficiency": CaseColumn(say("scaling efficiency"), _efficiency),
    "ratio": CaseColumn(say("ratio"), _ratio),
    "spread": CaseColumn(say("min to max"), _of_runs(_min_to_max)),
    "cv": CaseColumn(say("CV"), _of_runs(lambda place: percent(place.summary.cv) or ONE_RUN)),
    "interval": CaseColumn(say("95 % interval of the mean"), _of_runs(_interval)),
    "noise_floor": CaseColumn(say("A/A noise floor"), _noise_floor),
    "runs": CaseColumn(say("good runs"), _of_runs(lambda place: str(place.summary.runs))),
    "failed": CaseColumn(say("failed runs"), _of_runs(lambda place: str(len(place.figure.failed)))),
    "step": CaseColumn(
        say("median step (s)"), lambda place: rate(place.figure.step_seconds_median) or NOT_KNOWN
    ),
    "step_p95": CaseColumn(
        say("p95 step (s)"), lambda place: rate(place.figure.step_seconds_p95) or NOT_KNOWN
    ),
    "gflops": CaseColumn(
        say("model GFLOP/s"), lambda place: giga(place.figure.model_flops_per_second) or NOT_KNOWN
    ),
    "share": CaseColumn(say("share of matmul rate"), _share),
    "loss": CaseColumn(say("loss, first to last"), _loss, numbers=False),
    "memory": CaseColumn(
        say("peak memory of a rank (MiB)"),
        lambda place: mebibytes(place.figure.peak_memory_bytes) or NOT_KNOWN,
    ),
    "cost": CaseColumn(say("cost of a million samples"), _cost),
}


def share_of_ceiling(figure: CaseFigures, ceilings: Mapping[tuple[str, int], float]) -> float | None:
    """Model FLOP/s over the best matrix product rate of as many devices; None where either is not known.

    The product was of float32: of a case in another precision it says nothing.
    """
    case, flops = figure.case, figure.model_flops_per_second
    if case.precision != "fp32":
        return None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How results are looked at; nothing of it changes a figure.

    Args:
        columns: names of `COLUMNS` for the main table; none takes samples/s, speedup and ratio.
        baseline: the framework that ratios are taken to, `name` or `name==version`; None takes the first.
        group_by: fields of `ROW_FIELDS`; each of their values gets tables of its own.
        price_per_device_hour: of one device, in any currency.
    """

    columns: tuple[str, ...] = ()
    baseline: str | None = None
    group_by: tuple[str, ...] = ()
    price_per_device_hour: float | None = None

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

    def base_of(self, comparison: Comparison) -> Variant:
        """The arm under every ratio: the baseline, or the first where the table does not hold it."""
        variants = comparison.variants
        return next((variant for variant in variants if self.is_baseline(variant)), variants[0])

    def is_baseline(self, variant: Variant) -> bool:
        """Whether the baseline's name means the arm."""
        return self.baseline in {variant.framework, f"{variant.framework}=={variant.version}"}


def check_baseline(view: View, variants: Iterable[Variant]) -> None:
    """Raise UserError where no arm of the report is the baseline."""
    known = sorted({f"{variant.framework}=={variant.version}" for variant in variants})
    if view.baseline is not None and known and not any(view.is_baseline(variant) for variant in variants):
        raise UserError(f"no results of the baseline {view.baseline!r}; there are {', '.join(known)}")


def _known(names: Sequence[str], known: Iterable[str], *, what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"no {what} is named {unknown[0]!r}; known: {', '.join(known)}")
