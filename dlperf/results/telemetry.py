"""What a run's nodes sampled (`telemetry.csv`), and what of it a result keeps.

The files come from nodes and may be cut, damaged or somebody else's: whatever cannot be read is no sample.
Samples count within the measured window: from the start of the first step that counts to the end of the last.
Times are those of rank 0's steps. Another node's clock may differ: dlperf asked both for the time before the
run (`clocks` in environment.json). Without that, all ranks end the measured window at the same step, and the
times of that event (`interference`) tell the difference.

A gauge is read as it stands at each sample. A counter's amount in the window is the difference of its values
at both ends, and energy the integral of power, both with straight lines between samples.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from dlperf.files import open_regular
from dlperf.layout import MOST_TELEMETRY_BYTES, telemetry_files
from dlperf.logs.events import TRAIN, Event, Step
from dlperf.logs.text import plain
from dlperf.plan.case import Case, Topology
from dlperf.results.schema import LARGEST_COUNT, Clock, Engine, Telemetry
from dlperf.results.traffic import sent_bytes

NODE: Final = "node"
_SOURCE = re.compile(r"node|gpu\d{1,3}")
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_MASK = re.compile(r"0x[0-9a-f]{1,16}")
_MOST_SOURCES, _MOST_COLUMNS, _MOST_NOTES, _LONGEST_NOTE = 64, 64, 100, 200
_MOST_TIME_MS = 1 << 53  # what a double holds
_MOST_SHOWN_NOTES = 12
# Bits of nvidia-smi's mask (NVML, nvmlClocksEventReasons) for clocks that are held back from outside the
# program. An idle GPU, clocks that somebody set, and those of a group or a display are none.
REASONS: Final = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
HELD_BACK: Final = sum(REASONS)
# Between two samples, in milliseconds and as a share of the window; a longer gap, and nothing is known of it.
_MOST_GAP_MS, _MOST_GAP_SHARE = 5000.0, 0.05

Series = list[tuple[float, float]]  # time in ms and value, in the order of the times
Window = tuple[float, float]  # its ends in ms, by the node's own clock


class Shift(NamedTuple):
    """How far a node's clock is ahead of that of node 0, give or take; None: no bound is known."""

    ms: float
    within_ms: float | None = None


class Note(NamedTuple):
    """What a sampler says is missing."""

    time_ms: float
    source: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTelemetry:
    """What one node sampled: a series by source (`node`, `gpu0`) and column, GPUs' names, notes."""

    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    @property
    def gpus(self) -> list[str]:
        """The sources that are GPUs, by number."""
        names = {source for source, _ in self.series} - {NODE}
        return sorted(names, key=lambda name: (len(name), name))

    def within(self, source: str, column: str, window: Window) -> list[float]:
        """The values of a gauge in the window."""
        start, end = window
        return [value for time, value in self.series.get((source, column), ()) if start <= time <= end]


def read_telemetry(folder: Path) -> dict[int, NodeTelemetry]:
    """What the nodes of a run folder sampled, by node rank; a file that cannot be read has no samples."""
    found = {}
    for node_rank, path in telemetry_files(folder).items():
        try:
            with open_regular(path, most_bytes=MOST_TELEMETRY_BYTES) as stream:
                content = stream.read().decode("utf-8", errors="replace")
        except OSError as error:
            note = Note(0.0, NODE, f"{path.name}: {error.strerror}")
            found[node_rank] = NodeTelemetry(notes=(note,))
        else:
            found[node_rank] = parse_telemetry(content)
    return found


def parse_telemetry(content: str) -> NodeTelemetry:
    """The samples of a file; what is no whole row of the header's columns, as a cut line, is none."""
    lines = io.StringIO(content, newline="\n")
    header = next(lines, "").rstrip("\n").split(",")
    if "time_ms" not in header or "source" not in header or len(header) > _MOST_COLUMNS:
        note = Note(0.0, NODE, "its telemetry has no header")
        return NodeTelemetry(notes=(note,) if content else ())
    series: dict[tuple[str, str], Series] = {}
    devices: dict[str, str] = {}
    notes: list[Note] = []
    for line in lines:
        cells = line.removesuffix("\n").split(",")
        if len(cells) != len(header) or not line.endswith("\n"):
            continue
        row = dict(zip(header, cells, strict=True))
        time, source = _number(row.pop("time_ms")), row.pop("source")
        if time is None or not 0 <= time <= _MOST_TIME_MS or not _SOURCE.fullmatch(source):
            continue
        text, device = row.pop("note", ""), row.pop("device", "")
        if text and len(notes) < _MOST_NOTES:
            notes.append(Note(time, source, plain(text)[:_LONGEST_NOTE]))
        if device and len(devices) < _MOST_SOURCES:
            devices[source] = plain(device)[:_LONGEST_NOTE]
        for column, cell in row.items():
            value = _number(cell) if cell else None
            key = (source, column)
            if value is not None and (key in series or len(series) < _MOST_SOURCES * _MOST_COLUMNS):
                series.setdefault(key, []).append((time, value))
    for each in series.values():
        each.sort()
    return NodeTelemetry(series=series, devices=devices, notes=tuple(notes))


