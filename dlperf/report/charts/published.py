"""Charts of a published section: its series of samples/s and of printed speedups, over the devices."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl

from dlperf.report.charts.canvas import COLOURS, STYLE, Chart
from dlperf.report.charts.lines import SPEEDUP, Across, Axis, Line, Point, line_chart
from dlperf.report.numbers import rate
from dlperf.report.published import PublishedSection
from dlperf.report.published_findings import series
from dlperf.report.published_tables import topology_key, topology_name
from dlperf.report.text import plain_text
from dlperf.results.published_data import PublishedCase


def charts(section: PublishedSection) -> tuple[Chart, ...]:
    """Throughput and speedup; none where no series has two points."""
    cases = [case for table in section.tables for case in table.grid.cases]
    ticks = {topology_key(case)[0]: f"{topology_key(case)[0]}\n{topology_name(case)}" for case in cases}
    across, title = Across(name="devices", ticks=ticks), plain_text(section.title)
    throughput = _lines(section, lambda case: case.samples_per_sec)
    singles = [point.value for line in throughput for point in line.points if point.x == 1]
    single = max(singles, default=0.0)
    with mpl.rc_context(STYLE):
        made = (
            line_chart(
                throughput,
                axis=Axis(
                    name="samples/s over all devices",
                    written=rate,
                    unit="samples/s",
                    spread="runs",
                    ideal=lambda devices: single * devices,
                    ideal_name="the fastest device x devices",
                ),
                across=across,
                name="throughput",
                title=f"Throughput: {title}",
                alt=f"Line chart, samples/s over all devices, {title}; last values:",
            ),
            line_chart(
                _lines(section, lambda case: case.speedup),
                axis=SPEEDUP,
                across=across,
                name="speedup",
                title=f"Speedup: {title}",
                alt=f"Line chart, speedup against one device, {title}; last values:",
            ),
        )
        return tuple(chart for chart in made if chart is not None)


def _lines(section: PublishedSection, value: Callable[[PublishedCase], float | None]) -> list[Line]:
    """A line takes two points."""
    lines = []
    for variant, table in enumerate(section.tables):
        for name in table.grid.frameworks:
            labels = table.grid.labels
            points = tuple(
                Point(x=topology_key(case)[0], value=number, at=topology_name(case))
                for case in series(table.grid, name)
                if (number := value(case)) is not None
            )
            if len(points) > 1:
                lines.append(
                    Line(
                        label=f"{labels[name]}, {plain_text(table.grid.variant)}",
                        # As a report of results has it, whose frameworks stand in the order of their names.
                        colour=COLOURS[sorted(labels).index(name) % len(COLOURS)],
                        variant=variant,
                        points=points,
                    )
                )
    return lines
