"""Boxes: how the times of the measured iterations spread, one box a case, all its good runs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from dlperf.report.charts.canvas import INK, WIDTH, Chart, Palette, drawn, varying
from dlperf.report.charts.plot import Plot, PlotPoint, PlotSeries
from dlperf.report.numbers import rate
from dlperf.results.store import read_steps_csv
from dlperf.statistics.basic import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.report.comparison import Arm, Comparison
    from dlperf.results.cases import CaseFigures

# More than this is a wall; the table is there for it.
MOST_BOXES = 36
_BOX = 0.3  # inches
_NAME = "seconds of a measured iteration: line at 50 %, box 25 to 75 %, whiskers 5 to 95 %"
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Quantiles of the seconds of a case's iterations: 5, 25, 50, 75 and 95 %."""

    label: str
    arm: Arm
    quantiles: tuple[float, ...]


def chart(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no run folder holds its steps, or there are too many cases."""
    if len(comparison.cases) > MOST_BOXES:
        return None
    boxes = [
        Box(
            label=", ".join([comparison.label(arm), row.topology, *varying(comparison, row)]),
            arm=arm,
            quantiles=tuple(quantile(seconds, share) for share in _SHARES),
        )
        for (row, arm), case in sorted(comparison.cases.items())
        if (seconds := _seconds(case))
    ]
    if not boxes:
        return None
    figure = Figure(figsize=(WIDTH, len(boxes) * _BOX + 1.3), layout="constrained")
    axes = figure.add_subplot()
    longest = max(box.quantiles[-1] for box in boxes)
    for place, box in enumerate(boxes):
        low, first, middle, third, high = box.quantiles
        colour = palette.colour(box.arm)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.1, zorder=1)
        axes.barh(place, third - first, left=first, height=0.6, color=colour, edgecolor=INK, linewidth=0.6)
        axes.plot([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=2)
        axes.text(high + longest / 100, place, rate(middle), va="center", fontsize=9)
    axes.set_yticks(range(len(boxes)), [box.label for box in boxes])
    axes.set_ylim(len(boxes) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.12)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_NAME, loc="right")
    axes.set_title(f"Iterations: {title}", loc="left")
    texts = (
        f"{box.label}: median {rate(box.quantiles[2])}, 5 to 95 % {rate(box.quantiles[0])} to "
        f"{rate(box.quantiles[-1])}"
        for box in boxes
    )
    alt = f"Box chart, seconds of an iteration, {title}. {'; '.join(texts)}."
    return drawn(figure, name="iterations", alt=alt, plot=_plot(boxes, title, palette))


def _seconds(case: CaseFigures) -> list[float]:
    """Of the accepted iterations of all good runs; empty where no folder holds them."""
    good = (run for run in case.runs if run.result.figures is not None)
    return [seconds for run in good for seconds in read_steps_csv(run.folder)]


def _plot(boxes: Sequence[Box], title: str, palette: Palette) -> Plot:
    series: dict[Arm, list[PlotPoint]] = {}
    for place, box in enumerate(boxes):
        low, first, middle, third, high = box.quantiles
        point = PlotPoint(x=place, y=third, start=first, low=low, high=high, middle=middle)
        series.setdefault(box.arm, []).append(point)
    return Plot(
        kind="stack",
        title=f"Iterations: {title}",
        x_name=_NAME,
        y_name="",
        categories=tuple(box.label for box in boxes),
        series=tuple(
            PlotSeries(
                label=next(box.label.partition(", ")[0] for box in boxes if box.arm == arm),
                colour=palette.colour(arm),
                points=tuple(points),
            )
            for arm, points in series.items()
        ),
    )
