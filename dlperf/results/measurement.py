"""What `dlperf cluster measure` writes down: `measurement.json`, and machines that are saved as a reference.

`dlperf docs acceptance` says what is measured and how it is judged.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from dlperf.errors import UserError
from dlperf.files import read_document, read_regular, write_document
from dlperf.layout import ENVIRONMENT_NAME, MEASUREMENT_NAME, log_files
from dlperf.logs.events import Event, finite, read_events, whole
from dlperf.logs.text import read_lines
from dlperf.model import Model
from dlperf.results.schema import LARGEST, LARGEST_COUNT, Node, read_environment
from dlperf.statistics.basic import quantile
from dlperf.version import __version__

REMEDY: Final = "`dlperf cluster measure` writes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A figure of a device, a node or a link: its words, its unit, and what difference between equals counts.

    `margin` is a fraction of the equals' median.
    """

    name: str
    title: str
    unit: Literal["FLOP/s", "B/s", "s"]
    margin: float

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.unit == "s" else 1

    def in_words(self, value: float) -> str:
        """Three digits and a unit, such as `23.4 GFLOP/s`."""
        large, prefix, small, other = _PREFIXES[self.unit]
        scale, letter = (large, prefix) if value >= large else (small, other)
        return f"{value / scale:.3g} {letter}{self.unit}"


# Products differ little between equal chips; disks and links differ with what else uses them.
ABILITIES: Final = {
    ability.name: ability
    for ability in (
        Ability(name="matrix_fp32", title="matrix rate fp32", unit="FLOP/s", margin=0.05),
        Ability(name="matrix_fp16", title="matrix rate fp16", unit="FLOP/s", margin=0.05),
        Ability(name="matrix_bf16", title="matrix rate bf16", unit="FLOP/s", margin=0.05),
        Ability(name="memory_bandwidth", title="memory bandwidth", unit="B/s", margin=0.1),
        Ability(name="host_to_device", title="host-to-device copy", unit="B/s", margin=0.1),
        Ability(name="disk_write", title="disk write", unit="B/s", margin=0.25),
        Ability(name="disk_read", title="disk read", unit="B/s", margin=0.25),
        Ability(name="data_read", title="data read", unit="B/s", margin=0.25),
        Ability(name="link_latency", title="latency", unit="s", margin=0.5),
        Ability(name="link_bandwidth", title="bandwidth", unit="B/s", margin=0.15),
    )
}
_PREFIXES = {"FLOP/s": (1e12, "T", 1e9, "G"), "B/s": (1e9, "G", 1e6, "M"), "s": (1e-3, "m", 1e-6, "µ")}
MetricName = Literal[
    "matrix_fp32",
    "matrix_fp16",
    "matrix_bf16",
    "memory_bandwidth",
    "host_to_device",
    "disk_write",
    "disk_read",
    "data_read",
    "link_latency",
    "link_bandwidth",
]
Value = Annotated[float, Field(gt=0, le=LARGEST)]


class Series(Model):
    """The repeats of one figure."""

    metric: MetricName
    """What was measured."""
    node: str
    """Name of the node; of a link, of its first node."""
    device: str | None = None
    """The device there, `cpu` or such as `gpu0`; null: a figure of the node, or of a link."""
    peer: str | None = None
    """Name of the other node of a link; null: no link."""
    values: tuple[Value | None, ...]
    """One per repeat, in FLOP/s, bytes/s or seconds; null: not measured."""
    reason: str | None = None
    """Why a repeat was not measured, of the first such one; null: all were."""

    @property
    def ability(self) -> Ability:
        """What it is a figure of."""
        return ABILITIES[self.metric]

    @property
    def median(self) -> float | None:
        """Of the repeats that were measured; None where none was."""
        known = [value for value in self.values if value is not None]
        return quantile(known, 0.5) if known else None


class MeasuredNode(Model):
    """A node as it was measured."""

    name: str
    """Name in the cluster file, or the host name."""
    facts: Node
    """The machine."""
    clock_seconds: float | None = None
    """How far its clock is ahead of that of the controlling machine; null: it is that machine."""
    threads: int | None = None
    """CPU threads that computed; null: not known."""
    memlock_bytes: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    """Memory that a rank may lock; null: no limit."""
    shared_memory_bytes: int | None = Field(default=None, ge=0, le=LARGEST_COUNT)
    """Size of /dev/shm; null: there is none."""
    file_system: str | None = None
    """Type of the file system that runs are written to; null: not known."""
    data_file_system: str | None = None
    """Type of the file system of the data; null: no data were read."""
    topology: str | None = None
    """What `nvidia-smi topo -m` prints; null: no GPUs."""


class Measurement(Model):
    """`measurement.json`."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    dlperf_version: str
    """The version of dlperf that measured."""
    cluster: str
    """Name of the cluster, or the host name of a machine alone."""
    started_at: str
    """When it began, ISO 8601 in UTC."""
    engine: str
    """Version of PyTorch, whose products, copies and transport were measured."""
    transport: Literal["gloo", "nccl"]
    """What links were measured with."""
    seconds: float
    """Seconds of each measurement in each repeat."""
    repeats: int
    """How often everything was measured, in turns."""
    nodes: tuple[MeasuredNode, ...]
    """In the order of their ranks."""
    lost: dict[str, str] = Field(default_factory=dict)
    """Nodes of the cluster that were not measured, or not to the end, by name, and why."""
    series: tuple[Series, ...]
    """All figures."""

    @model_validator(mode="after")
    def _series_are_of_its_nodes(self) -> Self:
        names = {node.name for node in self.nodes}
        for one in self.series:
            if not {one.node, one.peer or one.node} <= names:
                raise ValueError(f"series of {one.node!r}: not one of the nodes")
        return self

    @property
    def hardware(self) -> dict[str, str]:
        """What decides speed, by the node's name."""
        return {node.name: node.facts.hardware for node in self.nodes}


