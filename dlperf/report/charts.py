"""Charts of a comparison as PNG and SVG, the same bytes for the same figures.

An opaque white card with dark text reads alike on GitHub's light and dark pages. Colours are those of Okabe
and Ito, "Color Universal Design" (2008); text in the SVG stays text.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlperf.report.numbers import factor, rate
from dlperf.report.tables import ABSENT, status_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from dlperf.report.comparison import Arm, Comparison, Row

# Okabe and Ito's palette without yellow, which is too light for white; neighbours lie far apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# More than this is a wall; the tables are there for it.
MOST_BARS = 48
MOST_LINES = 8

_INK, _FAINT = "#24292f", "#6e7781"
_STYLE: Any = {  # matplotlib types the keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "dlperf",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 11,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_DOTS_PER_INCH = 160
_WIDTH = 8.0  # inches
_BAR, _GAP = 0.27, 0.25  # inches of a bar, and between two rows of the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart in both forms; `name` tells it from the others of its section, `alt` says what it shows."""

    name: str
    alt: str
    png: bytes
    svg: bytes


def charts(comparison: Comparison, *, title: str) -> tuple[Chart, ...]:
    """The charts of one table; none where nothing was measured or where there is too much for a picture."""
    made = []
    with mpl.rc_context(_STYLE):
        if _measured(comparison) and len(comparison.rows) * len(comparison.arms) <= MOST_BARS:
            made.append(_throughput(comparison, title))
        if comparison.scales and 0 < len(_lines(comparison)) <= MOST_LINES:
            made.append(_speedup(comparison, title))
    return tuple(made)


def _measured(comparison: Comparison) -> bool:
    return any(figure.summary is not None for figure in comparison.figures)


def _throughput(comparison: Comparison, title: str) -> Chart:
    rows, arms = comparison.rows, comparison.arms
    row_height = len(arms) * _BAR + _GAP
    figure = Figure(figsize=(_WIDTH, len(rows) * row_height + 1.5), layout="constrained")
    axes = figure.add_subplot()
    top = max(case.summary.maximum for case in comparison.figures if case.summary is not None)
    for column, arm in enumerate(arms):
        for place, row in enumerate(rows):
            _bar(axes, comparison, row, arm, middle=place * row_height + column * _BAR, top=top)
    middles = [place * row_height + (len(arms) - 1) * _BAR / 2 for place in range(len(rows))]
    axes.set_yticks(middles, [_row_label(comparison, row) for row in rows])
    axes.set_ylim(middles[-1] + row_height / 2, middles[0] - row_height / 2)
    axes.set_xlim(0, top * 1.16)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("samples/s over all devices: median of the runs, whiskers from smallest to largest run")
    axes.set_title(f"Throughput: {title}", loc="left", pad=28)
    handles = [Patch(color=_colour(column), label=comparison.label(arm)) for column, arm in enumerate(arms)]
    axes.legend(
        handles=handles,
        ncols=min(len(arms), 3),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        borderpad=0,
    )
    return _drawn(figure, name="throughput", alt=_alt_text(comparison, title))


def _bar(axes: Axes, comparison: Comparison, row: Row, arm: Arm, *, middle: float, top: float) -> None:
    case = comparison.cases.get((row, arm))
    column = comparison.arms.index(arm)
    label: dict[str, Any] = {"va": "center", "fontsize": 9}
    if case is None or case.summary is None:
        word = ABSENT if case is None else status_word(case.status)
        axes.text(top * 0.008, middle, word, color=_FAINT, style="italic", **label)
        return
    summary = case.summary
    axes.barh(middle, summary.median, height=_BAR * 0.88, color=_colour(column))
    if summary.maximum > summary.minimum:
        reach = [[summary.median - summary.minimum], [summary.maximum - summary.median]]
        axes.errorbar(
            summary.median, middle, xerr=reach, fmt="none", ecolor=_INK, elinewidth=1.1, capsize=2.5
        )
    axes.text(summary.maximum + top * 0.012, middle, rate(summary.median), **label)


