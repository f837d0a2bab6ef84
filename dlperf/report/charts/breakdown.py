"""Bars: where the time of a profiled step goes, one bar a case, its parts in the order of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlperf.report.charts.canvas import COLOURS, INK, WIDTH, Chart, Palette, drawn, legend_above, varying
from dlperf.report.charts.plot import Plot, PlotPoint, PlotSeries
from dlperf.report.numbers import rate
from dlperf.report.phases import PHASES, in_order, phase_name
from dlperf.report.text import plain_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.report.comparison import Comparison

# More than this is a wall; the table is there for it.
MOST_BARS = 36
_BAR = 0.3  # inches
_SECONDS = "seconds of a profiled step, its parts one after the other"
# A part below this share of the longest bar has no room for its number.
_LEAST_SHARE = 0.07


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no engine told its phases, or too many cases did."""
    del palette  # colours stand for phases here
    bars = {
        ", ".join([comparison.label(arm), row.topology, *varying(comparison, row)]): in_order(
            figure.phase_seconds
        )
        for (row, arm), figure in sorted(comparison.cases.items())
        if figure.phase_seconds
    }
    if not 0 < len(bars) <= MOST_BARS:
        return None
    figure = Figure(figsize=(WIDTH, len(bars) * _BAR + 1.5), layout="constrained")
    axes = figure.add_subplot()
    longest = max(sum(seconds.values()) for seconds in bars.values())
    for place, seconds in enumerate(bars.values()):
        start = 0.0
        for phase, value in seconds.items():
            axes.barh(place, value, left=start, height=0.8, color=_colour(phase))
            if value >= _LEAST_SHARE * longest:
                middle = start + value / 2
                axes.text(middle, place, rate(value), ha="center", va="center", fontsize=8, color=INK)
            start += value
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.05)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_SECONDS, loc="right")
    named = list(in_order({phase: 0.0 for seconds in bars.values() for phase in seconds}))
    handles = [Patch(color=_colour(phase), label=_words(phase)) for phase in named]
    legend_above(axes, handles, title=f"Where the time goes: {title}")
    parts = "; ".join(
        f"{bar}: {', '.join(f'{_words(phase)} {rate(value)}' for phase, value in seconds.items())}"
        for bar, seconds in bars.items()
    )
    alt = f"Bar chart, seconds of a step by part, {title}. {parts}."
    return drawn(figure, name="breakdown", alt=alt, plot=_plot(bars, named, title))


def _plot(bars: Mapping[str, Mapping[str, float]], named: Sequence[str], title: str) -> Plot:
    series = (
        PlotSeries(
            label=_words(phase),
            colour=_colour(phase),
            points=tuple(
                PlotPoint(x=place, y=seconds[phase])
                for place, seconds in enumerate(bars.values())
                if phase in seconds
            ),
        )
        for phase in named
    )
    return Plot(
        kind="stack",
        title=f"Where the time goes: {title}",
        x_name=_SECONDS,
        y_name="",
        categories=tuple(bars),
        series=tuple(series),
    )


def _words(phase: str) -> str:
    return plain_text(phase_name(phase))


# Light enough for dark numbers on them.
_COLOURS = dict(zip(PHASES, (COLOURS[4], COLOURS[1], "#F0E442", COLOURS[3], "#BBBBBB"), strict=True))


def _colour(phase: str) -> str:
    return _COLOURS.get(phase, "#DDDDDD")