def _number(text: str) -> float | None:
    if _MASK.fullmatch(text):
        return float(int(text, 16) & 0xFFFF)
    return float(text) if _NUMBER.fullmatch(text) else None


def at(series: Series, time: float) -> float | None:
    """The value at a time, on the straight line between the samples around it; of the nearest at the ends."""
    if not series:
        return None
    if time <= series[0][0]:
        return series[0][1]
    for (before, low), (after, high) in pairwise(series):
        if before <= time <= after:
            return high if after == before else low + (high - low) * (time - before) / (after - before)
    return series[-1][1]


def covers(series: Series, window: Window) -> bool:
    """Whether no two samples around or in the window, or a sample and its end, lie too far apart."""
    if not series:
        return False
    start, end = window
    times = [time for time, _ in series]
    most = max(_MOST_GAP_MS, _MOST_GAP_SHARE * (end - start))
    bounds = (min(start, times[0]), *times, max(end, times[-1]))
    return all(after - before <= most for before, after in pairwise(bounds) if before < end and after > start)


def increase(series: Series, window: Window) -> float | None:
    """How much a counter rose in the window; None where samples are missing, or it was set back."""
    if len(series) < 2 or not covers(series, window):  # noqa: PLR2004  a difference takes two
        return None
    start, end = (at(series, time) for time in window)
    return None if start is None or end is None or end < start else end - start


def integral(series: Series, window: Window) -> float | None:
    """Of a gauge over the window, in its unit times seconds; None where samples are missing."""
    start, end = window
    if not series or not covers(series, window):
        return None
    points = [
        (start, at(series, start) or 0.0),
        *((time, value) for time, value in series if start < time < end),
        (end, at(series, end) or 0.0),
    ]
    return sum(
        (low + high) / 2 * (after - before) / 1000 for (before, low), (after, high) in pairwise(points)
    )


def measured_window(steps: Sequence[Step]) -> tuple[Window, int, int] | None:
    """From the first step that counts to the end of the last, in ms; samples and iterations between.

    Pauses between them count too. A step is printed when the next one has begun, and the last of all at its
    end: so the steps' seconds say when the first began. None where the steps have no times.
    """
    counted = [number for number, step in enumerate(steps) if step.kind == TRAIN]
    if not counted:
        return None
    inside = steps[counted[0] : counted[-1] + 1]
    end = inside[-1].time_ms
    start = None if end is None else end - 1000 * sum(step.seconds for step in inside)
    if start is None or end is None or not 0 <= start < end <= _MOST_TIME_MS:
        return None
    samples, iterations = sum(step.samples for step in inside), sum(step.iterations for step in inside)
    return (start, float(end)), samples, iterations


def telemetry_of(
    nodes: Mapping[int, NodeTelemetry],
    *,
    steps: Sequence[Step],
    shifts: Mapping[int, Shift | None],
    case: Case,
    engine: Engine,
) -> Telemetry | None:
    """What a result keeps; None where nothing was sampled, or the run has no step that counts."""
    measured = measured_window(steps)
    if not nodes or measured is None:
        return None
    window, samples, iterations = measured
    windows = {rank: _shifted(window, shifts.get(rank)) for rank in nodes}
    gpus = [(nodes[rank], source, windows[rank]) for rank in sorted(nodes) for source in nodes[rank].gpus]
    gpus = [gpu for gpu in gpus if _is_sampled(*gpu)]
    machines = [(nodes[rank], NODE, windows[rank]) for rank in sorted(nodes)]
    seconds = (window[1] - window[0]) / 1000
    sent = _highest(increase(node.series.get((NODE, "sent_bytes"), []), at) for node, _, at in machines)
    read = _total(increase(node.series.get((NODE, "disk_read_bytes"), []), at) for node, _, at in machines)
    found: dict[str, Any] = {
        **(_of_gpus(gpus, case=case, samples=samples, seconds=seconds) if gpus else {}),
        **_of_machines(machines, seconds=seconds),
        "sent_bytes_per_step": None if sent is None else sent / iterations,
        "theory_bytes_per_step": _theory(case, engine),
        "disk_bytes_per_second": None if read is None or seconds <= 0 else read / seconds,
    }
    return Telemetry(
        gpus=len(gpus),
        missing=tuple(_missing(nodes, windows, case, shifts)),
        **{name: value for name, value in found.items() if _is_storable(value)},
    )


