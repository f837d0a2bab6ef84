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
from dlperf.wording import plural

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
DataForm = Literal["recordio", "ofrecord"]
ReadMode = Literal["warm", "cold", "memory"]

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
    """Number of nodes."""
    devices_per_node: PositiveInt
    """Number of devices (GPUs, or groups of CPU cores) on each node."""

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
    """Which margins are used: `arcface` m2, `cosface` m3, `combined` all three, `softmax` none."""
    scale: Annotated[float, Field(gt=0)] = 64.0
    """Factor on every cosine before the softmax."""
    m1: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the angle of the true class; 1 is no margin. Kind `combined` alone."""
    m2: Annotated[float, Field(ge=0)] = 0.0
    """Radians added to the angle of the true class; 0 is no margin. Kinds `arcface` and `combined`."""
    m3: Annotated[float, Field(ge=0)] = 0.0
    """Subtracted from the cosine of the true class; 0 is no margin. Kinds `cosface` and `combined`."""

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
    """SGD with momentum and weight decay; `dlperf docs workloads` gives the update as one formula.

    `coupled` adds weight_decay x w to the gradient before the momentum; `decoupled` subtracts
    learning_rate x weight_decay x w from the weight beside the momentum step. `no_decay` lists the kinds of
    parameter that do not decay; upstream decays all, so the default is empty.
    """

    kind: Literal["sgd"] = "sgd"
    """The optimizer; SGD is the only one."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last update that is kept; 0 is SGD without momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0005
    """Coefficient of the weight decay; 0 is none."""
    decay: Literal["coupled", "decoupled"] = "coupled"
    """`coupled`: the decay is part of the gradient. `decoupled`: it is beside the momentum step."""
    no_decay: tuple[ParameterKind, ...] = ()
    """Kinds of parameter that do not decay; by default all decay."""


class Schedule(Model):
    """Learning rate = base x the scale of the last step passed; `steps` counts iterations from 0."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """The learning rate before the first step."""
    steps: tuple[PositiveInt, ...] = ()
    """Iterations, counted from 0 and increasing, at which the learning rate changes; by default never."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """For each of `steps`, the factor on the first learning rate from there on."""

    @model_validator(mode="after")
    def _one_scale_a_step(self) -> Self:
        if len(self.steps) != len(self.scales):
            counts = f"{plural(len(self.steps), 'step')} but {plural(len(self.scales), 'scale')}"
            raise ValueError(f"{counts}; give one scale per step")
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
    """Name of the experiment: that of its file, without `.yaml`."""
    network: Network
    """The network that turns an image of 112 x 112 pixels into an embedding."""
    head: Head
    """How the last map becomes an embedding: `E` or `FC` behind an IResNet, `GDC` behind MobileFaceNet."""
    embedding_size: PositiveInt
    """Number of components of an embedding."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of activations that head E drops; the other heads drop none."""
    dataset: str
    """Name of the data set that the workload stands for, for tables."""
    data: Literal["synthetic"] = "synthetic"
    """Where images come from unless the sweep's `data` says otherwise: `synthetic`, made by dlperf."""
    loss: Loss
    """The loss over the classes."""
    optimizer: Optimizer = Optimizer()
    """The optimizer; by default SGD with momentum 0.9 and coupled weight decay 0.0005."""
    schedule: Schedule = Schedule()
    """The learning rate over the iterations; by default 0.1 throughout."""
    classifier_init_std: Annotated[float, Field(gt=0)] = 0.01
    """Standard deviation of the classifier's first weights, which are normally distributed around 0."""
    # Not written where it is the default, so that cases of older results keep their identity.
    batch_norm: Annotated[Literal["batch", "frozen"], Field(exclude_if=lambda kind: kind == "batch")] = (
        "batch"
    )
    """`batch`: normalise by the batch. `frozen`: normalise by the running statistics, which stay."""

    @property
    def content_hash(self) -> str:
        """What tells workloads apart."""
        return digest_of(self.model_dump(mode="json"))


DEFAULT_MAX_INTERFERENCE: Final = 0.02  # docs/evidence.md, "Interference"


class Measure(Model):
    """Which iterations are measured: the first `warmup_iterations` are timed, kept, and not counted."""

    warmup_iterations: Annotated[int, Field(ge=0)] = 20
    """Iterations at the start of a run that are timed and kept, and not counted."""
    measured_iterations: PositiveInt = 100
    """Iterations behind the warm-up whose time makes the figure."""
    # The two change nothing in what is run, so they are no part of a case's identity; not written by default.
    max_interference: Annotated[
        float, Field(ge=0, le=1, exclude_if=lambda share: share == DEFAULT_MAX_INTERFERENCE)
    ] = DEFAULT_MAX_INTERFERENCE
    """A run that loses a larger share of its CPU time to other work is disturbed and has no figure."""
    telemetry: Annotated[bool, Field(exclude_if=lambda wanted: wanted)] = True
    """Whether the nodes are sampled beside the ranks (`telemetry.csv`), GPUs by nvidia-smi."""


