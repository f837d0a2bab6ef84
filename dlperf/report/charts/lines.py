"""Lines over the number of devices or of classes, each labelled at its end, an ideal one among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from dlperf.report.charts.canvas import FAINT, WIDTH, Chart, drawn
from dlperf.report.charts.plot import Plot, PlotPoint, PlotSeries
from dlperf.report.numbers import factor, percent, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

    from dlperf.report.charts.plot import Numbers

# More than this is a tangle; the table is there for it.
MOST_LINES = 8
# What varies beside the framework is told by marker and dashes, the framework by its colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_WRITTEN: Mapping[Numbers, Callable[[float], str]] = {
    "rate": rate,
    "factor": factor,
    "percent": lambda share: percent(share, decimals=0),
    "whole": lambda value: f"{value:.0f}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One framework under one batch size, and whatever else of the rows varies."""

    label: str
    colour: str
    variant: int
    points: tuple[tuple[int, float], ...]  # x, value; x rising
    whiskers: tuple[tuple[float, float], ...] = ()  # smallest and largest run at each point; or none

    def scaled(self, change: Callable[[int, float], float]) -> Line:
        """The line with other values."""
        ends = zip(self.points, self.whiskers, strict=bool(self.whiskers))
        return replace(
            self,
            points=tuple((size, change(size, value)) for size, value in self.points),
            whiskers=tuple((change(size, low), change(size, high)) for (size, _), (low, high) in ends),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What the lines' values are: name, how they are written, and the ideal at an x where there is one."""

    name: str
    numbers: Numbers
    ideal: Callable[[int], float] | None = None
    ideal_name: str = "ideal"

    def written(self, value: float) -> str:
        """A value as the axis writes it."""
        return _WRITTEN[self.numbers](value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """What the lines run over: its name, and labels by value."""

    name: str
    ticks: Mapping[int, str]
    logarithmic: bool = False


def line_chart(
    lines: Sequence[Line], *, axis: Axis, across: Across, name: str, title: str, alt: str
) -> Chart | None:
    """The chart; None without a line or with too many.

    Args:
        lines: the lines.
        axis: of the values.
        across: what the lines run over.
        name: of the chart in its section.
        title: above the chart.
        alt: what it shows, for who cannot see it; the lines' last values are added.
    """
    if not 0 < len(lines) <= MOST_LINES:
        return None
    sizes = sorted(across.ticks)
    ideal = [(size, axis.ideal(size)) for size in sizes] if axis.ideal else []
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if across.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if ideal:
        axes.plot(*zip(*ideal, strict=True), color=FAINT, linewidth=1, zorder=1)
    for line in lines:
        _draw(axes, line)
    highest = [value for line in lines for _, value in (*line.points, *line.whiskers)]
    axes.set_ylim(0, max(*highest, *(value for _, value in ideal)) * 1.08)
    axes.set_xticks(sizes, [across.ticks[size] for size in sizes])
    axes.set_ylabel(axis.name)
    if axis.numbers == "percent":
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel(across.name)
    axes.set_title(title, loc="left")
    labels = [f"{line.label}  {axis.written(line.points[-1][1])}" for line in lines]
    ends = [(line.points[-1], label, line.colour) for line, label in zip(lines, labels, strict=True)]
    if ideal:
        ends.append((ideal[-1], axis.ideal_name, FAINT))
    _label_ends(axes, ends, column=_right_of(sizes, logarithmic=across.logarithmic))
    plot = _plot(lines, axis=axis, across=across, ideal=ideal, title=title)
    return drawn(figure, name=name, alt=f"{alt} {'; '.join(labels)}.", plot=plot)


def _draw(axes: Axes, line: Line) -> None:
    places, values = zip(*line.points, strict=True)
    axes.plot(
        places,
        values,
        color=line.colour,
        marker=_MARKERS[line.variant % len(_MARKERS)],
        linestyle=_DASHES[line.variant % len(_DASHES)],
        markersize=5,
    )
    for place, (low, high) in zip(places, line.whiskers, strict=bool(line.whiskers)):
        if high > low:  # about their own middle: an interval of means need not hold the medians
            middle, reach = (low + high) / 2, (high - low) / 2
            axes.errorbar(place, middle, yerr=reach, fmt="none", ecolor=line.colour, capsize=3)


def _right_of(sizes: Sequence[int], *, logarithmic: bool) -> float:
    """Where the labels stand: somewhat to the right of the last point, as far as the axis is long."""
    first, last = sizes[0], sizes[-1]
    return last * (last / first) ** 0.06 if logarithmic else last + (last - first) * 0.06


def _plot(
    lines: Sequence[Line], *, axis: Axis, across: Across, ideal: Sequence[tuple[int, float]], title: str
) -> Plot:
    series = [
        PlotSeries(
            label=line.label,
            colour=line.colour,
            variant=line.variant,
            points=tuple(
                PlotPoint(x=place, y=value, low=low, high=high)
                for (place, value), (low, high) in zip(
                    line.points, line.whiskers or [(None, None)] * len(line.points), strict=True
                )
            ),
        )
        for line in lines
    ]
    if ideal:
        points = tuple(PlotPoint(x=place, y=value) for place, value in ideal)
        series.append(PlotSeries(label=axis.ideal_name, colour=FAINT, points=points, ideal=True))
    return Plot(
        kind="lines",
        title=title,
        x_name=across.name,
        y_name=axis.name,
        series=tuple(series),
        ticks=tuple(sorted(across.ticks.items())),
        logarithmic_x=across.logarithmic,
        numbers=axis.numbers,
    )


def _label_ends(axes: Axes, ends: Sequence[tuple[tuple[int, float], str, str]], *, column: float) -> None:
    """Write the labels one above the other at `column`, each tied to the end of its line."""
    heights = _spread([point[1] for point, _, _ in ends], axes.get_ylim()[1] * 0.06)
    for (point, label, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            label,
            point,
            xytext=(column, height),
            va="center",
            fontsize=9,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": colour},
            arrowprops={"arrowstyle": "-", "color": colour, "linestyle": ":", "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _spread(heights: Sequence[float], distance: float) -> list[float]:
    """The heights moved as little as it takes, upwards, for labels to keep `distance`; order stays."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + distance)
    return placed
