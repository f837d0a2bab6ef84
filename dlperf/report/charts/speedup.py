"""Lines: samples/s over that of one device against the number of devices, beside the ideal line."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from dlperf.report.charts.canvas import FAINT, WIDTH, Chart, Palette, drawn, varying
from dlperf.report.numbers import factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from dlperf.report.comparison import Arm, Comparison

# More than this is a tangle; the table is there for it.
MOST_LINES = 8
# What varies beside the framework is told by marker and dashes, the framework by its colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One framework under one batch size, and whatever else of the rows varies."""

    label: str
    arm: Arm
    variant: int
    points: tuple[tuple[int, float], ...]  # devices, speedup


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no framework was measured on several numbers of devices, or too many were."""
    lines = _lines(comparison)
    if not 0 < len(lines) <= MOST_LINES:
        return None
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sizes = sorted({row.nodes * row.devices_per_node for row in comparison.rows})
    axes.plot(sizes, sizes, color=FAINT, linewidth=1, zorder=1)
    for line in lines:
        axes.plot(
            *zip(*line.points, strict=True),
            color=palette.colour(line.arm),
            marker=_MARKERS[line.variant % len(_MARKERS)],
            linestyle=_DASHES[line.variant % len(_DASHES)],
            markersize=5,
        )
    axes.set_ylim(0, max(sizes[-1], *(line.points[-1][1] for line in lines)) * 1.08)
    axes.set_xticks(sizes, [_tick(comparison, size) for size in sizes])
    axes.set_ylabel("times the samples/s of one device")
    axes.set_xlabel("devices")
    axes.set_title(f"Speedup: {title}", loc="left")
    ends = [(line.points[-1], _end_label(line), palette.colour(line.arm)) for line in lines]
    ends.append(((sizes[-1], float(sizes[-1])), "ideal", FAINT))
    _label_ends(axes, ends, column=sizes[-1] + (sizes[-1] - sizes[0]) * 0.06)
    values = "; ".join(_end_label(line) for line in lines)
    return drawn(figure, name="speedup", alt=f"Line chart, speedup against one device, {title}. {values}.")


def _lines(comparison: Comparison) -> list[_Line]:
    """A line takes two points."""
    variants: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Arm, tuple[str, ...]], list[tuple[int, float]]] = {}
    for row, arm in sorted(comparison.cases):
        variant = tuple(varying(comparison, row))
        variants.setdefault(variant, len(variants))
        speedup = comparison.speedups.get((row, arm))
        if speedup is not None:
            points.setdefault((arm, variant), []).append((row.nodes * row.devices_per_node, speedup))
    return [
        _Line(
            label=", ".join([comparison.label(arm), *variant]),
            arm=arm,
            variant=variants[variant],
            points=tuple(sorted(found)),
        )
        for (arm, variant), found in sorted(points.items())
        if len(found) > 1
    ]


def _end_label(line: _Line) -> str:
    return f"{line.label}  {factor(line.points[-1][1])}"


def _tick(comparison: Comparison, size: int) -> str:
    names = dict.fromkeys(row.topology for row in comparison.rows if row.nodes * row.devices_per_node == size)
    return "\n".join([str(size), *names])


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
