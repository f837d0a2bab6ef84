"""`dlperf show CASE --telemetry`: what a run's nodes and devices did, as text or as a picture."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from dlperf.cli.terminal import echo, wrapped, write_file
from dlperf.errors import UserError
from dlperf.results.cases import CaseFigures
from dlperf.results.curves import Curve, RunCurves, run_curves
from dlperf.results.store import StoredRun

_BARS: Final = "▁▂▃▄▅▆▇█"
_FILE_WIDTH = 100  # where the output is no terminal
_FEWEST_BARS, _MOST_NOTES = 10, 20
_SHORTEST_SECONDS = 0.001
_LONG_GAP = 3  # times the usual time between two samples


def show_telemetry(found: Sequence[CaseFigures], *, repeat: int | None, out: Path | None) -> None:
    """Print a chart of each run that was sampled, or of `repeat` alone; with `out` write one as a picture.

    UserError where there is none.
    """
    runs = [run for figure in found for run in figure.runs if repeat in {None, run.result.repeat}]
    sampled = [(run, curves) for run in runs if (curves := run_curves(run.folder)) is not None]
    if not sampled:
        case = found[0].case.case_id
        which = "no run" if repeat is None else f"no run {repeat}"
        raise UserError(
            f"{case}: {which} with telemetry; runs are sampled unless the sweep says "
            "`measure: {telemetry: false}`"
        )
    if out is not None:
        _write(out, *sampled[0])
        return
    echo("\n\n".join("\n".join(_lines(run, curves)) for run, curves in sampled))


def _write(out: Path, run: StoredRun, curves: RunCurves) -> None:
    """As PNG or SVG, by the name of the file."""
    kind = out.suffix.lower().removeprefix(".")
    if kind not in {"svg", "png"}:
        raise UserError(f"{out}: a picture is a .svg or a .png file")
    from dlperf.report.charts.telemetry import telemetry_chart

    title = f"{run.result.case.case_id} r{run.result.repeat}"
    chart = telemetry_chart(curves, title=title)
    write_file(out, chart.svg if kind == "svg" else chart.png)


def _lines(run: StoredRun, curves: RunCurves) -> Iterator[str]:
    """A line per curve: bars from the least to the largest value of its quantity."""
    console = Console(file=sys.stdout)
    width = console.width if console.is_terminal else _FILE_WIDTH
    title = f"run {run.result.repeat}: {curves.seconds:.1f} s sampled"
    if curves.measured is not None:
        start, end = curves.measured
        title += f", measured from second {max(0.0, start):.1f} to {end:.1f}"
    yield title
    if curves.clocks:
        yield f"  {curves.clocks}"
    rows = [
        (
            f"  {'' if number else panel.title}",
            source,
            curve,
            panel.extremes,
            _span(panel.extremes, panel.unit),
        )
        for panel in curves.panels
        for number, (source, curve) in enumerate(panel.curves.items())
    ]
    if not rows:
        yield "  nothing but zeros"
        return
    names, sources, spans = (max(len(row[place]) for row in rows) for place in (0, 1, 4))
    bars = max(_FEWEST_BARS, width - names - sources - spans - 4)
    for name, source, curve, extremes, span in rows:
        shown = sparkline(curve, seconds=curves.seconds, width=bars, extremes=extremes)
        yield f"{name:<{names}} {source:<{sources}}  {shown} {span}"
    if curves.measured is not None:
        yield f"{'':<{names + sources + 3}}{_ruler(curves.measured, seconds=curves.seconds, width=bars)}"
    for note in curves.notes[:_MOST_NOTES]:
        yield wrapped(f"  missing: {note}", indent=4)


def _span(extremes: tuple[float, float], unit: str) -> str:
    low, high = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in extremes)  # noqa: PLR2004
    return f"{low if low == high else f'{low} to {high}'} {unit}".rstrip()


def sparkline(curve: Curve, *, seconds: float, width: int, extremes: tuple[float, float]) -> str:
    """Bars of the mean value of each part of the time; a space where there was no sample for long."""
    parts: list[list[float]] = [[] for _ in range(width)]
    for time, value in curve:
        place = int(time / seconds * width) if seconds >= _SHORTEST_SECONDS else 0
        parts[min(max(place, 0), width - 1)].append(value)
    usual = width / len(curve)  # parts from one sample to the next
    bars, empty = [], 0
    for part in parts:
        empty = 0 if part else empty + 1
        if part:
            bars.append(_bar(sum(part) / len(part), extremes))
        else:
            bars.append(bars[-1] if bars and empty < _LONG_GAP * usual else " ")
    return "".join(bars)


def _bar(value: float, extremes: tuple[float, float]) -> str:
    low, high = extremes
    place = (value - low) / (high - low) if high > low else 0.5
    return _BARS[round(min(max(place, 0.0), 1.0) * (len(_BARS) - 1))]


def _ruler(measured: tuple[float, float], *, seconds: float, width: int) -> str:
    """Where the bars above were measured."""
    first, last = (
        min(max(round(time / seconds * width), 0), width) if seconds >= _SHORTEST_SECONDS else 0
        for time in measured
    )
    inside = max(2, last - first) - 2
    return f"{' ' * first}└{' measured ':─^{inside}}┘" if inside > 10 else f"{' ' * first}└{'─' * inside}┘"  # noqa: PLR2004
