"""The columns that a table of cases can have: a heading, and the cell of a case with a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dlperf.report.numbers import NOT_KNOWN, factor, giga, mebibytes, percent, rate
from dlperf.report.ratio import interval_of_ratio, too_wide
from dlperf.report.text import Text, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dlperf.report.comparison import Arm, Comparison, Row
    from dlperf.report.text import Inline
    from dlperf.results.cases import CaseFigures
    from dlperf.results.noise_profile import NoiseProfile
    from dlperf.statistics.basic import Summary

ONE_RUN = say("one run")
_SECONDS_AN_HOUR = 3600
_MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A case with a figure, where it stands, and what its columns need to know of the rest.

    `ceilings` are the best matrix product rates of a device, by hardware and threads a device.
    """

    comparison: Comparison
    row: Row
    arm: Arm
    figure: CaseFigures
    summary: Summary
    base: Arm
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
        return self.comparison.speedups.get((self.row, self.arm))


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


def cost_per_million_samples(samples_per_sec: float, *, devices: int, price_per_device_hour: float) -> float:
    """In the price's currency: hours that a million samples take x devices x price."""
    return _MILLION / samples_per_sec / _SECONDS_AN_HOUR * devices * price_per_device_hour


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
    if place.arm == place.base:
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
