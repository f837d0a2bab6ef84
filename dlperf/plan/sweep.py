"""What a sweep file may hold. docs/sweeps.md describes it for people.

Names of frameworks are checked against the `frameworks` of the validation context, so that a misspelt one is
reported together with everything else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
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
    ReadMode,
    Topology,
    Workload,
    bytes_of,
)
from dlperf.plan.documents import unknown
from dlperf.plan.versions import checked_find_links, checked_git_url, checked_index

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
    """Numbers of nodes, one or a list."""
    devices_per_node: OneOrMore[PositiveInt]
    """Numbers of devices on each node, one or a list."""


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


def _or_path(schema: dict[str, Any]) -> None:
    """In the JSON Schema: a path may stand for the mapping."""
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


def _known(name: str, info: ValidationInfo) -> str:
    known: Iterable[str] | None = (info.context or {}).get("frameworks")
    if known is not None and name not in known:
        raise ValueError(unknown("framework", name, known))
    return name


class SourceEntry(Model):
    """Where an original program's files are: a folder, or a commit of a git repository."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A checkout, relative to the sweep's file; it is never changed."""
    git: Annotated[str, Field(min_length=1), AfterValidator(checked_git_url)] | None = None
    """URL of a git repository, with https or ssh; dlperf keeps a copy of the commit in its cache."""
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,40}$")] | None = None
    """The commit, 7 to 40 hexadecimal digits; with `git` alone."""

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if (self.path is None) == (self.git is None) or (self.git is None) != (self.commit is None):
            raise ValueError("write path, or git with commit")
        return self


class FrameworkEntry(Model):
    """One framework of a sweep, as text or a mapping.

    Text: `mxnet==1.9.1`, `mxnet @ WHEEL`, `mxnet==1.9.2 @ INDEX` or `oneflow==0.9.1 @ find-links=PLACE`. The
    mapping may name an interpreter of the user's own, a wheel, or where the version comes from.
    """

    name: Annotated[str, AfterValidator(_known)]
    """Name of the framework; `dlperf list frameworks` shows all."""
    version: Annotated[str, Field(min_length=1)] | None = None
    """Version, in quotes where YAML would read a number; by default the adapter's first."""
    python: Annotated[str, Field(min_length=1)] | None = None
    """Path of your own Python interpreter with the framework; by default dlperf makes an environment."""
    wheel: Annotated[str, Field(min_length=1)] | None = None
    """Path of a wheel to install, relative to the sweep's file; its name says the version."""
    index: Annotated[str, Field(min_length=1), AfterValidator(checked_index)] | None = None
    """URL of a package index to install `version` from, with https."""
    find_links: Annotated[str, Field(min_length=1), AfterValidator(checked_find_links)] | None = None
    """Where the wheel of `version` is: URL of a page with links to wheels, or a folder with wheels,
    relative to the sweep's file."""
    source: Annotated[
        SourceEntry | None,
        BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value),
        Field(json_schema_extra=_or_path),
    ] = None
    """Files of the original program, for the frameworks that run one: a folder, or git with commit."""

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
Options = dict[str, Any]  # by framework; the adapter's own model says what is allowed
Threads = Annotated[
    Annotated[PositiveInt, Tag("count")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "count"),
]


class DataEntry(Model):
    """A data set to read, as `dlperf data make` or `dlperf data convert` lays it out."""

    path: Annotated[str, Field(min_length=1)]
    """Folder of the data set, relative to the sweep's file; the same on every node of a cluster."""
    read: ReadMode = "warm"
    """`warm` (the default): from the page cache. `cold`: from the disk. `memory`: decoded before the run."""


