"""The samples of a run as curves over its time, for charts: one panel per quantity, a curve per source."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from dlperf.results.extract import extract
from dlperf.results.telemetry import (
    HELD_BACK,
    NODE,
    NodeTelemetry,
    Series,
    Shift,
    measured_window,
    read_telemetry,
)

Curve = list[tuple[float, float]]  # seconds since the first sample, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One quantity: its curves by source, such as `gpu0` or `node 1 gpu0`."""

    title: str
    unit: str
    curves: dict[str, Curve]

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest value."""
        values = [value for curve in self.curves.values() for _, value in curve]
        return min(values), max(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """What a run's nodes sampled.

    Attributes:
        seconds: from the first sample to the last.
        measured: from when to when the run measured, in seconds; None where it did not.
        clocks: how the times of several nodes were brought together, in words; empty with one node.
        notes: what is missing.
    """

    seconds: float
    measured: tuple[float, float] | None
    panels: tuple[Panel, ...]
    clocks: str
    notes: tuple[str, ...]


def _rate(series: Series, factor: float) -> Series:
    """How fast a counter rises, per second times a factor, at the end of each interval."""
    return [
        (after, factor * (high - low) / (after - before) * 1000)
        for (before, low), (after, high) in pairwise(series)
        if after > before and high >= low
    ]


def _waiting(node: NodeTelemetry) -> Series:
    """The share of its time that the ranks' threads waited for a CPU, in percent."""
    ran, waited = (dict(node.series.get((NODE, f"{name}_seconds"), [])) for name in ("run", "wait"))
    times = sorted(ran.keys() & waited.keys())
    return [
        (after, 100 * wait / total)
        for before, after in pairwise(times)
        if (total := ran[after] - ran[before] + (wait := waited[after] - waited[before])) > 0 and wait >= 0
    ]


def _counter(column: str, factor: float) -> Callable[[NodeTelemetry, str], Series]:
    return lambda node, source: _rate(node.series.get((source, column), []), factor)


def _gauge(column: str) -> Callable[[NodeTelemetry, str], Series]:
    return lambda node, source: node.series.get((source, column), [])


def _held_back(node: NodeTelemetry, source: str) -> Series:
    masks = node.series.get((source, "reasons"), [])
    return [(time, 100.0 if int(mask) & HELD_BACK else 0.0) for time, mask in masks]


# Title, unit, and a series of a source; one that is 0 all the time is not shown.
_GPU: Final = (
    ("SM clock", "MHz", _gauge("sm_mhz")),
    ("clocks held back", "%", _held_back),
    ("power", "W", _gauge("power_watts")),
    ("temperature", "C", _gauge("celsius")),
    ("GPU busy", "%", _gauge("utilization_percent")),
    ("processes of others", "", _gauge("other_processes")),
)
_NODE: Final = (
    ("CPU clock", "MHz", _gauge("cpu_mhz")),
    ("waiting for a CPU", "%", lambda node, _: _waiting(node)),
    ("CPUs stolen", "%", _counter("steal_seconds", 100)),
    ("waiting for memory", "%", _counter("pressure_memory_seconds", 100)),
    ("waiting for disks", "%", _counter("pressure_io_seconds", 100)),
    ("sent", "MB/s", _counter("sent_bytes", 1e-6)),
    ("read from disk", "MB/s", _counter("disk_read_bytes", 1e-6)),
)


def run_curves(folder: Path) -> RunCurves | None:
    """The curves of a run folder; None where nothing was sampled. UserError where it is no run folder."""
    nodes = read_telemetry(folder)
    spans = {rank: span for rank, node in nodes.items() if (span := _span(node)) is not None}
    if not spans:
        return None
    extracted, measured = extract(folder), None
    shifts = {rank: shift for rank in spans if (shift := extracted.shifts.get(rank)) is not None}
    # By node 0's clock; a node whose clock is not known begins with its own first sample.
    first = min((spans[rank][0] - shift.ms for rank, shift in shifts.items()), default=None)
    begins = {
        rank: start if first is None or rank not in shifts else first + shifts[rank].ms
        for rank, (start, _) in spans.items()
    }
    window = measured_window(extracted.steps)
    if window is not None and first is not None:
        (start, end), _, _ = window
        measured = ((start - first) / 1000, (end - first) / 1000)
    several = len(nodes) > 1
    return RunCurves(
        seconds=max(end - begins[rank] for rank, (_, end) in spans.items()) / 1000,
        measured=measured,
        panels=tuple(_panels({rank: nodes[rank] for rank in spans}, begins, several=several)),
        clocks="; ".join(_clock_words({rank: shifts.get(rank) for rank in spans})) if several else "",
        notes=tuple(
            " ".join(filter(None, (f"node {rank}" if several else "", note.source, note.text)))
            for rank, node in nodes.items()
            for note in node.notes
        ),
    )


def _clock_words(shifts: Mapping[int, Shift | None]) -> Iterator[str]:
    """`clocks aligned within 0.4 ms`, of the nodes other than 0."""
    others = {rank: shift for rank, shift in shifts.items() if rank}
    bounds = [shift.within_ms for shift in others.values() if shift is not None]
    known = [bound for bound in bounds if bound is not None]
    if known:
        yield f"clocks aligned within {max(known):.2g} ms"
    if len(known) < len(bounds):
        yield "clocks aligned by the end of the measured window"
    unknown = ", ".join(f"node {rank}" for rank, shift in others.items() if shift is None)
    if unknown:
        yield f"clock not known, begins with its own first sample: {unknown}"


def _span(node: NodeTelemetry) -> tuple[float, float] | None:
    """The first and the last time of a node's samples."""
    times = [time for series in node.series.values() for time, _ in (series[0], series[-1])]
    return (min(times), max(times)) if times else None


def _panels(nodes: dict[int, NodeTelemetry], begins: dict[int, float], *, several: bool) -> Iterator[Panel]:
    for kinds, of_gpus in ((_GPU, True), (_NODE, False)):
        for title, unit, series_of in kinds:
            curves = {
                f"node {rank} {source if of_gpus else ''}".strip() if several else source: [
                    ((time - begins[rank]) / 1000, value) for time, value in series
                ]
                for rank, node in nodes.items()
                for source in (node.gpus if of_gpus else [NODE])
                if (series := series_of(node, source))
            }
            if any(value for curve in curves.values() for _, value in curve):
                yield Panel(title=title, unit=unit, curves=curves)