def is_measurement(path: Path) -> bool:
    """Whether a path is a measurement: its file or its folder."""
    return path.name == MEASUREMENT_NAME if path.is_file() else (path / MEASUREMENT_NAME).is_file()


def read_measurement(path: Path) -> Measurement:
    """The measurement of a file or a folder; UserError where there is none, or it is damaged."""
    file = path if path.is_file() else path / MEASUREMENT_NAME
    return read_document(file, Measurement, kind="measurement", remedy=REMEDY)


def measurements_below(path: Path) -> list[Path]:
    """The files of all measurements in a results folder, or of the one in `path`, by name."""
    return [path / MEASUREMENT_NAME] if is_measurement(path) else sorted(path.rglob(MEASUREMENT_NAME))


@dataclass(frozen=True, slots=True)
class Part:
    """A run folder whose processes measured, and the names of its nodes by rank."""

    folder: Path
    names: Sequence[str]

    @property
    def events(self) -> list[Event]:
        """All that the processes logged."""
        return [event for path in log_files(self.folder).values() for event in read_events(read_lines(path))]


def last_repeat(parts: Iterable[Part]) -> int:
    """The one in which the parts ended, from 1: a repeat begins when all nodes have ended the one before."""
    repeats = (whole(event.metadata.get("repeat")) for part in parts for event in part.events)
    return max((repeat for repeat in repeats if repeat is not None), default=1)


def store_measurement(
    folder: Path,
    *,
    parts: Sequence[Part],
    cluster: str,
    started_at: str,
    lost: Mapping[str, str],
    seconds: float,
    repeats: int,
    transport: Literal["gloo", "nccl"],
) -> Measurement:
    """Read what the processes of the parts logged, and write it into `folder`.

    Measured are the nodes of the last part; what it did not repeat is that of the parts before. UserError
    where a log of it says less than one that was written to its end.
    """
    last, names = parts[-1], parts[-1].names
    environment = read_environment(last.folder)
    if environment is None:
        raise UserError(f"{last.folder / ENVIRONMENT_NAME}: cannot be read; {REMEDY}")
    clocks = environment.clocks or (None,) * len(names)
    states = {event.rank: event.value for event in last.events if event.key == "node_state"}
    if set(states) != set(range(len(names))):
        raise UserError(f"{last.folder}: the logs do not say what each node is; measure again")
    measurement = Measurement(
        dlperf_version=__version__,
        cluster=cluster,
        started_at=started_at,
        engine=str(states[0]["version"]),
        transport=transport,
        seconds=seconds,
        repeats=repeats,
        nodes=tuple(
            MeasuredNode(
                name=name,
                facts=environment.nodes[rank],
                clock_seconds=None if clock is None else round(clock.ahead_seconds, 3) + 0.0,  # no -0
                **{key: value for key, value in states[rank].items() if key != "version"},
            )
            for rank, (name, clock) in enumerate(zip(names, clocks, strict=True))
        ),
        lost=dict(lost),
        series=tuple(_series(parts, repeats=repeats)),
    )
    write_document(folder / MEASUREMENT_NAME, measurement)
    return measurement


def _series(parts: Sequence[Part], *, repeats: int) -> Iterator[Series]:
    measured = set(parts[-1].names)
    found: dict[tuple[Any, ...], dict[int, tuple[float | None, str | None]]] = {}
    for part in parts:
        for event in part.events:
            data = event.metadata
            repeat, peer = whole(data.get("repeat")), data.get("peer")
            if event.key not in {"measured", "not_measured"} or repeat is None or not 1 <= repeat <= repeats:
                continue
            node, other = part.names[event.rank or 0], None if peer is None else part.names[peer]
            if not {node, other or node} <= measured:
                continue
            key = (data.get("metric"), node, data.get("device"), other)
            is_there = event.key == "measured"
            told = (finite(event.value), None) if is_there else (None, str(event.value))
            found.setdefault(key, {})[repeat] = told
    for (metric, node, device, peer), by_repeat in found.items():
        each = [by_repeat.get(repeat, (None, None)) for repeat in range(1, repeats + 1)]
        reason = next((why for _, why in each if why is not None), None)
        values = tuple(value for value, _ in each)
        yield Series(metric=metric, node=node, device=device, peer=peer, values=values, reason=reason)


class GoodMachines(Model):
    """The levels of one figure on good machines of one kind."""

    metric: MetricName
    """What was measured."""
    hardware: str
    """The kind of machine; of a link the kinds of both."""
    values: tuple[Value, ...]
    """Medians over repeats, one per device, node or link, in FLOP/s, bytes/s or seconds."""


class MachineBaseline(Model):
    """What good machines can do, saved by `dlperf baseline save` from measurements."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    label: str
    """What the user called it."""
    created_at: str
    """When its last measurement began, ISO 8601 in UTC."""
    dlperf_version: str
    """The version of dlperf that wrote the file."""
    engine: str
    """Version of PyTorch that measured."""
    transport: Literal["gloo", "nccl"]
    """What links were measured with."""
    machines: tuple[GoodMachines, ...]
    """By figure and kind of machine."""


def is_machine_baseline(path: Path) -> bool:
    """Whether a baseline's file is one of machines, and not of results."""
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "machines" in content


def read_machine_baseline(path: Path) -> MachineBaseline:
    """A saved reference; UserError where it is of another schema version or damaged."""
    remedy = "`dlperf baseline save NAME results/measurements/...` writes one"
    return read_document(path, MachineBaseline, kind="baseline of machines", remedy=remedy)
