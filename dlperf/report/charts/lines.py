"""Lines over the number of devices or of classes: speedup, efficiency, samples/s and peak memory of a rank.

Each line is labelled at its end; speedup and efficiency have an ideal one among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from dlperf.report.charts.canvas import FAINT, WIDTH, Chart, Palette, draw, hover, varying
from dlperf.report.columns import interval_of_ratio, too_wide
from dlperf.report.comparison import Comparison, Row, Variant
from dlperf.report.numbers import factor, percent, plural, rate
from dlperf.results.cases import CaseFigures

# More than this is a tangle; the table is there for it.
MOST_LINES = 8
# What varies beside the framework is told by marker and dashes, the framework by its colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_HOVER_SIZE = 18  # points


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value at `x`, which hovering calls `at`; `low` and `high` are the ends of its whiskers."""

    x: int
    value: float
    at: str
    low: float | None = None
    high: float | None = None
    runs: int | None = None  # None where nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One framework under one batch size, and whatever else of the rows varies; `x` of its points rises."""

    label: str
    colour: str
    style: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What the lines' values are: name, how one is written, and the ideal at an x where there is one.

    `unit` follows a written value, and `spread` says what the whiskers are, where the pointer hovers.
    """

    name: str
    written: Callable[[float], str]
    unit: str
    spread: str
    percent: bool = False
    ideal: Callable[[int], float] | None = None
    ideal_name: str = "ideal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """What the lines run over: its name, and labels by value."""

    name: str
    ticks: Mapping[int, str]
    logarithmic: bool = False


SPEEDUP = Axis(
    name="times the samples/s of one device",
    written=factor,
    unit="times one device",
    spread="95 % interval",
    ideal=float,
)
EFFICIENCY = Axis(
    name="share of the samples/s of one device x devices",
    written=lambda share: percent(share, decimals=0),
    unit="of the ideal",
    spread="95 % interval",
    percent=True,
    ideal=lambda _: 1.0,
)
CLASSES_RATE = Axis(
    name="samples/s (whiskers: smallest, largest run)", written=rate, unit="samples/s", spread="runs"
)
CLASSES_MEMORY = Axis(
    name="peak memory of a rank (MiB)", written=lambda value: f"{value:.0f}", unit="MiB", spread="runs"
)


def speedup(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Speedup; None where no framework was measured on several numbers of devices, or too many were."""
    lines = _speedup_lines(comparison, palette)
    return line_chart(
        lines,
        axis=_with_whiskers(SPEEDUP, lines),
        across=_devices(comparison),
        name="speedup",
        title=f"Speedup: {title}",
        alt=f"Line chart, speedup against one device, {title}.",
    )


