"""Bars: samples/s of every framework in every row, whiskers from the smallest to the largest run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlperf.report.charts.canvas import FAINT, INK, WIDTH, Chart, Palette, drawn, legend_above, varying
from dlperf.report.charts.plot import Plot, PlotPoint, PlotSeries
from dlperf.report.numbers import rate
from dlperf.report.tables import ABSENT, status_word
from dlperf.report.text import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlperf.report.comparison import Comparison
    from dlperf.results.cases import CaseFigures

# More than this is a wall; the table is there for it.
MOST_BARS = 48
_BAR, _GAP = 0.27, 0.25  # inches of a bar, and between two rows of the table
_RATE = "samples/s over all devices: median of the runs, whiskers from smallest to largest run"
_TEXT: dict[str, Any] = {"va": "center", "fontsize": 9}


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where nothing was measured, or too much for one picture."""
    rows, arms = comparison.rows, comparison.arms
    maxima = [figure.summary.maximum for figure in comparison.figures if figure.summary is not None]
    if not maxima or len(rows) * len(arms) > MOST_BARS:
        return None
    height = len(arms) * _BAR + _GAP
    figure = Figure(figsize=(WIDTH, len(rows) * height + 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, max(maxima) * 1.16)
    for place, row in enumerate(rows):
        for column, arm in enumerate(arms):
            middle = place * height + column * _BAR
            _bar(axes, comparison.cases.get((row, arm)), middle=middle, colour=palette.colour(arm))
    middles = [place * height + (len(arms) - 1) * _BAR / 2 for place in range(len(rows))]
    labels = ["\n".join([row.topology, *varying(comparison, row)]) for row in rows]
    axes.set_yticks(middles, labels)
    axes.set_ylim(middles[-1] + height / 2, middles[0] - height / 2)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_RATE, loc="right")
    handles = [Patch(color=palette.colour(arm), label=comparison.label(arm)) for arm in arms]
    legend_above(axes, handles, title=f"Throughput: {title}")
    plot = _plot(comparison, title, palette)
    return drawn(figure, name="throughput", alt=_alt_text(comparison, title), plot=plot)


def _bar(axes: Axes, figure: CaseFigures | None, *, middle: float, colour: str) -> None:
    unit = axes.get_xlim()[1] / 100
    if figure is None or figure.summary is None:
        axes.text(unit, middle, _word(figure), color=FAINT, style="italic", **_TEXT)
        return
    summary = figure.summary
    axes.barh(middle, summary.median, height=_BAR * 0.88, color=colour)
    if summary.maximum > summary.minimum:
        reach = [[summary.median - summary.minimum], [summary.maximum - summary.median]]
        axes.errorbar(summary.median, middle, xerr=reach, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    axes.text(summary.maximum + unit, middle, rate(summary.median), **_TEXT)


def _word(figure: CaseFigures | None) -> str:
    return plain_text(ABSENT if figure is None else status_word(figure.status))


def _plot(comparison: Comparison, title: str, palette: Palette) -> Plot:
    return Plot(
        kind="bars",
        title=f"Throughput: {title}",
        x_name=_RATE,
        y_name="",
        categories=tuple(", ".join([row.topology, *varying(comparison, row)]) for row in comparison.rows),
        series=tuple(
            PlotSeries(
                label=comparison.label(arm),
                colour=palette.colour(arm),
                points=tuple(
                    _point(place, comparison.cases.get((row, arm)))
                    for place, row in enumerate(comparison.rows)
                ),
            )
            for arm in comparison.arms
        ),
    )


def _point(place: int, figure: CaseFigures | None) -> PlotPoint:
    if figure is None or figure.summary is None:
        return PlotPoint(x=place, y=None, word=_word(figure))
    summary = figure.summary
    return PlotPoint(x=place, y=summary.median, low=summary.minimum, high=summary.maximum)


def _alt_text(comparison: Comparison, title: str) -> str:
    """The numbers of the bars, for who cannot see them."""
    parts = []
    for (row, arm), figure in sorted(comparison.cases.items()):
        value = rate(figure.summary.median) if figure.summary else _word(figure)
        parts.append(
            f"{', '.join([comparison.label(arm), row.topology, *varying(comparison, row)])}: {value}"
        )
    return f"Bar chart of samples/s, {title}. {'; '.join(parts)}."
