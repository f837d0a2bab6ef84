"""Lines: samples/s over that of one device against the number of devices, beside the ideal line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.charts.canvas import Chart, Palette, varying
from dlperf.report.charts.lines import Across, Axis, Line, line_chart
from dlperf.report.numbers import factor

if TYPE_CHECKING:
    from dlperf.report.comparison import Arm, Comparison

SPEEDUP = Axis(name="times the samples/s of one device", written=factor, ideal=float)


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no framework was measured on several numbers of devices, or too many were."""
    return line_chart(
        speedup_lines(comparison, palette),
        axis=SPEEDUP,
        across=devices(comparison),
        name="speedup",
        title=f"Speedup: {title}",
        alt=f"Line chart, speedup against one device, {title}.",
    )


def speedup_lines(comparison: Comparison, palette: Palette) -> list[Line]:
    """Speedup over devices of each framework, and of whatever else varies; a line takes two points."""
    variants: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Arm, tuple[str, ...]], list[tuple[int, float]]] = {}
    for row, arm in sorted(comparison.cases):
        variant = tuple(varying(comparison, row))
        variants.setdefault(variant, len(variants))
        speedup = comparison.speedups.get((row, arm))
        if speedup is not None:
            points.setdefault((arm, variant), []).append((row.nodes * row.devices_per_node, speedup))
    return [
        Line(
            label=", ".join([comparison.label(arm), *variant]),
            colour=palette.colour(arm),
            variant=variants[variant],
            points=tuple(sorted(found)),
        )
        for (arm, variant), found in sorted(points.items())
        if len(found) > 1
    ]


def devices(comparison: Comparison) -> Across:
    """The numbers of devices, each with the topologies that have it."""
    sizes = sorted({row.nodes * row.devices_per_node for row in comparison.rows})
    return Across(name="devices", ticks={size: _tick(comparison, size) for size in sizes})


def _tick(comparison: Comparison, size: int) -> str:
    names = dict.fromkeys(row.topology for row in comparison.rows if row.nodes * row.devices_per_node == size)
    return "\n".join([str(size), *names])
