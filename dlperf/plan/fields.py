"""The kinds of value that a sweep file may hold: one or more, counts, durations, topologies."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PositiveInt,
    Tag,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from dlperf.model import Model
from dlperf.plan.case import Topology
from dlperf.plan.memory_size import bytes_of

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")

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


def _or_max(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "max" else number(value)


# `max` is the largest number that trains, found by search.
if TYPE_CHECKING:
    Count = int | Literal["max"]
else:
    Count = Annotated[
        PositiveInt,
        WrapValidator(_or_max),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "max"}]}),
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
        raise ValueError(f"{value!r} is no duration; write seconds, or a number with s, m or h as in '30m'")
    return float(match["number"]) * _UNIT_SECONDS[match["unit"]]


Seconds = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(seconds_of),
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
