"""Lines over the number of classes, on a logarithmic axis: samples/s and peak memory of a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.charts.canvas import Chart, Palette, varying
from dlperf.report.charts.lines import Across, Axis, Line, line_chart

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.report.comparison import Arm, Comparison
    from dlperf.results.cases import CaseFigures

Value = tuple[float, float, float]  # the figure, its smallest and its largest run


def throughput(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Samples/s; None where the number of classes does not vary."""
    return line_chart(
        _lines(comparison, palette, _rate),
        axis=Axis(name="samples/s (whiskers: smallest, largest run)", numbers="rate"),
        across=_across(comparison),
        name="classes-throughput",
        title=f"Throughput against classes: {title}",
        alt=f"Line chart, samples/s against the number of classes, {title}; last values:",
    )


def memory(comparison: Comparison, *, title: str, palette: Palette) -> Chart | None:
    """Peak memory; None where the number of classes does not vary, or no run tells its memory."""
    return line_chart(
        _lines(comparison, palette, _memory),
        axis=Axis(name="peak memory of a rank (MiB)", numbers="whole"),
        across=_across(comparison),
        name="classes-memory",
        title=f"Peak memory against classes: {title}",
        alt=f"Line chart, peak memory of a rank against the number of classes, {title}; last values:",
    )


def _rate(figure: CaseFigures) -> Value | None:
    summary = figure.summary
    return (summary.median, summary.minimum, summary.maximum) if summary else None


def _memory(figure: CaseFigures) -> Value | None:
    peaks = [run.peak_memory_bytes / 2**20 for run in figure.good if run.peak_memory_bytes is not None]
    return (max(peaks), min(peaks), max(peaks)) if peaks else None


def _lines(
    comparison: Comparison, palette: Palette, value: Callable[[CaseFigures], Value | None]
) -> list[Line]:
    """A line takes two points; topology, batch and whatever else varies make lines of their own."""
    if not comparison.varying("num_classes"):
        return []
    variants: dict[tuple[str, ...], int] = {}
    found: dict[tuple[Arm, tuple[str, ...]], list[tuple[int, Value]]] = {}
    for (row, arm), figure in sorted(comparison.cases.items()):
        topology = [row.topology] if comparison.scales else []
        variant = (*topology, *varying(comparison, row, but="num_classes"))
        variants.setdefault(variant, len(variants))
        measured = value(figure)
        if measured is not None and row.searched != "num_classes":
            found.setdefault((arm, variant), []).append((row.num_classes, measured))
    return [
        Line(
            label=", ".join([comparison.label(arm), *variant]),
            colour=palette.colour(arm),
            variant=variants[variant],
            points=tuple((classes, measured[0]) for classes, measured in sorted(points)),
            whiskers=tuple(measured[1:] for _, measured in sorted(points)),
        )
        for (arm, variant), points in sorted(found.items())
        if len(points) > 1
    ]


def _across(comparison: Comparison) -> Across:
    sizes = sorted({row.num_classes for row in comparison.rows if row.searched != "num_classes"})
    return Across(name="classes", ticks={size: f"{size}" for size in sizes}, logarithmic=True)
