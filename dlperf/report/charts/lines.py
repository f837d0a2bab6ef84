"""Lines over the number of devices or of classes: speedup, efficiency, samples/s and peak memory of a rank.

Each line is labelled at its end; speedup and efficiency have an ideal one among them.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from dlperf.report.charts.canvas import FAINT, WIDTH, Chart, draw, hover, varying_words
from dlperf.report.columns import interval_of_ratio, too_wide
from dlperf.report.comparison import Comparison, Row, Variant
from dlperf.report.numbers import factor, percent, rate
from dlperf.results.cases import CaseFigures
from dlperf.results.schema import PEAKS
from dlperf.wording import plural

# More than this is a tangle; the table is there for it.
MOST_LINES = 8
# What varies beside the framework is told by marker and dashes, the framework by its colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_HOVER_SIZE = 18  # points
_LABEL_WIDTH = 40  # characters, as many as the axis is long


Measured = tuple[float, float, float] | None  # the value and the ends of its whiskers


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value at `x`, which hovering calls `at`; `low` and `high` are the ends of its whiskers."""

    x: int
    at: str
    value: float
    low: float
    high: float
    runs: int  # 0 where they are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One framework under one batch size, and whatever else of the rows varies; `x` of its points rises."""

    label: str
    colour: str
    style: int
    points: tuple[Point, ...]


def _speedup(comparison: Comparison, row: Row, variant: Variant, case: CaseFigures) -> Measured:
    """Whiskers are the 95 % interval of the ratio to one device, where the runs give one that says something.

    On one device the speedup is 1 by definition.
    """
    value = comparison.speedups[row, variant]
    if value is None:
        return None
    alone = replace(row, nodes=1, devices_per_node=1)
    single = comparison.cases.get((alone, variant))
    interval = interval_of_ratio(case, single) if row != alone and single is not None else None
    if interval is None or too_wide(interval):
        return value, value, value
    return value, interval.low, interval.high


def _efficiency(comparison: Comparison, row: Row, variant: Variant, case: CaseFigures) -> Measured:
    speedup, devices = _speedup(comparison, row, variant, case), row.nodes * row.devices_per_node
    return speedup and (speedup[0] / devices, speedup[1] / devices, speedup[2] / devices)


def _rates(_: Comparison, __: Row, ___: Variant, case: CaseFigures) -> Measured:
    summary = case.summary
    return (summary.median, summary.minimum, summary.maximum) if summary else None


