"""Charts of a comparison as PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl

from dlperf.report.charts import bars, lines
from dlperf.report.charts.canvas import STYLE, Chart, Palette
from dlperf.report.comparison import Comparison, Variant

__all__ = ["Chart", "charts"]

_MAKERS = (
    bars.throughput,
    lines.speedup,
    lines.efficiency,
    lines.throughput_by_classes,
    lines.memory_by_classes,
    bars.iterations,
    bars.breakdown,
)


def charts(comparison: Comparison, title: str, *, variants: Sequence[Variant]) -> list[Chart]:
    """The charts of one table; none where nothing was measured or where there is too much for a picture.

    `variants` are those of the whole report, so that a framework has one colour in all its charts.
    """
    palette = Palette(variants)
    with mpl.rc_context(STYLE):
        drawn = (make(comparison, title=title, palette=palette) for make in _MAKERS)
        return [chart for chart in drawn if chart is not None]
