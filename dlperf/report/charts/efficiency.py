"""Lines: samples/s a device over that of one device alone, against the number of devices; 100 % is ideal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.charts.lines import Axis, line_chart
from dlperf.report.charts.speedup import devices, speedup_lines, with_whiskers

if TYPE_CHECKING:
    from dlperf.report.charts.canvas import Chart, Palette
    from dlperf.report.comparison import Comparison

EFFICIENCY = Axis(
    name="share of the samples/s of one device x devices",
    numbers="percent",
    ideal=lambda _: 1.0,
)


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where the speedup has none."""
    lines = [line.scaled(lambda size, speedup: speedup / size) for line in speedup_lines(comparison, palette)]
    return line_chart(
        lines,
        axis=with_whiskers(EFFICIENCY, lines),
        across=devices(comparison),
        name="efficiency",
        title=f"Scaling efficiency: {title}",
        alt=f"Line chart, scaling efficiency, {title}.",
    )
