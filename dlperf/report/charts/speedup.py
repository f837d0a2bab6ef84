"""Lines: samples/s over that of one device against the number of devices, beside the ideal line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dlperf.report.charts.canvas import Chart, Palette, varying
from dlperf.report.charts.lines import Across, Axis, Line, line_chart
from dlperf.report.ratio import interval_of_ratio, too_wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.report.comparison import Arm, Comparison, Row

SPEEDUP = Axis(name="times the samples/s of one device", numbers="factor", ideal=float)


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no framework was measured on several numbers of devices, or too many were."""
    lines = speedup_lines(comparison, palette)
    return line_chart(
        lines,
        axis=with_whiskers(SPEEDUP, lines),
        across=devices(comparison),
        name="speedup",
        title=f"Speedup: {title}",
        alt=f"Line chart, speedup against one device, {title}.",
    )


def speedup_lines(comparison: Comparison, palette: Palette) -> list[Line]:
    """Speedup over devices of each framework, and of whatever else varies; a line takes two points.

    Whiskers are the 95 % interval of the ratio to one device, where the runs give one that says something.
    """
    variants: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Arm, tuple[str, ...]], list[tuple[int, float, tuple[float, float]]]] = {}
    for row, arm in sorted(comparison.cases):
        variant = tuple(varying(comparison, row))
        variants.setdefault(variant, len(variants))
        speedup = comparison.speedups.get((row, arm))
        if speedup is not None:
            size, whisker = row.nodes * row.devices_per_node, _whisker(comparison, row, arm)
            points.setdefault((arm, variant), []).append((size, speedup, whisker or (speedup, speedup)))
    return [
        Line(
            label=", ".join([comparison.label(arm), *variant]),
            colour=palette.colour(arm),
            variant=variants[variant],
            points=tuple((size, speedup) for size, speedup, _ in sorted(found)),
            whiskers=tuple(whisker for _, _, whisker in sorted(found)),
        )
        for (arm, variant), found in sorted(points.items())
        if len(found) > 1
    ]


def _whisker(comparison: Comparison, row: Row, arm: Arm) -> tuple[float, float] | None:
    """None where there is no interval, and on one device, whose speedup is 1 by definition."""
    alone = replace(row, nodes=1, devices_per_node=1)
    figure, single = comparison.cases[row, arm], comparison.cases.get((alone, arm))
    interval = interval_of_ratio(figure, single) if row != alone and single is not None else None
    return None if interval is None or too_wide(interval) else (interval.low, interval.high)


def with_whiskers(axis: Axis, lines: Sequence[Line]) -> Axis:
    """The axis, which says what the whiskers are where there are any."""
    some = any(low < high for line in lines for low, high in line.whiskers)
    return replace(axis, name=f"{axis.name}\n(whiskers: 95 % interval)") if some else axis


def devices(comparison: Comparison) -> Across:
    """The numbers of devices, each with the topologies that have it."""
    sizes = sorted({row.nodes * row.devices_per_node for row in comparison.rows})
    return Across(name="devices", ticks={size: _tick(comparison, size) for size in sizes})


def _tick(comparison: Comparison, size: int) -> str:
    names = dict.fromkeys(row.topology for row in comparison.rows if row.nodes * row.devices_per_node == size)
    return "\n".join([str(size), *names])
