"""What a sweep file may hold. docs/sweeps.md describes it for people.

Names of frameworks are checked against the `frameworks` of the validation context, so that a misspelt one is
reported together with everything else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from dlperf.model import Model
from dlperf.plan.case import (
    GradientDtype,
    Measure,
    Parallelism,
    Precision,
    Topology,
    Workload,
    bytes_of,
)
from dlperf.plan.documents import unknown
from dlperf.plan.versions import checked_find_links, checked_index

T = TypeVar("T")

_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>s|m|h)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _one_or_more(schema: dict[str, Any]) -> None:
    """In the JSON Schema: one value may stand where a list may."""
    many = {key: schema.pop(key) for key in ("items", "minItems", "type")}
    schema["anyOf"] = [many["items"], many]


def _listed(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _different(values: tuple[T, ...]) -> tuple[T, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value} appears twice")
    return values


# One value, or a list that holds something, and nothing twice.
OneOrMore = Annotated[
    tuple[T, ...],
    Field(min_length=1, json_schema_extra=_one_or_more),
    BeforeValidator(_listed),
    AfterValidator(_different),
]
MemorySize = Annotated[
    PositiveInt,
    BeforeValidator(bytes_of),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["2GiB"]}),
]


def seconds_of(value: Any) -> Any:
    """Seconds where the value is a duration such as `30m`; any other value as it is."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration; write seconds, or a number with s, m or h, such as '30m'"
        )
    return float(match["number"]) * _UNIT_SECONDS[match["unit"]]


Seconds = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(seconds_of),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [90, "30m"]}),
]


TopologyText = Annotated[
    Topology,
    BeforeValidator(lambda value: Topology.from_text(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*n[1-9][0-9]*g$", "examples": ["2n8g"]}),
]


class TopologyGrid(Model):
    """Every number of nodes with every number of devices on each, nodes first."""

    nodes: OneOrMore[PositiveInt]
    devices_per_node: OneOrMore[PositiveInt]


def _topologies(axis: TopologyGrid | tuple[Topology, ...]) -> tuple[Topology, ...]:
    if not isinstance(axis, TopologyGrid):
        return axis
    pairs = itertools.product(axis.nodes, axis.devices_per_node)
    return tuple(Topology(nodes=nodes, devices_per_node=devices) for nodes, devices in pairs)


# More than a label or an index of 32 bits can count.
LARGEST_SIZE = (1 << 31) - 1
Size = Annotated[int, Field(gt=0, le=LARGEST_SIZE)]

# `max` is the largest number that trains, found by search.
if TYPE_CHECKING:
    Count = int | Literal["max"]
    TopologyAxis = tuple[Topology, ...]
else:
    Count = Annotated[
        Size,
        WrapValidator(lambda value, number: value if value == "max" else number(value)),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "max"}]}),
    ]
    TopologyAxis = Annotated[
        Annotated[TopologyGrid, Tag("grid")] | Annotated[OneOrMore[TopologyText], Tag("list")],
        Discriminator(lambda value: "grid" if isinstance(value, dict | TopologyGrid) else "list"),
        AfterValidator(_topologies),
    ]

Order = Literal["interleaved", "sequential", "shuffled"]


_FIND_LINKS = "find-links="