# The tags of errors name the word or the mapping.
DataReference = Annotated[
    Annotated[DataEntry, Tag("mapping")] | Annotated[Literal["synthetic"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "mapping"),
]


class Axes(Model):
    """The dimensions that a grid spans and an exclusion names, each one value or a list. None: not given."""

    experiment: OneOrMore[str] | None = None
    """Names of experiment files; `dlperf list experiments` shows all."""
    topology: TopologyAxis | None = None
    """Nodes and devices on each: `2n8g` is 2 nodes with 8 devices each. A mapping stands for every pair."""
    parallelism: OneOrMore[Parallelism] | None = None
    """How the classifier lies on the devices: whole on each (`data`, the default), divided (`model`), or
    divided with a sample of the classes per iteration (`partial_fc`)."""
    sample_ratio: OneOrMore[SampleRatio] | None = None
    """Share of the classes that an iteration of `partial_fc` uses; required there, not used elsewhere."""
    batch_size_per_device: OneOrMore[Count] | None = None
    """Samples per iteration on each device; `max` searches for the most that train."""
    num_classes: OneOrMore[Count] | None = None
    """Number of classes, by default the experiment's; `max` searches for the most that train."""
    precision: OneOrMore[Precision] | None = None
    """What layers are computed in: `fp32` (the default), `fp16` or `bf16`."""
    data: OneOrMore[DataReference] | None = None
    """Where images come from: `synthetic` (the default), or a data set as `{path: faces}`."""

    def given(self) -> dict[str, Any]:
        """The values that are given, by name; options apart."""
        return {name: value for name, value in self if value is not None and name != "options"}


class Include(Axes):
    """Cells beside the grid: a small grid of its own that takes what it does not name from the sweep."""

    frameworks: OneOrMore[FrameworkReference] | None = None
    """Frameworks of these cells; by default the sweep's."""
    options: Options = Field(default_factory=dict)
    """Options of each framework's adapter, laid over the sweep's."""


class Condition(Axes):
    """Which cells an exclusion takes out: those that have one of the values of every key given."""

    framework: OneOrMore[str] | None = None
    """Names of frameworks: `mxnet`, or one version of it as `mxnet==1.9.1`."""
    nodes: OneOrMore[PositiveInt] | None = None
    """Numbers of nodes."""
    devices_per_node: OneOrMore[PositiveInt] | None = None
    """Numbers of devices on each node."""

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
    """Conditions; a cell that fulfils all of them is excluded."""
    why: Annotated[str, Field(min_length=1)]
    """The reason, which reports print in place of a figure."""


class SweepMeasure(Measure):
    """What is measured, and how often each case is run."""

    repeats: PositiveInt = 5
    """Runs of each case; intervals and tests need several."""


class Limits(Model):
    """When a run is ended: after `time` in all, or after `stall` without a new step or line."""

    time: Seconds = 3600.0
    """The longest a run may take: seconds, or text such as `90s`, `30m` or `2h`; by default 1 hour."""
    stall: Seconds = 600.0
    """The longest a run may go without output, written in the same way; by default 10 minutes."""


class BatchSearch(Model):
    """Between which batch sizes `max` is found, and how exactly."""

    granularity: PositiveInt = 1
    """Distance in samples between two batch sizes that are tried."""
    upper: PositiveInt = 65_536
    """The largest batch size that is tried, in samples."""


class ClassesSearch(Model):
    """Between which numbers of classes `max` is found, and how exactly."""

    granularity: PositiveInt = 1000
    """Distance in classes between two numbers that are tried."""
    upper: PositiveInt = 100_000_000
    """The most classes that are tried."""


class SearchSettings(Model):
    """How `max` is found: each value is tried with a run of `iterations` iterations."""

    iterations: PositiveInt = 10
    """Iterations of each run that tries a value."""
    batch_size_per_device: BatchSearch = BatchSearch()
    """Which batch sizes are tried."""
    num_classes: ClassesSearch = ClassesSearch()
    """Which numbers of classes are tried."""


class SweepFile(Axes):
    """A sweep file: a grid over one experiment or several."""

    experiment: OneOrMore[str]
    frameworks: OneOrMore[FrameworkReference]
    """Frameworks that are compared, the first as the baseline: `name==version`, or a mapping."""
    topology: TopologyAxis
    parallelism: OneOrMore[Parallelism] = ("data",)
    batch_size_per_device: OneOrMore[Count]
    precision: OneOrMore[Precision] = ("fp32",)
    data: OneOrMore[DataReference] = ("synthetic",)
    gradient_dtype: GradientDtype = "float32"
    """What gradients are while they are added up over the devices; `float16` goes with precision `fp16`
    alone, `bfloat16` with `bf16` alone."""
    options: Options = Field(default_factory=dict)
    """Options of each framework's adapter, by framework; `dlperf list options` shows them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What trains: `cpu`, `cuda`, or `auto`, which takes GPUs where CUDA shows one."""
    threads_per_device: Threads = "auto"
    """CPU threads for each device; `auto` divides a node's cores by the most devices that a case uses."""
    memory: MemorySize | None = None
    """Memory budget of each CPU device, in place of a GPU's memory: bytes, or text such as `2GiB`; by default
    none."""
    search: SearchSettings = SearchSettings()
    """How `max` is found."""
    oversubscribe: bool = False
    """Let CPU devices share cores where there are too few; such runs say nothing about scaling."""
    exclude: tuple[Exclude, ...] = ()
    """Cells of the grid that are left out, each with the reason."""
    include: tuple[Include, ...] = ()
    """Small grids beside the main one; each names what differs and takes the rest from the sweep."""
    measure: SweepMeasure = SweepMeasure()
    """What is measured, and how often each case is run."""
    seed: NonNegativeInt = 0
    """Seed of the data, the initial weights and the `shuffled` order."""
    order: Order = "interleaved"
    """Order of the runs: frameworks in turns (`interleaved`), case by case (`sequential`), or random
    (`shuffled`)."""
    limits: Limits = Limits()
    """When a run is ended."""
    notes: str = ""
    """Text for people."""

    def with_frameworks(
        self, change: Callable[[FrameworkEntry, tuple[str | int, ...]], FrameworkEntry]
    ) -> Self:
        """The sweep with each framework, of the grid and of includes, changed; `change` gets its key path."""

        def changed(entries: tuple[FrameworkEntry, ...], *at: str | int) -> tuple[FrameworkEntry, ...]:
            return tuple(change(entry, (*at, index)) for index, entry in enumerate(entries))

        frameworks = changed(self.frameworks, "frameworks")
        includes = [
            include
            if include.frameworks is None
            else include.model_copy(
                update={"frameworks": changed(include.frameworks, "include", number, "frameworks")}
            )
            for number, include in enumerate(self.include)
        ]
        return self.model_copy(update={"frameworks": frameworks, "include": tuple(includes)})


class ExperimentFile(Workload):
    """A workload file. The experiment's name is the file's, so `experiment` is no key of it."""

    num_classes: Size
    """Number of classes of the data set; a sweep may set another."""
    notes: str = ""
    """Text for people."""

    @property
    def workload(self) -> Workload:
        """What a case carries of it."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in Workload.model_fields}
        return Workload(**kept)
