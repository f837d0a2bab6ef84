"""`data.json` of published results: what the source printed and nothing else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from dlperf.model import Model
from dlperf.plan.case import Parallelism, Precision

Rate = Annotated[float, Field(gt=0)]


class PublishedCase(Model):
    """A cell of a published table. None: not measured, not known, or not printed, as `units` says."""

    framework: str
    network: str
    dataset: str
    loss: str
    parallelism: Parallelism
    sample_ratio: float | None
    precision: Precision
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    batch_size_per_device: PositiveInt | None
    batch_is_max: bool
    samples_per_sec: Rate | None
    speedup: Rate | None
    sources: tuple[str, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What its repeats carry too."""
        return (*self.series, self.nodes, self.gpus_per_node)

    @property
    def series(self) -> tuple[object, ...]:
        """Equal for the topologies of one column of a table."""
        return (
            self.framework, self.network, self.dataset, self.loss, self.precision, self.parallelism,
            self.sample_ratio, self.batch_size_per_device,
        )  # fmt: skip


class PublishedRepeats(Model):
    """The single runs of a case, by number, where a source printed them, and what it printed below them."""

    framework: str
    network: str
    dataset: str
    loss: str
    precision: Precision
    parallelism: Parallelism
    sample_ratio: float | None
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    batch_size_per_device: PositiveInt
    repeats: dict[str, Rate]
    median: Rate
    mean: Rate
    complete: bool
    source_file: str
    printed_average: Rate | None = None
    printed_median: Rate | None = None
    printed_speedup: Rate | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """As `PublishedCase.key`."""
        return (
            self.framework, self.network, self.dataset, self.loss, self.precision, self.parallelism,
            self.sample_ratio, self.batch_size_per_device, self.nodes, self.gpus_per_node,
        )  # fmt: skip


class PublishedLimit(Model):
    """The most classes that trained."""

    framework: str
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    batch_size_per_device: PositiveInt
    precision: Precision
    model_parallel: bool
    partial_fc: bool
    sample_ratio: float | None
    num_classes: PositiveInt


class SupersededValue(Model):
    """A figure that stood in the source from a date on."""

    since: str
    commit: str
    samples_per_sec: Rate | None


class Superseded(Model):
    """Figures of a case that a later edition replaced."""

    framework: str
    network: str | None
    dataset: str | None
    parallelism: Parallelism
    sample_ratio: float | None
    nodes: PositiveInt
    gpus_per_node: PositiveInt
    batch_size_per_device: PositiveInt | None
    source_file: str
    values: tuple[SupersededValue, ...]


class PublishedData(Model):
    """`data.json`."""

    title: str
    repository: str
    commit: str
    hardware: str
    software: dict[str, str]
    method: str
    units: dict[str, str]
    cases: tuple[PublishedCase, ...]
    repeats: tuple[PublishedRepeats, ...]
    max_num_classes: tuple[PublishedLimit, ...]
    superseded: tuple[Superseded, ...]
    notes: tuple[str, ...]