def _is_storable(value: object) -> bool:
    return isinstance(value, tuple) or (isinstance(value, int | float) and 0 <= value <= LARGEST_COUNT)


def clock_shifts(
    clocks: Sequence[Clock | None], events: Mapping[int, Sequence[Event]], *, topology: Topology
) -> dict[int, Shift | None]:
    """How far each node's clock is ahead of that of node 0, by node rank; None where that is not known."""
    shifts: dict[int, Shift | None] = {0: Shift(0.0, 0.0)}
    own, here = dict(enumerate(clocks)), _ended_ms(events.get(0, ()))
    for node in range(1, topology.nodes):
        first, devices = own.get(0), topology.devices_per_node
        ranks = range(node * devices, (node + 1) * devices)
        there = next((told for rank in ranks if (told := _ended_ms(events.get(rank, ())))), None)
        shifts[node] = None
        if first is not None and (clock := own.get(node)) is not None:
            ahead = clock.ahead_seconds - first.ahead_seconds
            within = clock.uncertainty_seconds + first.uncertainty_seconds
            shifts[node] = Shift(1000 * ahead, 1000 * within)
        elif here is not None and there is not None:
            shifts[node] = Shift(float(there - here))
    return shifts


def _shifted(window: Window, shift: Shift | None) -> Window:
    """The window by the clock of another node."""
    ahead = 0.0 if shift is None else shift.ms
    return window[0] + ahead, window[1] + ahead


def _ended_ms(events: Iterable[Event]) -> int | None:
    """When a rank ended its measured window."""
    told = [
        event.time_ms
        for event in events
        if event.key == "interference" and event.metadata.get("kind") == TRAIN and event.time_ms is not None
    ]
    return told[-1] if told else None


Sampled = tuple[NodeTelemetry, str, Window]  # of one source of a node


def _is_sampled(node: NodeTelemetry, source: str, window: Window) -> bool:
    return any(node.within(source, column, window) for column in ("sm_mhz", "power_watts", "celsius"))


def _medians(sampled: Sequence[Sampled], column: str) -> list[float]:
    """The median of a gauge of each source that has it."""
    values = [node.within(source, column, window) for node, source, window in sampled]
    return [median(own) for own in values if own]


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _total(values: Iterable[float | None]) -> float | None:
    """None where one of them is not known, or there are none."""
    known = list(values)
    return None if not known or None in known else sum(value or 0.0 for value in known)


def _of_gpus(gpus: Sequence[Sampled], *, case: Case, samples: int, seconds: float) -> dict[str, object]:
    joules = _total(
        integral(node.series.get((source, "power_watts"), []), window) for node, source, window in gpus
    )
    if len(gpus) < case.topology.world_size:
        joules = None
    clocks = _medians(gpus, "sm_mhz")
    utilization = _medians(gpus, "utilization_percent")
    memory = _highest(_each(gpus, "memory_mib", max))
    shares, reasons = _throttling(gpus)
    pcie = {
        name: min(values) if (values := list(_each(gpus, name, max))) else None
        for name in ("pcie_generation", "pcie_width")
    }
    return {
        "sm_mhz": median(clocks) if clocks else None,
        "sm_mhz_least": min(clocks) if clocks else None,
        "memory_mhz": median(own) if (own := _medians(gpus, "memory_mhz")) else None,
        "power_watts": None if joules is None or seconds <= 0 else joules / seconds,
        "joules_per_1000_samples": None if joules is None or samples <= 0 else 1000 * joules / samples,
        "celsius": _highest(_each(gpus, "celsius", max)),
        "utilization": median(utilization) / 100 if utilization else None,
        "memory_bytes": None if memory is None else memory * 2**20,
        "throttled": max(shares, default=None),
        "throttled_by": reasons,
        **{name: None if value is None else int(value) for name, value in pcie.items()},
        "other_processes": _whole(_highest(_each(gpus, "other_processes", max))),
        "ecc_uncorrected": _risen(gpus, "ecc_uncorrected"),
        "remapped_rows": _risen(gpus, "remapped_uncorrectable"),
    }


def _each(
    sampled: Sequence[Sampled], column: str, reduced: Callable[[list[float]], float]
) -> Iterator[float]:
    for node, source, window in sampled:
        values = node.within(source, column, window)
        if values:
            yield reduced(values)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _risen(gpus: Sequence[Sampled], column: str) -> int | None:
    """How much counters rose over the run; they are read at its start and its end."""
    series = [own for node, source, _ in gpus if len(own := node.series.get((source, column), [])) > 1]
    return int(sum(max(0.0, own[-1][1] - own[0][1]) for own in series)) if series else None