def _framework_reference(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    named, at, source = (part.strip() for part in value.partition(" @ "))
    name, equals, version = (part.strip() for part in named.partition("=="))
    if not name or (equals and not version) or (at and not source) or "=" in name:
        raise ValueError(f"{named!r} is not a framework; write name==version, such as 'mxnet==1.9.1'")
    entry = {"name": name, "version": version} if version else {"name": name}
    links = source.removeprefix(_FIND_LINKS)
    if links != source:
        entry["find_links"] = links
    elif source:
        entry["index" if version else "wheel"] = source
    return entry


def _known(name: str, info: ValidationInfo) -> str:
    known: Iterable[str] | None = (info.context or {}).get("frameworks")
    if known is not None and name not in known:
        raise ValueError(unknown("framework", name, known))
    return name


class FrameworkEntry(Model):
    """One framework of a sweep, as text or a mapping.

    Text: `mxnet==1.9.1`, `mxnet @ WHEEL`, `mxnet==1.9.2 @ INDEX` or `oneflow==0.9.1 @ find-links=PLACE`. The
    mapping may name an interpreter of the user's own, a wheel, or where the version comes from.
    """

    name: Annotated[str, AfterValidator(_known)]
    version: Annotated[str, Field(min_length=1)] | None = None  # None: the adapter's first version
    python: Annotated[str, Field(min_length=1)] | None = None
    wheel: Annotated[str, Field(min_length=1)] | None = None  # relative to the sweep's file
    index: Annotated[str, Field(min_length=1), AfterValidator(checked_index)] | None = None
    # A page with links to wheels, or a folder with wheels, relative to the sweep's file.
    find_links: Annotated[str, Field(min_length=1), AfterValidator(checked_find_links)] | None = None

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        given = [key for key in ("python", "wheel", "index", "find_links") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; keep only one of them")
        if self.wheel is not None and self.version is not None:
            raise ValueError("has a wheel, which already states its version; remove version")
        if self.index is not None and self.version is None:
            raise ValueError("has an index; add the version to install from it")
        if self.find_links is not None and self.version is None:
            raise ValueError("has find_links; add the version to install from there")
        return self

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


def _or_text(schema: dict[str, Any]) -> None:
    """In the JSON Schema: `name==version` may stand for the mapping."""
    mapping = dict(schema)
    schema.clear()
    examples = ["mxnet==1.9.1", "mxnet @ WHEEL", "mxnet==1.9.2 @ INDEX", "oneflow==0.9.1 @ find-links=PLACE"]
    schema["anyOf"] = [{"type": "string", "examples": examples}, mapping]


FrameworkReference = Annotated[
    FrameworkEntry, Field(json_schema_extra=_or_text), BeforeValidator(_framework_reference)
]
SampleRatio = Annotated[float, Field(gt=0, le=1)]
Options = dict[str, Any]  # by framework; the adapter's own model says what may stand there
Threads = Annotated[
    Annotated[PositiveInt, Tag("count")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "count"),
]


class Axes(Model):
    """The dimensions that a grid spans and an exclusion names, each one value or a list. None: not given."""

    experiment: OneOrMore[str] | None = None
    topology: TopologyAxis | None = None
    parallelism: OneOrMore[Parallelism] | None = None
    sample_ratio: OneOrMore[SampleRatio] | None = None  # applies to partial_fc alone
    batch_size_per_device: OneOrMore[Count] | None = None
    num_classes: OneOrMore[Count] | None = None  # None in a grid: the experiment's
    precision: OneOrMore[Precision] | None = None

    def given(self) -> dict[str, Any]:
        """The values that are given, by name; options apart."""
        return {name: value for name, value in self if value is not None and name != "options"}


class Include(Axes):
    """Cells beside the grid: a small grid of its own that takes what it does not name from the sweep."""

    frameworks: OneOrMore[FrameworkReference] | None = None
    options: Options = Field(default_factory=dict)  # laid over the sweep's


class Condition(Axes):
    """Which cells an exclusion takes out: those that have one of the values of every key given."""

    framework: OneOrMore[str] | None = None  # `mxnet`, or one version of it as `mxnet==1.9.1`
    nodes: OneOrMore[PositiveInt] | None = None
    devices_per_node: OneOrMore[PositiveInt] | None = None

    @field_validator("framework")
    @classmethod
    def _is_known(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        for name in names or ():
            _known(name.partition("==")[0], info)
        return names

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must name at least one key, such as 'framework: mxnet'")
        return self


class Exclude(Model):
    """Cells of the grid that are left out; the report prints `why` where their number would stand."""

    when: Condition
    why: Annotated[str, Field(min_length=1)]


class SweepMeasure(Measure):
    """What is measured, and how often each case is run."""

    repeats: PositiveInt = 5


class Limits(Model):
    """When a run is ended: after `time` in all, or after `stall` without a new step or line."""

    time: Seconds = 3600.0
    stall: Seconds = 600.0


class BatchSearch(Model):
    """Between which batch sizes `max` is found, and how exactly."""

    granularity: PositiveInt = 1
    upper: PositiveInt = 65_536


class ClassesSearch(Model):
    """Between which numbers of classes `max` is found, and how exactly."""

    granularity: PositiveInt = 1000
    upper: PositiveInt = 100_000_000


class SearchSettings(Model):
    """How `max` is found: each value is tried with a run of `iterations` iterations."""

    iterations: PositiveInt = 10
    batch_size_per_device: BatchSearch = BatchSearch()
    num_classes: ClassesSearch = ClassesSearch()


class SweepFile(Axes):
    """A sweep file: a grid over one experiment or several."""

    experiment: OneOrMore[str]
    frameworks: OneOrMore[FrameworkReference]
    topology: TopologyAxis
    parallelism: OneOrMore[Parallelism] = ("data",)
    batch_size_per_device: OneOrMore[Count]
    precision: OneOrMore[Precision] = ("fp32",)
    gradient_dtype: GradientDtype = "float32"  # what gradients travel in between devices
    options: Options = Field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_device: Threads = "auto"
    memory: MemorySize | None = None  # of each device of the CPU; stands for the memory of a GPU
    search: SearchSettings = SearchSettings()
    oversubscribe: bool = False  # devices of a CPU may share cores: shows programs at work, never scaling
    exclude: tuple[Exclude, ...] = ()
    include: tuple[Include, ...] = ()
    measure: SweepMeasure = SweepMeasure()
    seed: NonNegativeInt = 0
    order: Order = "interleaved"
    limits: Limits = Limits()
    notes: str = ""


class ExperimentFile(Workload):
    """A workload file. The experiment's name is the file's, so `experiment` is no key of it."""

    num_classes: Size  # of the data set; a sweep may take another number
    notes: str = ""

    @property
    def workload(self) -> Workload:
        """What a case carries of it."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in Workload.model_fields}
        return Workload(**kept)