def efficiency(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Speedup / devices; None where the speedup has no chart."""
    lines = [
        replace(line, points=tuple(map(_per_device, line.points)))
        for line in _speedup_lines(comparison, palette)
    ]
    return line_chart(
        lines,
        axis=_with_whiskers(EFFICIENCY, lines),
        across=_devices(comparison),
        name="efficiency",
        title=f"Scaling efficiency: {title}",
        alt=f"Line chart, scaling efficiency, {title}.",
    )


def throughput_by_classes(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Samples/s; None where the number of classes does not vary."""
    return line_chart(
        _lines_by_classes(comparison, palette, _rates),
        axis=CLASSES_RATE,
        across=_classes(comparison),
        name="classes-throughput",
        title=f"Throughput against classes: {title}",
        alt=f"Line chart, samples/s against the number of classes, {title}; last values:",
    )


def memory_by_classes(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Peak memory; None where the number of classes does not vary, or no run tells its memory."""
    return line_chart(
        _lines_by_classes(comparison, palette, _memory),
        axis=CLASSES_MEMORY,
        across=_classes(comparison),
        name="classes-memory",
        title=f"Peak memory against classes: {title}",
        alt=f"Line chart, peak memory of a rank against the number of classes, {title}; last values:",
    )


def _speedup_lines(comparison: Comparison, palette: Palette) -> list[Line]:
    """Speedup over devices of each framework, and of whatever else varies; a line takes two points.

    Whiskers are the 95 % interval of the ratio to one device, where the runs give one that says something.
    """
    styles: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Variant, tuple[str, ...]], list[Point]] = {}
    for row, variant in sorted(comparison.cases):
        style = tuple(varying(comparison, row))
        styles.setdefault(style, len(styles))
        value = comparison.speedups.get((row, variant))
        if value is not None:
            low, high = _interval(comparison, row, variant) or (value, value)
            point = Point(
                x=row.nodes * row.devices_per_node,
                value=value,
                at=row.topology,
                low=low,
                high=high,
                runs=len(comparison.cases[row, variant].good) or None,
            )
            points.setdefault((variant, style), []).append(point)
    return _lines(comparison, palette, points, styles)


def _lines(
    comparison: Comparison,
    palette: Palette,
    points: Mapping[tuple[Variant, tuple[str, ...]], Sequence[Point]],
    styles: Mapping[tuple[str, ...], int],
) -> list[Line]:
    return [
        Line(
            label=", ".join([comparison.label(variant), *style]),
            colour=palette.colour(variant),
            style=styles[style],
            points=tuple(sorted(measured, key=lambda point: (point.x, point.value))),
        )
        for (variant, style), measured in sorted(points.items())
        if len(measured) > 1
    ]


def _interval(comparison: Comparison, row: Row, variant: Variant) -> tuple[float, float] | None:
    """None where there is no interval, and on one device, whose speedup is 1 by definition."""
    alone = replace(row, nodes=1, devices_per_node=1)
    case, single = comparison.cases[row, variant], comparison.cases.get((alone, variant))
    interval = interval_of_ratio(case, single) if row != alone and single is not None else None
    return None if interval is None or too_wide(interval) else (interval.low, interval.high)


def _per_device(point: Point) -> Point:
    low, high = (None if end is None else end / point.x for end in (point.low, point.high))
    return replace(point, value=point.value / point.x, low=low, high=high)


def _with_whiskers(axis: Axis, lines: Sequence[Line]) -> Axis:
    """The axis, which says what the whiskers are where there are any."""
    some = any((point.low or 0) < (point.high or 0) for line in lines for point in line.points)
    return replace(axis, name=f"{axis.name}\n(whiskers: {axis.spread})") if some else axis


def _devices(comparison: Comparison) -> Across:
    """The numbers of devices, each with the topologies that have it."""
    topologies: dict[int, dict[str, None]] = {}
    for row in comparison.rows:
        topologies.setdefault(row.nodes * row.devices_per_node, {})[row.topology] = None
    ticks = {size: "\n".join([str(size), *topologies[size]]) for size in sorted(topologies)}
    return Across(name="devices", ticks=ticks)


def _rates(case: CaseFigures) -> tuple[float, float, float] | None:
    """The figure, its smallest and its largest run."""
    summary = case.summary
    return (summary.median, summary.minimum, summary.maximum) if summary else None


def _memory(case: CaseFigures) -> tuple[float, float, float] | None:
    """In MiB, the largest run first, as the tables have it."""
    peaks = [run.peak_memory_bytes / 2**20 for run in case.good if run.peak_memory_bytes is not None]
    return (max(peaks), min(peaks), max(peaks)) if peaks else None


def _lines_by_classes(
    comparison: Comparison,
    palette: Palette,
    measure: Callable[[CaseFigures], tuple[float, float, float] | None],
) -> list[Line]:
    """A line takes two points; topology, batch and whatever else varies make lines of their own."""
    if not comparison.varying("num_classes"):
        return []
    styles: dict[tuple[str, ...], int] = {}
    points: dict[tuple[Variant, tuple[str, ...]], list[Point]] = {}
    for (row, variant), case in sorted(comparison.cases.items()):
        topology = [row.topology] if comparison.scales else []
        style = (*topology, *varying(comparison, row, but="num_classes"))
        styles.setdefault(style, len(styles))
        measured = measure(case)
        if measured is not None and row.searched != "num_classes":
            value, low, high = measured
            at, runs = f"{row.num_classes} classes", len(case.good) or None
            point = Point(x=row.num_classes, value=value, at=at, low=low, high=high, runs=runs)
            points.setdefault((variant, style), []).append(point)
    return _lines(comparison, palette, points, styles)


def _classes(comparison: Comparison) -> Across:
    sizes = sorted({row.num_classes for row in comparison.rows if row.searched != "num_classes"})
    return Across(name="classes", ticks={size: f"{size}" for size in sizes}, logarithmic=True)


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
        _draw_line(axes, line, axis)
    points = [point for line in lines for point in line.points]
    highest = [max(point.value, point.high or 0) for point in points]
    axes.set_ylim(0, max(*highest, *(value for _, value in ideal)) * 1.08)
    axes.set_xticks(sizes, [across.ticks[size] for size in sizes])
    axes.set_ylabel(axis.name)
    if axis.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel(across.name)
    axes.set_title(title, loc="left")
    labels = [f"{line.label}  {axis.written(line.points[-1].value)}" for line in lines]
    ends = [
        ((line.points[-1].x, line.points[-1].value), label, line.colour)
        for line, label in zip(lines, labels, strict=True)
    ]
    if ideal:
        ends.append((ideal[-1], axis.ideal_name, FAINT))
    _label_ends(axes, ends, column=_right_of(sizes, logarithmic=across.logarithmic))
    return draw(figure, name=name, alt=f"{alt} {'; '.join(labels)}.")


def _draw_line(axes: Axes, line: Line, axis: Axis) -> None:
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
        if point.low is not None and point.high is not None and point.high > point.low:
            # About their own middle: an interval of means need not hold the medians.
            middle, reach = (point.low + point.high) / 2, (point.high - point.low) / 2
            axes.errorbar(point.x, middle, yerr=reach, fmt="none", ecolor=line.colour, capsize=3)
            spread = f"{axis.spread} {axis.written(point.low)} to {axis.written(point.high)}"
        (area,) = axes.plot(
            point.x, point.value, marker="o", markersize=_HOVER_SIZE, color=line.colour, alpha=0, zorder=10
        )
        value = f"{line.label}, {point.at}: {axis.written(point.value)} {axis.unit}"
        hover(area, value, spread, "" if point.runs is None else plural(point.runs, "run"))


def _right_of(sizes: Sequence[int], *, logarithmic: bool) -> float:
    """Where the labels stand: somewhat to the right of the last point, as far as the axis is long."""
    first, last = sizes[0], sizes[-1]
    return last * (last / first) ** 0.06 if logarithmic else last + (last - first) * 0.06


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