def _throttling(gpus: Sequence[Sampled]) -> tuple[list[float], tuple[str, ...]]:
    """The share of each GPU's samples with clocks held back, and why they were, most frequent first."""
    shares, counts = [], dict.fromkeys(REASONS, 0)
    for node, source, window in gpus:
        masks = [int(value) for value in node.within(source, "reasons", window)]
        if masks:
            shares.append(sum(bool(mask & HELD_BACK) for mask in masks) / len(masks))
            for bit in REASONS:
                counts[bit] += sum(bool(mask & bit) for mask in masks)
    order = sorted((bit for bit in REASONS if counts[bit]), key=lambda bit: -counts[bit])
    return shares, tuple(REASONS[bit] for bit in order)


def _of_machines(machines: Sequence[Sampled], *, seconds: float) -> dict[str, float | None]:
    def grown(column: str) -> list[float | None]:
        return [increase(node.series.get((NODE, column), []), window) for node, _, window in machines]

    def share(part: str, *whole: str) -> float | None:
        """Of the node with most."""
        shares = [
            parts[0] / total
            for parts in zip(*map(grown, (part, *whole)), strict=True)
            if None not in parts and (total := sum(value or 0.0 for value in parts[1:])) > 0
            if parts[0] is not None
        ]
        return _highest(min(1.0, value) for value in shares)

    def over_time(column: str) -> float | None:
        return _highest(
            min(1.0, value / seconds) for value in grown(column) if value is not None and seconds > 0
        )

    return {
        "cpu_mhz": min(_medians(machines, "cpu_mhz"), default=None),
        "waited": share("wait_seconds", "wait_seconds", "run_seconds"),
        "stolen": share("steal_seconds", "busy_seconds"),
        "pressure_memory": over_time("pressure_memory_seconds"),
        "pressure_io": over_time("pressure_io_seconds"),
    }


def _theory(case: Case, engine: Engine) -> float | None:
    """What must leave a node per iteration; None on one node, and where the model's size is not known."""
    network, classifier = engine.network_parameters, engine.classifier_parameters
    if case.topology.nodes == 1 or network is None or classifier is None:
        return None
    return sent_bytes(
        case,
        members=case.topology.nodes,
        network_parameters=network,
        classifier_parameters=classifier,
    )


def _missing(
    nodes: Mapping[int, NodeTelemetry],
    windows: Mapping[int, Window],
    case: Case,
    shifts: Mapping[int, Shift | None],
) -> Iterator[str]:
    """What a reader of the summary must know, the most important first."""
    several = case.topology.nodes > 1
    lines: dict[str, None] = {}
    for rank in range(case.topology.nodes):
        name = f"node {rank}: " if several else ""
        node = nodes.get(rank)
        if node is None:
            lines[f"{name}no samples came"] = None
            continue
        if shifts.get(rank) is None:
            lines[f"{name}how far its clock differs from that of node 0 is not known"] = None
        if not covers(node.series.get((NODE, "run_seconds"), []), windows[rank]):
            lines[f"{name}samples do not cover the measured window"] = None
        if case.device == "cuda":
            for source in node.gpus:
                if not _is_sampled(node, source, windows[rank]):
                    lines[f"{name}{source} has no sample in the measured window"] = None
            if not node.gpus:
                lines[f"{name}no GPU was sampled"] = None
        for note in node.notes:
            where = "" if note.source == NODE else f"{note.source}: "
            lines[f"{name}{where}{note.text}"] = None
    yield from list(lines)[:_MOST_SHOWN_NOTES]


def telemetry_line(found: Telemetry) -> str:
    """`SM 1410 MHz, 312 W, 64 C, clocks held back 12.0% of the time (power cap)` for a person."""
    parts = [
        "" if found.sm_mhz is None else f"SM {found.sm_mhz:.0f} MHz",
        "" if found.power_watts is None else f"{found.power_watts:.0f} W",
        ""
        if found.joules_per_1000_samples is None
        else f"{found.joules_per_1000_samples:.0f} J per 1000 samples",
        "" if found.celsius is None else f"up to {found.celsius:.0f} C",
        f"clocks held back {found.throttled:.1%} of the time ({', '.join(found.throttled_by)})"
        if found.throttled
        else "",
        f"up to {found.other_processes} processes of others" if found.other_processes else "",
        "" if found.cpu_mhz is None else f"CPU {found.cpu_mhz:.0f} MHz",
        "" if found.waited is None else f"threads waited {found.waited:.1%} of the time for a CPU",
        f"{found.stolen:.1%} stolen" if found.stolen else "",
        ""
        if found.sent_bytes_per_step is None
        else f"{found.sent_bytes_per_step / 1e6:.3g} MB sent per step",
    ]
    return ", ".join(part for part in parts if part)
