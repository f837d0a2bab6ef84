"""Bars: samples/s of every framework in every row, and where the time of a profiled step goes.

Boxes: how the times of the measured iterations spread inside the good runs of a case.
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlperf.report.charts.canvas import (
    COLOURS,
    FAINT,
    INK,
    WIDTH,
    Chart,
    case_name,
    draw,
    hover,
    hover_bar,
    legend_above,
    name_bars,
    varying_words,
)
from dlperf.report.comparison import Comparison, Variant
from dlperf.report.numbers import rate, span
from dlperf.report.tables import PHASES, in_order, status_of
from dlperf.report.text import plain_text
from dlperf.results.cases import CaseFigures
from dlperf.results.store import read_steps_csv
from dlperf.statistics.basic import quantile
from dlperf.wording import plural

# More than this is a wall; the table is there for it.
MOST_BARS = 48
MOST_THIN_BARS = 36  # or boxes
_BAR, _GAP = 0.27, 0.25  # inches of a bar, and between two rows of the table
_THIN_BAR = 0.3  # inches
_RATE = "samples/s over all {devices}: median of the runs, whiskers from smallest to largest run"
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ITERATION = (
    "seconds of a measured iteration inside a run, medians over the good runs:\n"
    "line at 50 %, box 25 to 75 %, whiskers 5 to 95 %"
)
_SECONDS = "seconds of a profiled step, its parts one after the other"
_TEXT: dict[str, Any] = {"va": "center", "fontsize": 9}
# A part below this share of the longest bar has no room for its number.
_LEAST_SHARE = 0.07
# Colours of the parts of a step, light enough for dark numbers on them.
_PART_COLOURS = dict(zip(PHASES, (COLOURS[4], COLOURS[1], "#F0E442", COLOURS[3], "#BBBBBB"), strict=True))
_ON_PART = "#1f2328"  # unlike INK it stays dark on a dark page


def throughput(comparison: Comparison, *, title: str, colours: Mapping[Variant, str]) -> Chart | None:
    """Samples/s; None where nothing was measured, or too much for one picture."""
    rows, variants = comparison.rows, comparison.variants
    maxima = [figure.summary.maximum for figure in comparison.figures if figure.summary is not None]
    if not maxima or len(rows) * len(variants) > MOST_BARS:
        return None
    height = len(variants) * _BAR + _GAP
    figure = Figure(figsize=(WIDTH, len(rows) * height + 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, max(maxima) * 1.16)
    for place, row in enumerate(rows):
        for column, variant in enumerate(variants):
            middle, case = place * height + column * _BAR, comparison.cases.get((row, variant))
            _bar(axes, case, middle=middle, colour=colours[variant])
            value, *spread = _value(case)
            hover_bar(axes, middle, f"{case_name(comparison, row, variant)}: {value}", *spread, height=_BAR)
    middles = [place * height + (len(variants) - 1) * _BAR / 2 for place in range(len(rows))]
    labels = ["\n".join([row.topology, *varying_words(comparison, row)]) for row in rows]
    axes.set_yticks(middles, labels)
    axes.set_ylim(middles[-1] + height / 2, middles[0] - height / 2)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_RATE.format(devices=comparison.device_words[1]), loc="right")
    handles = [Patch(color=colours[variant], label=comparison.label(variant)) for variant in variants]
    legend_above(axes, handles, title=f"Throughput: {title}")
    values = (
        f"{case_name(comparison, row, variant)}: {rate(case.summary.median) if case.summary else _word(case)}"
        for (row, variant), case in sorted(comparison.cases.items())
    )
    alt = f"Bar chart of samples/s on {comparison.device_words[1]}, {title}. {'; '.join(values)}."
    return draw(figure, name="throughput", alt=alt)


def _bar(axes: Axes, case: CaseFigures | None, *, middle: float, colour: str) -> None:
    unit = axes.get_xlim()[1] / 100
    if case is None or case.summary is None:
        axes.text(unit, middle, _word(case), color=FAINT, style="italic", **_TEXT)
        return
    summary = case.summary
    axes.barh(middle, summary.median, height=_BAR * 0.88, color=colour)
    if summary.maximum > summary.minimum:
        reach = [[summary.median - summary.minimum], [summary.maximum - summary.median]]
        axes.errorbar(summary.median, middle, xerr=reach, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    axes.text(summary.maximum + unit, middle, rate(summary.median), **_TEXT)


def _word(case: CaseFigures | None) -> str:
    return plain_text(status_of(case))


def _value(case: CaseFigures | None) -> list[str]:
    """Samples/s, smallest to largest run, the 95 % interval of the mean, and the number of runs."""
    if case is None or case.summary is None:
        return [_word(case)]
    summary, interval = case.summary, case.summary.interval
    parts = [f"{rate(summary.median)} samples/s"]
    if summary.maximum > summary.minimum:
        parts.append(f"runs {span(summary.minimum, summary.maximum)}")
    if interval is not None:
        parts.append(f"95 % interval of the mean {span(interval.low, interval.high)}")
    # A published figure may be a median whose runs nobody printed.
    return [*parts, plural(summary.runs, "run")] if case.runs or summary.runs > 1 else parts


def breakdown(comparison: Comparison, *, title: str, colours: Mapping[Variant, str]) -> Chart | None:
    """Where the time of a step goes, a bar per case; None where no or too many cases tell their phases."""
    del colours  # they stand for phases here
    bars = {
        case_name(comparison, row, variant): in_order(case.phase_seconds)
        for (row, variant), case in sorted(comparison.cases.items())
        if case.phase_seconds
    }
    if not 0 < len(bars) <= MOST_THIN_BARS:
        return None
    figure = Figure(figsize=(WIDTH, len(bars) * _THIN_BAR + 1.5), layout="constrained")
    axes = figure.add_subplot()
    longest = max(sum(seconds.values()) for seconds in bars.values())
    for place, (name, seconds) in enumerate(bars.items()):
        start, whole = 0.0, sum(seconds.values())
        for phase, value in seconds.items():
            (part,) = axes.barh(place, value, left=start, height=0.8, color=_part_colour(phase))
            share = f"{100 * value / whole:.0f} % of {rate(whole)}" if whole else ""
            hover(part, f"{name}, {_part(phase)}: {rate(value)} s", share)
            if value >= _LEAST_SHARE * longest:
                middle = start + value / 2
                axes.text(middle, place, rate(value), ha="center", va="center", fontsize=8, color=_ON_PART)
            start += value
    name_bars(axes, list(bars))
    axes.set_xlim(0, longest * 1.05)
    axes.set_xlabel(_SECONDS, loc="right")
    phases = in_order({phase: 0.0 for seconds in bars.values() for phase in seconds})
    handles = [Patch(color=_part_colour(phase), label=_part(phase)) for phase in phases]
    legend_above(axes, handles, title=f"Where the time goes: {title}")
    parts = "; ".join(
        f"{bar}: {', '.join(f'{_part(phase)} {rate(value)}' for phase, value in seconds.items())}"
        for bar, seconds in bars.items()
    )
    devices = comparison.device_words[1]
    alt = f"Bar chart, seconds of a step by part on {devices}, {title}. {parts}."
    return draw(figure, name="breakdown", alt=alt)


def _part(phase: str) -> str:
    return plain_text(PHASES.get(phase, phase))


def _part_colour(phase: str) -> str:
    return _PART_COLOURS.get(phase, "#DDDDDD")


def iterations(comparison: Comparison, *, title: str, colours: Mapping[Variant, str]) -> Chart | None:
    """The chart; None where no run folder holds its steps, or there are too many cases."""
    if len(comparison.cases) > MOST_THIN_BARS:
        return None
    measured = {cell: runs for cell in sorted(comparison.cases) if (runs := _seconds(comparison.cases[cell]))}
    if not measured:
        return None
    # As in the tables: of each run, and the median of the runs.
    quantiles = {
        cell: [quantile([quantile(run, share) for run in runs], 0.5) for share in _SHARES]
        for cell, runs in measured.items()
    }
    names = {cell: case_name(comparison, *cell) for cell in measured}
    figure = Figure(figsize=(WIDTH, len(measured) * _THIN_BAR + 1.5), layout="constrained")
    axes = figure.add_subplot()
    longest = max(high for *_, high in quantiles.values())
    axes.set_xlim(0, longest * 1.12)
    for place, (cell, runs) in enumerate(measured.items()):
        low, first, middle, third, high = quantiles[cell]
        colour = colours[cell[1]]
        axes.plot([low, high], [place, place], color=INK, linewidth=1.1, zorder=1)
        axes.barh(place, third - first, left=first, height=0.6, color=colour, edgecolor=INK, linewidth=0.6)
        axes.plot([middle, middle], [place - 0.3, place + 0.3], color=INK, linewidth=2)
        axes.text(high + longest / 100, place, rate(middle), va="center", fontsize=9)
        spread = f"25 to 75 % {rate(first)} to {rate(third)}; 5 to 95 % {rate(low)} to {rate(high)}"
        counts = f"{plural(sum(map(len, runs)), 'iteration')} of {plural(len(runs), 'run')}"
        hover_bar(axes, place, f"{names[cell]}: median {rate(middle)} s", spread, counts, height=0.9)
    name_bars(axes, list(names.values()))
    axes.set_xlabel(_ITERATION, loc="right")
    axes.set_title(f"Iterations: {title}", loc="left")
    texts = (
        f"{names[cell]}: median {rate(middle)}, 5 to 95 % {rate(low)} to {rate(high)}"
        for cell, (low, _, middle, _, high) in quantiles.items()
    )
    devices = comparison.device_words[1]
    alt = f"Box chart, seconds of an iteration on {devices}, {title}. {'; '.join(texts)}."
    return draw(figure, name="iterations", alt=alt)


def _seconds(case: CaseFigures) -> list[list[float]]:
    """Of the accepted iterations of each good run whose folder holds them."""
    batch = case.case.global_batch_size
    series = (read_steps_csv(run.folder, samples_per_iteration=batch) for run in case.good_runs)
    return list(filter(None, series))
