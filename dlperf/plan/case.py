"""A case: one cell of a sweep, fully resolved. Its content hash is its identity.

`case.json` in a run folder is this model as JSON; the training programs in `frameworks/` read the same file
(`frameworks/common/case.py`).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator
from pydantic.json_schema import SkipJsonSchema

from dlperf.model import Model

_SIZE = re.compile(r"(?P<number>[1-9][0-9]*)\s*(?P<unit>[KMGT]iB)")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def bytes_of(value: Any) -> Any:
    """Bytes where the value is a size such as `2GiB`, ValueError for other text; any other value as it is."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(
            f"{value!r} is not a size; write a whole number with KiB, MiB, GiB or TiB, such as '2GiB'"
        )
    return int(match["number"]) * _UNITS[match["unit"]]


def bytes_text(size: int) -> str:
    """`2GiB`: exact, in the largest unit that divides it."""
    for name, unit in reversed(_UNITS.items()):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


Network = Literal["iresnet18", "iresnet34", "iresnet50", "iresnet100", "mobilefacenet"]
Head = Literal["E", "FC", "GDC"]
LossKind = Literal["arcface", "cosface", "combined", "softmax"]
Parallelism = Literal["data", "model", "partial_fc"]
Precision = Literal["fp32", "fp16", "bf16"]
GradientDtype = Literal["float32", "float16", "bfloat16"]
DeviceKind = Literal["cpu", "cuda"]
# The kinds of parameter that weight decay can leave out.
ParameterKind = Literal["bias", "batch_norm", "prelu"]
OptionValue = bool | int | float | str
SearchedAxis = Literal["batch_size_per_device", "num_classes"]

# The narrowest that gradients may have; with fp16 it is the loss scale that keeps small ones from becoming 0.
GRADIENT_DTYPES: Mapping[Precision, GradientDtype] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}

SEARCHED_AXES: tuple[SearchedAxis, ...] = get_args(SearchedAxis)

_TOPOLOGY = re.compile(r"(?P<nodes>[1-9][0-9]{0,5})n(?P<devices>[1-9][0-9]{0,3})g")


class Topology(Model):
    """How many nodes, and how many devices on each: `2n8g` is 2 nodes with 8 devices each."""

    nodes: PositiveInt
    devices_per_node: PositiveInt

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read `2n8g`; raise ValueError where the text has another form."""
        match = _TOPOLOGY.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a topology; write nodes and devices per node, such as '2n8g'")
        return cls(nodes=int(match["nodes"]), devices_per_node=int(match["devices"]))

    @property
    def world_size(self) -> int:
        """Devices over all nodes; one rank drives one device."""
        return self.nodes * self.devices_per_node

    def __str__(self) -> str:
        return f"{self.nodes}n{self.devices_per_node}g"


class Loss(Model):
    """The margin softmax: the true class's cosine becomes cos(m1 theta + m2) - m3, all times `scale`.

    `arcface` uses m2 alone, `cosface` m3 alone, `combined` all three, `softmax` none of them (plain
    normalised softmax). A margin that the kind does not use must stand at its neutral value.
    """

    kind: LossKind
    scale: Annotated[float, Field(gt=0)] = 64.0
    m1: Annotated[float, Field(gt=0)] = 1.0
    m2: Annotated[float, Field(ge=0)] = 0.0
    m3: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _margins_fit_the_kind(self) -> Self:
        kinds = {"arcface": {"m2"}, "cosface": {"m3"}, "combined": {"m1", "m2", "m3"}, "softmax": set()}
        neutral = {"m1": 1.0, "m2": 0.0, "m3": 0.0}
        unused = [name for name in neutral if name not in kinds[self.kind]]
        wrong = [name for name in unused if getattr(self, name) != neutral[name]]
        if wrong:
            names = ", ".join(wrong)
            raise ValueError(f"{self.kind} does not use {names}; remove it, or use kind 'combined'")
        return self


class Optimizer(Model):
    """SGD with momentum and weight decay; docs/workloads.md gives the update as one formula.

    `coupled` adds weight_decay x w to the gradient before the momentum; `decoupled` subtracts
    learning_rate x weight_decay x w from the weight beside the momentum step. `no_decay` lists the kinds of
    parameter that do not decay; upstream decays all, so the default is empty.
    """

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0005
    decay: Literal["coupled", "decoupled"] = "coupled"
    no_decay: tuple[ParameterKind, ...] = ()


class Schedule(Model):
    """Learning rate = base x the scale of the last step passed; `steps` counts iterations from 0."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    steps: tuple[PositiveInt, ...] = ()
    scales: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _one_scale_a_step(self) -> Self:
        if len(self.steps) != len(self.scales):
            raise ValueError(
                f"{len(self.steps)} steps but {len(self.scales)} scales; give one scale per step"
            )
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must increase")
        return self