def _memory(peak: str, _: Comparison, __: Row, ___: Variant, case: CaseFigures) -> Measured:
    """In MiB, of the largest run, as the tables have it; `peak` is a name of `PEAKS`."""
    peaks = [run.peaks[peak] / 2**20 for run in case.good if peak in run.peaks]
    return (max(peaks), min(peaks), max(peaks)) if peaks else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a chart shows: its name in a section, its title, in words, and as the label of its values.

    Words, label and unit may name the `{device}`. `unit` follows a written value, and `spread` says what the
    whiskers are, where the pointer hovers. `ideal` is the best value at an x, where there is one.
    """

    name: str
    title: str
    words: str
    label: str
    measure: Callable[[Comparison, Row, Variant, CaseFigures], Measured]
    written: Callable[[float], str]
    unit: str
    spread: str
    across: Literal["devices", "classes"] = "devices"
    percent: bool = False
    ideal: Callable[[int], float] | None = None


SPEEDUP = Kind(
    name="speedup",
    title="Speedup",
    words="speedup against one {device}",
    label="times the samples/s of one {device}",
    measure=_speedup,
    written=factor,
    unit="times one {device}",
    spread="95 % interval",
    ideal=float,
)
EFFICIENCY = Kind(
    name="efficiency",
    title="Scaling efficiency",
    words="scaling efficiency",
    label="share of the samples/s of one {device} x their number",
    measure=_efficiency,
    written=lambda share: percent(share, decimals=0),
    unit="of the ideal",
    spread="95 % interval",
    percent=True,
    ideal=lambda _: 1.0,
)
CLASSES_RATE = Kind(
    name="classes-throughput",
    title="Throughput against classes",
    words="samples/s against the number of classes",
    label="samples/s",
    measure=_rates,
    written=rate,
    unit="samples/s",
    spread="runs",
    across="classes",
)
CLASSES_MEMORY = tuple(
    Kind(
        name=f"classes-{words.replace(' ', '-')}",
        title=f"{words.capitalize()} against classes",
        words=f"{words} of a rank against the number of classes",
        label=f"{words} of a rank (MiB)",
        measure=partial(_memory, peak),
        written=lambda value: f"{value:.0f}",
        unit="MiB",
        spread="runs",
        across="classes",
    )
    for peak, words in PEAKS.items()
)
KINDS = (SPEEDUP, EFFICIENCY, CLASSES_RATE, *CLASSES_MEMORY)


def _ticks(kind: Kind, comparison: Comparison) -> dict[int, str]:
    """Labels of the axis by value: numbers of devices with the topologies that have them, or of classes."""
    if kind.across == "classes":
        sizes = sorted({row.num_classes for row in comparison.rows if row.searched != "num_classes"})
        return {size: str(size) for size in sizes}
    topologies: dict[int, dict[str, None]] = {}
    for row in comparison.rows:
        topologies.setdefault(row.nodes * row.devices_per_node, {})[row.topology] = None
    return {size: "\n".join([str(size), *topologies[size]]) for size in sorted(topologies)}


def _lines(kind: Kind, comparison: Comparison, colours: Mapping[Variant, str]) -> list[Line]:
    """A line per framework and whatever of its rows varies beside the axis; a line takes two points."""
    by_classes = kind.across == "classes"
    styles: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Variant, tuple[str, ...]], list[Point]] = {}
    for (row, variant), case in sorted(comparison.cases.items(), key=lambda item: item[0]):
        topology = [row.topology] if by_classes and comparison.scales else []
        words = varying_words(comparison, row, but="num_classes" if by_classes else "")
        own = (*topology, *words)
        styles.setdefault(own, len(styles))
        measured = kind.measure(comparison, row, variant, case)
        if measured is None or (by_classes and row.searched == "num_classes"):
            continue
        value, low, high = measured
        x = row.num_classes if by_classes else row.nodes * row.devices_per_node
        at = f"{x} classes" if by_classes else row.topology
        point = Point(x=x, at=at, value=value, low=low, high=high, runs=len(case.good))
        points.setdefault((variant, own), []).append(point)
    return [
        Line(
            label=", ".join([comparison.label(variant), *own]),
            colour=colours[variant],
            style=styles[own],
            points=tuple(sorted(measured, key=lambda point: (point.x, point.value))),
        )
        for (variant, own), measured in sorted(points.items(), key=lambda item: item[0])
        if len(measured) > 1
    ]


def line_chart(
    kind: Kind, comparison: Comparison, *, title: str, colours: Mapping[Variant, str]
) -> Chart | None:
    """The chart; None where its axis does not vary, nothing was measured, or there are too many lines."""
    logarithmic = kind.across == "classes"
    device, devices = comparison.device_words
    kind = replace(
        kind,
        **{name: getattr(kind, name).format(device=device) for name in ("words", "label", "unit")},
    )
    if logarithmic and "num_classes" not in comparison.varying:
        return None
    lines, ticks = _lines(kind, comparison, colours), _ticks(kind, comparison)
    if not 0 < len(lines) <= MOST_LINES:
        return None
    sizes = list(ticks)
    ideal = [(size, kind.ideal(size)) for size in sizes] if kind.ideal else []
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if ideal:
        axes.plot(*zip(*ideal, strict=True), color=FAINT, linewidth=1, zorder=1)
    for line in lines:
        _draw_line(axes, line, kind)
    points = [point for line in lines for point in line.points]
    highest = [max(point.value, point.high) for point in points]
    axes.set_ylim(0, max(*highest, *(value for _, value in ideal)) * 1.08)
    axes.set_xticks(sizes, list(ticks.values()))
    whiskers = any(point.high > point.low for point in points)
    label = textwrap.fill(kind.label, _LABEL_WIDTH)
    axes.set_ylabel(f"{label}\n(whiskers: {kind.spread})" if whiskers else label)
    if kind.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel(f"{device}s" if kind.across == "devices" else kind.across)
    axes.set_title(f"{kind.title}: {title}", loc="left")
    labels = [f"{line.label}  {kind.written(line.points[-1].value)}" for line in lines]
    ends = [
        ((line.points[-1].x, line.points[-1].value), label, line.colour)
        for line, label in zip(lines, labels, strict=True)
    ]
    if ideal:
        ends.append((ideal[-1], "ideal", FAINT))
    first, last = sizes[0], sizes[-1]
    # Somewhat to the right of the last point, as far as the axis is long.
    column = last * (last / first) ** 0.06 if logarithmic else last + (last - first) * 0.06
    _label_ends(axes, ends, column=column)
    return draw(
        figure, name=kind.name, alt=f"Line chart, {kind.words}, on {devices}, {title}. {'; '.join(labels)}."
    )


def _draw_line(axes: Axes, line: Line, kind: Kind) -> None:
    axes.plot(
        [point.x for point in line.points],
        [point.value for point in line.points],
        color=line.colour,
        marker=_MARKERS[line.style % len(_MARKERS)],
        linestyle=_DASHES[line.style % len(_DASHES)],
        markersize=5,
    )
    for point in line.points:
        spread = ""
        if point.high > point.low:
            # About their own middle: an interval of means need not hold the medians.
            middle, reach = (point.low + point.high) / 2, (point.high - point.low) / 2
            axes.errorbar(point.x, middle, yerr=reach, fmt="none", ecolor=line.colour, capsize=3)
            spread = f"{kind.spread} {kind.written(point.low)} to {kind.written(point.high)}"
        (area,) = axes.plot(
            point.x, point.value, marker="o", markersize=_HOVER_SIZE, color=line.colour, alpha=0, zorder=10
        )
        value = f"{line.label}, {point.at}: {kind.written(point.value)} {kind.unit}"
        hover(area, value, spread, plural(point.runs, "run") if point.runs else "")


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
