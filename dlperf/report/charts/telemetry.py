"""What a run's nodes sampled, over its time: a strip per quantity, a line per source."""

from itertools import cycle

import matplotlib as mpl
from matplotlib.figure import Figure

from dlperf.report.charts.canvas import COLOURS, FAINT, STYLE, WIDTH, Chart, draw
from dlperf.report.numbers import rate
from dlperf.results.curves import RunCurves

_STRIP = 0.95  # inches
_HEAD = 1.1
MOST_NAMED = 8  # sources; more are drawn, and have no names


def telemetry_chart(curves: RunCurves, *, title: str) -> Chart:
    """The picture of a run that was sampled; the time that it measured is grey."""
    sources = list(dict.fromkeys(name for panel in curves.panels for name in panel.curves))
    colours = dict(zip(sources, cycle(COLOURS), strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, _HEAD + _STRIP * len(curves.panels)), layout="constrained")
        strips = figure.subplots(len(curves.panels), sharex=True, squeeze=False)[:, 0]
        lines = {}
        for axes, panel in zip(strips, curves.panels, strict=True):
            if curves.measured is not None:
                axes.axvspan(*curves.measured, color=FAINT, alpha=0.15, linewidth=0)
            for name, curve in panel.curves.items():
                (lines[name],) = axes.plot(*zip(*curve, strict=True), color=colours[name], linewidth=1.2)
            low, high = panel.extremes
            margin = 0.1 * (high - low) or max(1.0, 0.1 * abs(high))
            axes.set_ylim(low - margin, high + margin)
            axes.set_title(
                f"{panel.title} ({panel.unit})" if panel.unit else panel.title, loc="left", fontsize=9
            )
            axes.tick_params(axis="y", labelsize=8)
        words = ("seconds since the first sample; grey: the measured window", curves.clocks)
        strips[-1].set_xlabel("\n".join(filter(None, words)))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        if 1 < len(lines) <= MOST_NAMED:
            figure.legend(
                lines.values(), lines, loc="outside upper right", ncols=4, frameon=False, fontsize=8
            )
        ranges = (
            f"{panel.title} {rate(panel.extremes[0])} to {rate(panel.extremes[1])} {panel.unit}".strip()
            for panel in curves.panels
        )
        said = "; ".join((*ranges, curves.clocks) if curves.clocks else ranges)
        return draw(figure, name="telemetry", alt=f"Line chart, telemetry over time, {title}. {said}.")