def digest_of(content: object) -> str:
    """12 hexadecimal digits of SHA-256 over the canonical JSON of `content`."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Workload(Model):
    """What is trained, the same in every framework: an experiment file, resolved."""

    experiment: str
    network: Network
    head: Head
    embedding_size: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4  # used by head E alone
    dataset: str
    data: Literal["synthetic"] = "synthetic"
    loss: Loss
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    classifier_init_std: Annotated[float, Field(gt=0)] = 0.01
    # `frozen`: normalise by the running statistics, which stay. Not written where it is the default, so that
    # cases of older results keep their identity.
    batch_norm: Annotated[Literal["batch", "frozen"], Field(exclude_if=lambda kind: kind == "batch")] = (
        "batch"
    )

    @property
    def content_hash(self) -> str:
        """What tells workloads apart."""
        return digest_of(self.model_dump(mode="json"))


DEFAULT_MAX_INTERFERENCE: Final = 0.02  # docs/evidence.md, "Interference"


class Measure(Model):
    """Which iterations are measured: the first `warmup_iterations` are timed, kept, and not counted."""

    warmup_iterations: Annotated[int, Field(ge=0)] = 20
    measured_iterations: PositiveInt = 100
    # A run whose ranks lost a larger share of their CPU time to other work is `disturbed` and has no figure.
    # It changes nothing in what is run, so it is no part of a case's identity; not written by default.
    max_interference: Annotated[
        float, Field(ge=0, le=1, exclude_if=lambda share: share == DEFAULT_MAX_INTERFERENCE)
    ] = DEFAULT_MAX_INTERFERENCE


class Search(Model):
    """How the largest value of one axis that trains is found; docs/limits.md describes it.

    The values that are tried go from `lower` in steps of `granularity` up to `upper`, each with a run of
    `iterations` iterations.
    """

    axis: SearchedAxis
    lower: PositiveInt
    granularity: PositiveInt
    upper: PositiveInt
    iterations: PositiveInt


class Case(Model):
    """One cell of a sweep, fully resolved.

    With a `search` the value of its axis is the one that was found, or before that the smallest that is
    tried; it is no part of the case's identity, so that a case has one name before and after, and everywhere.
    """

    schema_version: Literal[1] = 1
    framework: str  # an adapter's name, such as `mxnet`
    version: str  # the framework's version, such as `1.9.1`
    workload: Workload
    parallelism: Parallelism
    sample_ratio: Annotated[float, Field(gt=0, le=1)] | None = None  # partial_fc alone
    precision: Precision = "fp32"
    topology: Topology
    device: DeviceKind
    batch_size_per_device: PositiveInt
    num_classes: PositiveInt
    threads_per_device: PositiveInt
    measure: Measure
    seed: Annotated[int, Field(ge=0)] = 0
    options: dict[str, OptionValue] = Field(default_factory=dict)
    # Earlier versions could invent results, which said True here; such a case is refused. Never written.
    simulated: Annotated[SkipJsonSchema[Literal[False]], Field(exclude=True)] = False
    # What gradients have while they are added up over devices. Not written where it is the default, so that
    # cases of older results keep their identity.
    gradient_dtype: Annotated[GradientDtype, Field(exclude_if=lambda dtype: dtype == "float32")] = "float32"
    # Of a device of the CPU, held by the supervisor. Not written where there is none, as `search`, so that
    # other cases keep their identity.
    memory_bytes: Annotated[PositiveInt | None, Field(exclude_if=lambda size: size is None)] = None
    search: Annotated[Search | None, Field(exclude_if=lambda search: search is None)] = None

    @model_validator(mode="after")
    def _sample_ratio_belongs_to_partial_fc(self) -> Self:
        if (self.parallelism == "partial_fc") != (self.sample_ratio is not None):
            raise ValueError("sample_ratio is required with parallelism partial_fc, and allowed only there")
        return self

    @model_validator(mode="after")
    def _gradients_are_no_narrower_than_products(self) -> Self:
        dtype = self.gradient_dtype
        if dtype not in ("float32", GRADIENT_DTYPES[self.precision]):
            raise ValueError(f"gradient_dtype {dtype} does not go with precision {self.precision}")
        return self

    @property
    def global_batch_size(self) -> int:
        """Samples per iteration over all devices."""
        return self.batch_size_per_device * self.topology.world_size

    def changed(self, **update: object) -> Self:
        """Another case that differs in these fields; unlike `model_copy` it has a name of its own."""
        return self.model_validate({name: getattr(self, name) for name in type(self).model_fields} | update)

    def size(self, axis: SearchedAxis) -> int | Literal["max"]:
        """The number of an axis as the sweep names it: `max` where it is searched for."""
        if self.search is not None and self.search.axis == axis:
            return "max"
        return self.number(axis)

    def number(self, axis: SearchedAxis) -> int:
        """The number of an axis; of a searched one what was found, or the smallest that is tried."""
        number: int = getattr(self, axis)
        return number

    @cached_property
    def content_hash(self) -> str:
        """What tells cases apart; neither a number that is searched for nor `max_interference` counts."""
        left_out: dict[str, bool | set[str]] = {"measure": {"max_interference"}}
        if self.search is not None:
            left_out[self.search.axis] = True
        return digest_of(self.model_dump(mode="json", exclude=left_out))

    @cached_property
    def case_id(self) -> str:
        """A name for folders and tables: readable first, the content hash last."""
        ratio = f"{self.sample_ratio:g}" if self.sample_ratio is not None else ""
        readable = (
            f"{self.framework}-{self.version}_{self.workload.experiment}_{self.parallelism}{ratio}"
            f"_{self.topology}_b{self.size('batch_size_per_device')}_c{self.size('num_classes')}"
            f"_{self.precision}"
        )
        if self.gradient_dtype != "float32":
            readable = f"{readable}_{self.gradient_dtype}-gradients"
        if self.memory_bytes is not None:
            readable = f"{readable}_{bytes_text(self.memory_bytes)}"
        return re.sub(r"[^A-Za-z0-9._+-]", "-", readable) + f"-{self.content_hash}"
