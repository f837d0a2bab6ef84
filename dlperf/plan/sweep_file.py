"""What a sweep file may hold. docs/sweeps.md describes it for people.

Names of frameworks and experiments are checked against the `frameworks` and `experiments` of the validation
context, so that a misspelt one is reported together with everything else.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dlperf.model import Model
from dlperf.plan.case import Measure, Parallelism, Precision, Topology
from dlperf.plan.validation import unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")

Order = Literal["interleaved", "sequential", "shuffled"]

DEFAULT_TIME_LIMIT_SECONDS = 3600.0
DEFAULT_STALL_LIMIT_SECONDS = 600.0

_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>s|m|h)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


class _OneOrMore:
    """Lets one value stand where a list may; the list must hold something, and nothing twice."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _listed(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _different(values: tuple[T, ...]) -> tuple[T, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value} stands twice")
    return values


OneOrMore = Annotated[
    tuple[T, ...], Field(min_length=1), BeforeValidator(_listed), AfterValidator(_different), _OneOrMore()
]


def _countable(value: Any) -> Any:
    if value == "max":
        raise ValueError("'max' (the largest that trains) cannot be searched for yet; write a number")
    return value


Count = Annotated[PositiveInt, BeforeValidator(_countable), WithJsonSchema({"type": "integer", "minimum": 1})]


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no duration; write seconds, or a number with s, m or h as in '30m'")
    return float(match["number"]) * _UNIT_SECONDS[match["unit"]]


Seconds = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [90, "30m"]}),
]


def _topology(value: Any) -> Any:
    return Topology.from_text(value) if isinstance(value, str) else value


TopologyText = Annotated[
    Topology,
    BeforeValidator(_topology),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*n[1-9][0-9]*g$", "examples": ["2n8g"]}),
]


class TopologyGrid(Model):
    """Every number of nodes with every number of devices on each."""

    nodes: OneOrMore[PositiveInt]
    devices_per_node: OneOrMore[PositiveInt]

    def topologies(self) -> tuple[Topology, ...]:
        """The product, nodes first."""
        pairs = itertools.product(self.nodes, self.devices_per_node)
        return tuple(Topology(nodes=nodes, devices_per_node=devices) for nodes, devices in pairs)


TopologyAxis = Annotated[
    Annotated[TopologyGrid, Tag("grid")] | Annotated[OneOrMore[TopologyText], Tag("list")],
    Discriminator(lambda value: "grid" if isinstance(value, dict | TopologyGrid) else "list"),
]


def _framework_reference(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name, separator, version = value.partition("==")
    if not name or (separator and not version):
        raise ValueError(f"{value!r} is no framework; write name==version as in 'mxnet==1.9.1'")
    return {"name": name, "version": version} if version else {"name": name}


class FrameworkEntry(Model):
    """One framework of a sweep: `mxnet==1.9.1`, or a mapping that may name the user's own interpreter."""

    name: str
    version: Annotated[str, Field(min_length=1)] | None = None  # None: the adapter's first version
    python: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        return _known("framework", name, info)

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


def _known(kind: str, name: str, info: ValidationInfo) -> str:
    known: Iterable[str] | None = (info.context or {}).get(f"{kind}s")
    if known is not None and name not in known:
        raise ValueError(unknown(kind, name, known))
    return name


class _OrText:
    """Says in the JSON Schema that `name==version` may stand for the mapping."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "examples": ["mxnet==1.9.1"]}, handler(schema)]}


FrameworkReference = Annotated[FrameworkEntry, BeforeValidator(_framework_reference), _OrText()]
SampleRatio = Annotated[float, Field(gt=0, le=1)]
Options = dict[str, Any]  # by framework; the adapter's own model says what may stand there
Threads = Annotated[
    Annotated[PositiveInt, Tag("count")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "count"),
]


class Axes(Model):
    """The dimensions of a grid, each one value or a list. None: not given."""

    experiment: OneOrMore[str] | None = None
    frameworks: OneOrMore[FrameworkReference] | None = None
    topology: TopologyAxis | None = None
    parallelism: OneOrMore[Parallelism] | None = None
    sample_ratio: OneOrMore[SampleRatio] | None = None  # applies to partial_fc alone
    batch_size_per_device: OneOrMore[Count] | None = None
    num_classes: OneOrMore[Count] | None = None  # None: the experiment's
    precision: OneOrMore[Precision] | None = None

    def given(self) -> dict[str, Any]:
        """The axes that are given, by name."""
        values = {name: getattr(self, name) for name in Axes.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class Include(Axes):
    """Cells beside the grid: a small grid of its own that takes what it does not name from the sweep."""

    options: Options = Field(default_factory=dict)  # laid over the sweep's


class Condition(Model):
    """Which cells an exclusion takes out: those that have one of the values of every key given."""

    framework: OneOrMore[str] | None = None  # `mxnet`, or one version of it as `mxnet==1.9.1`
    experiment: OneOrMore[str] | None = None
    topology: TopologyAxis | None = None
    nodes: OneOrMore[PositiveInt] | None = None
    devices_per_node: OneOrMore[PositiveInt] | None = None
    parallelism: OneOrMore[Parallelism] | None = None
    sample_ratio: OneOrMore[SampleRatio] | None = None
    batch_size_per_device: OneOrMore[PositiveInt] | None = None
    num_classes: OneOrMore[PositiveInt] | None = None
    precision: OneOrMore[Precision] | None = None

    @field_validator("framework")
    @classmethod
    def _is_known(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        for name in names or ():
            _known("framework", name.partition("==")[0], info)
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

    time: Seconds = DEFAULT_TIME_LIMIT_SECONDS
    stall: Seconds = DEFAULT_STALL_LIMIT_SECONDS


class SweepFile(Axes):
    """A sweep file: a grid over one experiment or several."""

    experiment: OneOrMore[str]
    frameworks: OneOrMore[FrameworkReference]
    topology: TopologyAxis
    parallelism: OneOrMore[Parallelism] = ("data",)
    batch_size_per_device: OneOrMore[Count]
    precision: OneOrMore[Precision] = ("fp32",)
    options: Options = Field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_device: Threads = "auto"
    exclude: tuple[Exclude, ...] = ()
    include: tuple[Include, ...] = ()
    measure: SweepMeasure = SweepMeasure()
    seed: NonNegativeInt = 0
    order: Order = "interleaved"
    limits: Limits = Limits()
    notes: str = ""