class DataSet(Model):
    """A data set of face images in a folder, the same on every node; `dlperf docs data` describes it."""

    path: str
    """Absolute path of the folder. It is no part of a case's identity: the index tells data sets apart."""
    read: ReadMode = "warm"
    """`warm`: the files are read once before the run, so that they lie in the page cache as far as they fit.
    `cold`: they are dropped from it. `memory`: images are decoded before the run and held in memory."""
    forms: Annotated[tuple[DataForm, ...], Field(min_length=1)]
    """What lies in the folder: `recordio`, `ofrecord` or both, of the same images in the same order."""
    images: PositiveInt
    """Number of images."""
    classes: PositiveInt
    """Number of classes; labels count from 0."""
    index_sha256: str
    """SHA-256 in hexadecimal digits over the index of each form."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.rstrip("/").rpartition("/")[2]


class Source(Model):
    """The files of an original training program, as they were when the plan was made."""

    engine: str
    """Name of the framework whose own loop, with the same engine, it is compared with, such as `mxnet`."""
    content_hash: str
    """12 hexadecimal digits of SHA-256 over names and bytes of the files that the program needs."""
    commit: str | None = None
    """The commit of the checkout, with `-dirty` where these files differ from it; null: not known. It is no
    part of a case's identity."""


class Search(Model):
    """How the largest value of one axis that trains is found; `dlperf docs limits` describes it.

    The values that are tried go from `lower` in steps of `granularity` up to `upper`, each with a run of
    `iterations` iterations.
    """

    axis: SearchedAxis
    """The axis whose largest value is searched for."""
    lower: PositiveInt
    """The smallest value that is tried."""
    granularity: PositiveInt
    """Distance between two values that are tried."""
    upper: PositiveInt
    """The largest value that is tried."""
    iterations: PositiveInt
    """Iterations of each run that tries a value."""


class Case(Model):
    """One cell of a sweep, fully resolved.

    With a `search` the value of its axis is the one that was found, or before that the smallest that is
    tried; it is no part of the case's identity, so that a case has one name before and after, and everywhere.
    """

    schema_version: Literal[1] = 1
    """Version of this format."""
    framework: str
    """Name of the framework, such as `mxnet`."""
    version: str
    """The framework's version, such as `1.9.1`."""
    workload: Workload
    """What is trained."""
    parallelism: Parallelism
    """How the classifier lies on the devices: whole on each (`data`), or divided (`model`, `partial_fc`)."""
    sample_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the classes that an iteration of `partial_fc` uses; null for other parallelism."""
    precision: Precision = "fp32"
    """What layers are computed in."""
    topology: Topology
    """Number of nodes and devices."""
    device: DeviceKind
    """What a device is: CPU cores or a GPU."""
    batch_size_per_device: PositiveInt
    """Samples per iteration on each device."""
    num_classes: PositiveInt
    """Number of classes of the classifier."""
    threads_per_device: PositiveInt
    """CPU threads for each device."""
    measure: Measure
    """Which iterations are measured."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the data and of the initial weights."""
    options: dict[str, OptionValue] = Field(default_factory=dict)
    """Options of the framework's adapter, by name; `dlperf list options` shows them."""
    # Earlier versions could invent results, which said True here; such a case is refused. Never written.
    simulated: Annotated[SkipJsonSchema[Literal[False]], Field(exclude=True)] = False
    # None of these is written where it has its default, so that cases of older results keep their identity.
    gradient_dtype: Annotated[GradientDtype, Field(exclude_if=lambda dtype: dtype == "float32")] = "float32"
    """What gradients are while they are added up over the devices."""
    memory_bytes: Annotated[PositiveInt | None, Field(exclude_if=lambda size: size is None)] = None
    """Memory budget of each CPU device in bytes, held by the supervisor; null: none."""
    search: Annotated[Search | None, Field(exclude_if=lambda search: search is None)] = None
    """How the largest value of one axis is found; null: no axis is searched."""
    data: Annotated[DataSet | None, Field(exclude_if=lambda data: data is None)] = None
    """The data set that is read; null: the images are synthetic."""
    source: Annotated[Source | None, Field(exclude_if=lambda source: source is None)] = None
    """The files of the original program that trains; null: a training loop of dlperf or of an adapter."""

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
        """What tells cases apart.

        Neither a number that is searched for counts, nor `max_interference` and `telemetry`, nor where files
        lie.
        """
        left_out: dict[str, bool | set[str]] = {
            "measure": {"max_interference", "telemetry"},
            "data": {"path"},
            "source": {"commit"},
        }
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
        if self.data is not None:
            readable = f"{readable}_{self.data.name}-{self.data.read}"
        return re.sub(r"[^A-Za-z0-9._+-]", "-", readable) + f"-{self.content_hash}"
