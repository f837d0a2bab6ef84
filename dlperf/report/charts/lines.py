"""Lines over the number of devices, the ideal one among them, each labelled at its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from dlperf.report.charts.canvas import FAINT, WIDTH, Chart, drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

# More than this is a tangle; the table is there for it.
MOST_LINES = 8
# What varies beside the framework is told by marker and dashes, the framework by its colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One framework under one batch size, and whatever else of the rows varies."""

    label: str
    colour: str
    variant: int
    points: tuple[tuple[int, float], ...]  # devices, value; from few to many devices

    def scaled(self, change: Callable[[int, float], float]) -> Line:
        """The line with other values."""
        return replace(self, points=tuple((size, change(size, value)) for size, value in self.points))


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What the lines' values are: their name, how they are written, and the ideal of n devices."""

    name: str
    written: Callable[[float], str]
    ideal: Callable[[int], float]
    ideal_name: str = "ideal"


def line_chart(
    lines: Sequence[Line], *, axis: Axis, ticks: Mapping[int, str], name: str, title: str, alt: str
) -> Chart | None:
    """The chart; None without a line or with too many.

    Args:
        lines: the lines.
        axis: of the values.
        ticks: labels by number of devices.
        name: of the chart in its section.
        title: above the chart.
        alt: what it shows, for who cannot see it; the lines' last values are added.
    """
    if not 0 < len(lines) <= MOST_LINES:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sizes = sorted(ticks)
    ideal = [axis.ideal(size) for size in sizes]
    axes.plot(sizes, ideal, color=FAINT, linewidth=1, zorder=1)
    for line in lines:
        axes.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            marker=_MARKERS[line.variant % len(_MARKERS)],
            linestyle=_DASHES[line.variant % len(_DASHES)],
            markersize=5,
        )
    highest = max(value for line in lines for _, value in line.points)
    axes.set_ylim(0, max(ideal[-1], highest) * 1.08)
    axes.set_xticks(sizes, [ticks[size] for size in sizes])
    axes.set_ylabel(axis.name)
    axes.set_xlabel("devices")
    axes.set_title(title, loc="left")
    labels = [f"{line.label}  {axis.written(line.points[-1][1])}" for line in lines]
    ends = [(line.points[-1], label, line.colour) for line, label in zip(lines, labels, strict=True)]
    ends.append(((sizes[-1], ideal[-1]), axis.ideal_name, FAINT))
    _label_ends(axes, ends, column=sizes[-1] + (sizes[-1] - sizes[0]) * 0.06)
    return drawn(figure, name=name, alt=f"{alt} {'; '.join(labels)}.")


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