def _speedup(comparison: Comparison, title: str) -> Chart:
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    sizes = sorted({row.nodes * row.devices_per_node for row in comparison.rows})
    axes.plot(sizes, sizes, color=_FAINT, linestyle="--", linewidth=1, zorder=1)
    ends = [_LineEnd(sizes[-1], float(sizes[-1]), label="ideal", colour=_FAINT)]
    for index, (label, points) in enumerate(_lines(comparison)):
        across, up = zip(*points, strict=True)
        axes.plot(across, up, color=_colour(index), marker=MARKERS[index % len(MARKERS)], markersize=5)
        ends.append(_LineEnd(across[-1], up[-1], label=f"{label}  {factor(up[-1])}", colour=_colour(index)))
    axes.set_ylim(0, max(end.up for end in ends) * 1.08)
    axes.set_xticks(sizes, [_topologies(comparison, size) for size in sizes])
    axes.set_ylabel("times the samples/s of one device")
    axes.set_xlabel("devices")
    axes.set_title(f"Speedup: {title}", loc="left")
    _label_ends(axes, ends, column=sizes[-1] + (sizes[-1] - sizes[0]) * 0.06)
    values = "; ".join(end.label for end in ends[1:])
    return _drawn(figure, name="speedup", alt=f"Line chart, speedup against one device, {title}. {values}.")


@dataclass(frozen=True, slots=True)
class _LineEnd:
    """Where a line ends, and what is written there."""

    across: int
    up: float
    label: str = field(kw_only=True)
    colour: str = field(kw_only=True)


def _label_ends(axes: Axes, ends: Sequence[_LineEnd], *, column: float) -> None:
    """Write the labels one above the other at `column`, each tied to the end of its line."""
    heights = _spread([end.up for end in ends], axes.get_ylim()[1] * 0.06)
    for end, height in zip(ends, heights, strict=True):
        axes.annotate(
            end.label,
            (end.across, end.up),
            xytext=(column, height),
            va="center",
            fontsize=9,
            bbox={
                "boxstyle": "square,pad=0.15",
                "facecolor": "white",
                "edgecolor": end.colour,
                "linewidth": 1.2,
            },
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 1,
                "linestyle": ":",
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _lines(comparison: Comparison) -> list[tuple[str, list[tuple[int, float]]]]:
    """One line a framework and whatever else of the row varies: (devices, speedup), two points at least."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row, arm in sorted(comparison.cases, key=lambda place: (place[1], place[0])):
        speedup = comparison.speedups.get((row, arm))
        if speedup is not None:
            label = ", ".join([comparison.label(arm), *_varying(comparison, row)])
            lines.setdefault(label, []).append((row.nodes * row.devices_per_node, speedup))
    return [(label, sorted(points)) for label, points in lines.items() if len(points) > 1]


def _spread(heights: Sequence[float], distance: float) -> list[float]:
    """The heights moved as little as it takes, upwards, for labels to keep `distance`; order stays."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + distance)
    return placed


def _row_label(comparison: Comparison, row: Row) -> str:
    return "\n".join([row.topology, *_varying(comparison, row)])


def _varying(comparison: Comparison, row: Row) -> list[str]:
    """What tells a row from the others beside its topology."""
    texts = {
        "batch_size_per_device": f"batch {row.batch_size_per_device}",
        "num_classes": f"{row.num_classes} classes",
        "precision": row.precision,
        "sample_ratio": f"ratio {row.sample_ratio:g}",
    }
    return [text for name, text in texts.items() if comparison.varying(name)]


def _topologies(comparison: Comparison, size: int) -> str:
    names = dict.fromkeys(row.topology for row in comparison.rows if row.nodes * row.devices_per_node == size)
    return "\n".join([str(size), *names])


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _alt_text(comparison: Comparison, title: str) -> str:
    """The numbers of the bars, for who cannot see them."""
    parts = []
    for (row, arm), case in sorted(comparison.cases.items()):
        value = rate(case.summary.median) if case.summary else status_word(case.status)
        parts.append(
            f"{', '.join([comparison.label(arm), row.topology, *_varying(comparison, row)])}: {value}"
        )
    return f"Bar chart of samples/s, {title}. {'; '.join(parts)}."


def _drawn(figure: Figure, *, name: str, alt: str) -> Chart:
    """Both forms, without the date and the name of the program that would make equal charts differ."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name=name, alt=alt, png=png.getvalue(), svg=svg.getvalue())
