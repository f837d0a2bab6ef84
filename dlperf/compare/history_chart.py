"""A history as a picture: medians with whiskers, the level of each stretch, a mark where it changed."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from dlperf.compare.history import By, History
from dlperf.compare.output import change
from dlperf.report.charts.canvas import COLOURS, FAINT, STYLE, WIDTH, Chart, draw, hover
from dlperf.report.numbers import plural, rate
from dlperf.statistics.basic import quantile

_MOST_LABELS = 30
_WORSE = COLOURS[5]


def history_chart(history: History, *, by: By) -> Chart:
    """The chart of a history."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        points = history.points
        places = list(range(len(points)))
        medians = [point.median for point in points]
        whiskers = [
            [point.median - point.minimum for point in points],
            [point.maximum - point.median for point in points],
        ]
        axes.errorbar(places, medians, yerr=whiskers, fmt="o", color=COLOURS[0], ecolor=FAINT, capsize=3)
        for place, point in enumerate(points):
            (area,) = axes.plot(place, point.median, marker="o", markersize=14, alpha=0, zorder=10)
            runs = f"runs {rate(point.minimum)} to {rate(point.maximum)}"
            hover(area, f"{point.version}, {point.day}: {rate(point.median)} {history.metric.unit}", runs)
        ends = [*history.starts[1:], len(points)]
        for start, end in zip(history.starts, ends, strict=True):
            level = quantile(medians[start:end], 0.5)
            axes.hlines(level, start - 0.4, end - 0.6, color=COLOURS[1])
        for start in history.starts[1:]:
            axes.axvline(start - 0.5, color=_WORSE, linestyle="--")
            axes.annotate(
                change(points[start].change),
                (start - 0.5, 1),
                xycoords=("data", "axes fraction"),
                color=_WORSE,
            )
        every = -(-len(points) // _MOST_LABELS)
        labels = [point.version if by == "version" else point.day[:10] for point in points]
        axes.set_xticks(places[::every], labels[::every], rotation=45, ha="right", fontsize=8)
        axes.set_ylabel(f"{history.metric.title}: median, smallest and largest run")
        axes.set_title(history.title, loc="left", pad=16)
        return draw(figure, name="history", alt=_alt_text(history))


def _alt_text(history: History) -> str:
    sessions, changes = len(history.points), plural(len(history.starts) - 1, "change")
    return f"{history.title}: {history.metric.title} of {sessions} sessions, {changes}"
