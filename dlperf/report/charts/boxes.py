"""Boxes: how the times of the measured iterations spread, one box per case, all its good runs together."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from dlperf.report.charts.canvas import INK, WIDTH, Chart, Palette, case_name, draw, hover_bar, name_bars
from dlperf.report.comparison import Comparison, Variant
from dlperf.report.numbers import plural, rate
from dlperf.results.cases import CaseFigures
from dlperf.results.store import read_steps_csv
from dlperf.statistics.basic import quantile

# More than this is a wall; the table is there for it.
MOST_BOXES = 36
_BOX = 0.3  # inches
_NAME = "seconds of a measured iteration: line at 50 %, box 25 to 75 %, whiskers 5 to 95 %"
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """Quantiles of the seconds of a case's iterations: 5, 25, 50, 75 and 95 %."""

    label: str
    variant: Variant
    quantiles: tuple[float, ...]
    iterations: int
    runs: int


def iterations(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """The chart; None where no run folder holds its steps, or there are too many cases."""
    if len(comparison.cases) > MOST_BOXES:
        return None
    boxes = [
        _Box(
            label=case_name(comparison, row, variant),
            variant=variant,
            quantiles=tuple(quantile(seconds, share) for share in _SHARES),
            iterations=len(seconds),
            runs=len(case.good),
        )
        for (row, variant), case in sorted(comparison.cases.items())
        if (seconds := _seconds(case))
    ]
    if not boxes:
        return None
    figure = Figure(figsize=(WIDTH, len(boxes) * _BOX + 1.3), layout="constrained")
    axes = figure.add_subplot()
    longest = max(box.quantiles[-1] for box in boxes)
    axes.set_xlim(0, longest * 1.12)
    for place, box in enumerate(boxes):
        low, first, middle, third, high = box.quantiles
        colour = palette.colour(box.variant)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.1, zorder=1)
        axes.barh(place, third - first, left=first, height=0.6, color=colour, edgecolor=INK, linewidth=0.6)
        axes.plot([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=2)
        axes.text(high + longest / 100, place, rate(middle), va="center", fontsize=9)
        spread = f"25 to 75 % {rate(first)} to {rate(third)}; 5 to 95 % {rate(low)} to {rate(high)}"
        counts = f"{plural(box.iterations, 'iteration')} of {plural(box.runs, 'run')}"
        hover_bar(axes, place, f"{box.label}: median {rate(middle)} s", spread, counts, height=0.9)
    name_bars(axes, [box.label for box in boxes])
    axes.set_xlabel(_NAME, loc="right")
    axes.set_title(f"Iterations: {title}", loc="left")
    texts = (
        f"{box.label}: median {rate(box.quantiles[2])}, 5 to 95 % {rate(box.quantiles[0])} to "
        f"{rate(box.quantiles[-1])}"
        for box in boxes
    )
    alt = f"Box chart, seconds of an iteration, {title}. {'; '.join(texts)}."
    return draw(figure, name="iterations", alt=alt)


def _seconds(case: CaseFigures) -> list[float]:
    """Of the accepted iterations of all good runs; empty where no folder holds them."""
    good = (run for run in case.runs if run.result.figures is not None)
    return [seconds for run in good for seconds in read_steps_csv(run.folder)]
