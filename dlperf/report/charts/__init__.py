"""Charts of a comparison as PNG and SVG, the same bytes for the same figures."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle

import matplotlib as mpl

from dlperf.report.charts import bars, lines
from dlperf.report.charts.canvas import COLOURS, STYLE, Chart
from dlperf.report.comparison import Comparison, Variant

__all__ = ["Chart", "charts"]

_MAKERS: tuple[Callable[..., Chart | None], ...] = (
    bars.throughput,
    *(partial(lines.line_chart, kind) for kind in lines.KINDS),
    bars.iterations,
    bars.breakdown,
)


def charts(comparison: Comparison, title: str, *, variants: Sequence[Variant]) -> list[Chart]:
    """The charts of one table; none where nothing was measured or where there is too much for a picture.

    `variants` are those of the whole report, so that a framework has one colour in all its charts.
    """
    colours = dict(zip(variants, cycle(COLOURS), strict=False))
    with mpl.rc_context(STYLE):
        drawn = (make(comparison, title=title, colours=colours) for make in _MAKERS)
        return [chart for chart in drawn if chart is not None]
