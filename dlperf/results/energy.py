"""`logs/energy<node>.jsonl` of a run folder: joules since a first reading, from `frameworks/energy.py`.

Read without trust: a line that cannot be read is passed over, and what is missing then has a reason.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dlperf.logs.events import TRAIN
from dlperf.logs.values import finite, whole
from dlperf.results.logfiles import plain, read_lines
from dlperf.results.schema import Energy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dlperf.logs.events import Step

SOURCES = ("nvml", "rapl")
_FILE = re.compile(r"energy(\d+)\.jsonl")
# A reading may be this many intervals late; the window is as many long at least, so that where its ends fall
# between two readings is a tenth of it at most.
_FEWEST_INTERVALS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    source: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readings:
    """Of one node: times [n] in seconds since 1970, rising; joules [n][devices]; busy CPU seconds [n]."""

    interval: float
    cpus: int | None
    devices: tuple[_Device, ...]
    unreadable: dict[str, str]
    times: tuple[float, ...]
    joules: tuple[tuple[float, ...], ...]
    busy: tuple[float | None, ...]

    def used(self, source: str, start: float, end: float) -> float:
        """Joules of the devices of a source between two times within the readings."""
        columns = [place for place, device in enumerate(self.devices) if device.source == source]
        return math.fsum(self._at(end, column) - self._at(start, column) for column in columns)

    def _at(self, time: float, column: int) -> float:
        """Between two readings the power is taken to be constant."""
        after = max(1, bisect_left(self.times, time))
        before = after - 1
        span = self.times[after] - self.times[before]
        low, high = self.joules[before][column], self.joules[after][column]
        return low + (high - low) * (time - self.times[before]) / span

    def why_not(self, source: str, start: float, end: float) -> str | None:
        """Why there is no figure of a source for the time from `start` to `end`; None where there is one."""
        if source in self.unreadable:
            return self.unreadable[source]
        if not any(device.source == source for device in self.devices):
            return "the meter names no such device"
        if end - start < _FEWEST_INTERVALS * self.interval:
            return (
                f"the measured steps took {end - start:.1f} s, "
                f"and a reading is taken every {self.interval:g} s"
            )
        inside = [time for time in self.times if start < time < end]
        if not inside or self.times[0] > start or self.times[-1] < end:
            return "the readings do not cover the measured steps"
        gaps = (after - before for before, after in pairwise(inside))
        if max(gaps, default=0.0) > _FEWEST_INTERVALS * self.interval:
            return "readings are missing among the measured steps"
        return None


def read_energy(folder: Path, steps: Sequence[Step]) -> Energy | None:
    """What a run used from its first accepted step to its last; None where no meter ran beside it."""
    files = _files(folder)
    if not files:
        return None
    window = _window(steps)
    if window is None:
        return Energy(unreadable=dict.fromkeys(SOURCES, "the log does not say when its steps were done"))
    start, end, samples = window
    nodes = [_read(path) for path in files.values()]
    joules: dict[str, float] = {}
    unreadable: dict[str, str] = {}
    for source in SOURCES:
        reasons = (
            "the meter's file cannot be read" if node is None else node.why_not(source, start, end)
            for node in nodes
        )
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None:
            joules[source] = math.fsum(node.used(source, start, end) for node in nodes if node is not None)
        else:
            unreadable[source] = reason
    return Energy(
        joules=joules,
        unreadable=unreadable,
        devices=_covered([node for node in nodes if node is not None], joules),
        seconds=end - start,
        samples=samples,
        other_cpu_share=_share_of_others(folder, files, nodes),
    )


def _files(folder: Path) -> dict[int, Path]:
    """By node rank."""
    logs = folder / "logs"
    found = ((_FILE.fullmatch(path.name), path) for path in (logs.iterdir() if logs.is_dir() else ()))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def _window(steps: Sequence[Step]) -> tuple[float, float, int] | None:
    """Beginning of the first accepted step and end of the last, seconds since 1970; samples between them."""
    accepted = [place for place, step in enumerate(steps) if step.kind == TRAIN]
    if not accepted:
        return None
    first, last = steps[accepted[0]], steps[accepted[-1]]
    if first.time_ms is None or last.time_ms is None:
        return None
    samples = sum(step.samples for step in steps[accepted[0] : accepted[-1] + 1])
    return first.time_ms / 1000 - first.seconds, last.time_ms / 1000, samples


def _covered(nodes: Sequence[_Readings], joules: dict[str, float]) -> tuple[str, ...]:
    devices = Counter(device for node in nodes for device in node.devices if device.source in joules)
    return tuple(f"{device.source}: {count} x {device.name}" for device, count in devices.items())


def _share_of_others(folder: Path, files: dict[int, Path], nodes: Sequence[_Readings | None]) -> float | None:
    """The largest of a node: CPU seconds that the run and what it started did not use, of all there are."""
    shares = []
    by_node = _own_cpu_seconds(folder)
    for node_rank, readings in zip(files, nodes, strict=True):
        own = by_node[node_rank] if node_rank < len(by_node) else None
        if readings is None or own is None or not readings.cpus or len(readings.times) < 2:  # noqa: PLR2004
            return None
        first, last = readings.busy[0], readings.busy[-1]
        if first is None or last is None:
            return None
        capacity = readings.cpus * (readings.times[-1] - readings.times[0])
        shares.append(max(0.0, (last - first - own) / capacity))
    return max(shares)


def _own_cpu_seconds(folder: Path) -> list[float | None]:
    """By node rank, as the outcome says."""
    try:
        content = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    seconds = content.get("cpu_seconds") if isinstance(content, dict) else None
    return list(map(finite, seconds if isinstance(seconds, list) else [seconds]))


def _read(path: Path) -> _Readings | None:
    """None where the first line is no meter's."""
    lines = _objects(path)
    head = next(lines, None)
    interval = finite(head.get("interval_seconds")) if head else None
    if head is None or head.get("schema_version") != 1 or not interval or interval <= 0:
        return None
    named = head.get("devices")
    devices = tuple(map(_device, named if isinstance(named, list) else ()))
    times: list[float] = []
    joules: list[tuple[float, ...]] = []
    busy: list[float | None] = []
    for line in lines:
        time, used = finite(line.get("time_ms")), line.get("joules")
        row = tuple(map(finite, used)) if isinstance(used, list) else ()
        if time is None or len(row) != len(devices) or None in row or (times and time / 1000 <= times[-1]):
            continue
        times.append(time / 1000)
        joules.append(tuple(value for value in row if value is not None))
        busy.append(finite(line.get("busy_seconds")))
    unreadable = head.get("unreadable")
    return _Readings(
        interval=interval,
        cpus=whole(head.get("cpus")),
        devices=devices,
        unreadable={str(source): plain(str(why)) for source, why in unreadable.items()}
        if isinstance(unreadable, dict)
        else {},
        times=tuple(times),
        joules=tuple(joules),
        busy=tuple(busy),
    )


def _device(content: Any) -> _Device:
    content = content if isinstance(content, dict) else {}
    how = content.get("how")
    name = plain(str(content.get("name"))) + (f" ({plain(str(how))})" if how else "")
    return _Device(source=str(content.get("source")), name=name.encode(errors="replace").decode())


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    for line in read_lines(path):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            yield content
