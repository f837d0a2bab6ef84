"""Charts of a comparison as PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from dlperf.report.charts import breakdown, classes, efficiency, speedup, steps, throughput
from dlperf.report.charts.canvas import STYLE, Chart, Palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.report.comparison import Arm, Comparison

__all__ = ["Chart", "charts"]

_MAKERS = (
    throughput.chart,
    speedup.chart,
    efficiency.chart,
    classes.throughput,
    classes.memory,
    steps.chart,
    breakdown.chart,
)


def charts(comparison: Comparison, *, title: str, arms: Sequence[Arm]) -> tuple[Chart, ...]:
    """The charts of one table; none where nothing was measured or where there is too much for a picture.

    `arms` are those of the whole report, so that a framework has one colour in all its charts.
    """
    palette = Palette(arms)
    with mpl.rc_context(STYLE):
        made = (make(comparison, title=title, palette=palette) for make in _MAKERS)
        return tuple(chart for chart in made if chart is not None)
