"""Published results as data: `published:NAME` wherever results are read.

`reports/<name>/data.json` holds what the source printed and nothing else; `schema.json` beside it is the JSON
Schema of `PublishedData`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, ValidationError

from dlperf.errors import UserError
from dlperf.files import first_problem, shipped_folder
from dlperf.model import Model
from dlperf.plan.case import Case, Measure, Parallelism, Precision, Topology, Workload
from dlperf.plan.load import load_experiment
from dlperf.results.cases import CaseFigures, sort_key
from dlperf.results.schema import Status
from dlperf.statistics.basic import Summary, summarise

PREFIX = "published:"
DATA_FILE = "data.json"
NO_REPEATS = "published as a median alone; the runs behind it were not printed"
_MEASURE = Measure(warmup_iterations=20, measured_iterations=100)
_NOT_KNOWN = frozenset({"data", "seed", "threads_per_device"})  # no table says

Rate = Annotated[float, Field(gt=0)]


class _Entry(Model):
    """What a published number belongs to."""

    framework: str
    """Name of the framework."""
    nodes: PositiveInt
    """Number of nodes."""
    gpus_per_node: PositiveInt
    """Number of GPUs on each node."""

    @property
    def topology(self) -> str:
        """Such as `2n8g`."""
        return f"{self.nodes}n{self.gpus_per_node}g"

    @property
    def devices(self) -> int:
        """Over all nodes."""
        return self.nodes * self.gpus_per_node


class _CaseEntry(_Entry):
    """An entry that names a whole case."""

    network: str
    """Name of the network in the source, such as `r100`."""
    dataset: str
    """Name of the data set in the source, such as `emore`."""
    loss: str
    """Name of the loss, such as `arcface`."""
    precision: Precision
    """What layers were computed in."""
    parallelism: Parallelism
    """How the classifier lay on the devices."""
    sample_ratio: float | None
    """Share of the classes that an iteration of `partial_fc` used; null for other parallelism."""
    batch_size_per_device: PositiveInt | None
    """Samples per iteration on each GPU; null: not known."""

    @property
    def experiment(self) -> str:
        """The name of the workload, such as `r100_emore`."""
        return f"{self.network}_{self.dataset}"

    @property
    def series(self) -> tuple[object, ...]:
        """Equal for the topologies of one column of a table."""
        return (
            self.framework, self.network, self.dataset, self.loss, self.precision, self.parallelism,
            self.sample_ratio, self.batch_size_per_device,
        )  # fmt: skip

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for a case and its repeats."""
        return (*self.series, self.nodes, self.gpus_per_node)


class PublishedCase(_CaseEntry):
    """A cell of a published table. None: not measured, not known, or not printed, as `units` says."""

    batch_is_max: bool
    """Whether the batch was the largest that trained."""
    samples_per_sec: Rate | None
    """Samples per second over all devices; null: not measured."""
    speedup: Rate | None
    """samples_per_sec over that of one device, as printed; null: none was printed."""
    sources: tuple[str, ...]
    """Files of the source that print it."""


class PublishedRepeats(_CaseEntry):
    """The single runs of a case, by number, where a source printed them, and what it printed below them."""

    repeats: dict[str, Rate]
    """Samples per second of each run, by its number."""
    median: Rate
    """Median of the runs, in samples per second."""
    mean: Rate
    """Mean of the runs, in samples per second."""
    complete: bool
    """Whether the source prints every run of the case."""
    source_file: str
    """File of the source that prints them."""
    printed_average: Rate | None = None
    """The average as printed, in samples per second; null: none was printed."""
    printed_median: Rate | None = None
    """The median as printed, in samples per second; null: none was printed."""
    printed_speedup: Rate | None = None
    """The speedup as printed; null: none was printed."""


class PublishedLimit(_Entry):
    """The most classes that trained; the source names no network."""

    batch_size_per_device: PositiveInt
    """Samples per iteration on each GPU."""
    precision: Precision
    """What layers were computed in."""
    model_parallel: bool
    """Whether the classifier was divided over the devices."""
    partial_fc: bool
    """Whether an iteration used a sample of the classes."""
    sample_ratio: float | None
    """Share of the classes in that sample; null without one."""
    num_classes: PositiveInt
    """The most classes that trained."""


class SupersededValue(Model):
    """A figure that stood in the source from a date on."""

    since: str
    """Date of the edition that printed it first, ISO 8601."""
    commit: str
    """Commit of that edition in the source's repository."""
    samples_per_sec: Rate | None
    """Samples per second over all devices; null: the edition printed none."""


class Superseded(_Entry):
    """Figures of a case that a later edition replaced."""

    network: str | None
    """Name of the network in the source, such as `r100`; null: not known."""
    dataset: str | None
    """Name of the data set in the source, such as `emore`; null: not known."""
    parallelism: Parallelism
    """How the classifier lay on the devices."""
    sample_ratio: float | None
    """Share of the classes that an iteration of `partial_fc` used; null for other parallelism."""
    batch_size_per_device: PositiveInt | None
    """Samples per iteration on each GPU; null: not known."""
    source_file: str
    """File of the source that printed them."""
    values: tuple[SupersededValue, ...]
    """The figures, earliest first."""


class PublishedData(Model):
    """`data.json`."""

    title: str
    """What the figures are."""
    repository: str
    """URL of the source's repository."""
    commit: str
    """Commit of the source that the figures were read at."""
    hardware: str
    """The machines, on one line."""
    software: dict[str, str]
    """Version of each framework and its program, by framework."""
    method: str
    """How the source measured."""
    units: dict[str, str]
    """Unit of a field, and what null means there, by field."""
    cases: tuple[PublishedCase, ...]
    """The figures."""
    repeats: tuple[PublishedRepeats, ...]
    """The single runs behind figures, where they were printed."""
    max_num_classes: tuple[PublishedLimit, ...]
    """The most classes that trained."""
    superseded: tuple[Superseded, ...]
    """Earlier figures that later editions replaced."""
    notes: tuple[str, ...]
    """What a reader of the figures should know, one sentence or several each."""

    def version(self, framework: str) -> str:
        """The second word of `OneFlow 0.3.4, oneflow_face at ...`."""
        return self.software[framework].partition(",")[0].rpartition(" ")[2]

    def why_missing(self, field: str) -> str:
        """Why a field of a case is null, in the words of the source."""
        return self.units[field].partition("null = ")[2] or "not given"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published data set under its name."""

    name: str
    data: PublishedData

    @cached_property
    def figures(self) -> tuple[CaseFigures, ...]:
        """Its cases as the report reads cases, in the report's order.

        A case needs a batch size: cells for which the source gives none are left out.
        """
        known = [case for case in self.data.cases if case.batch_size_per_device is not None]
        workloads = {name: _workload(name) for name in dict.fromkeys(case.experiment for case in known)}
        return tuple(
            sorted((self._figures_of(case, *workloads[case.experiment]) for case in known), key=sort_key)
        )

    def _figures_of(self, case: PublishedCase, workload: Workload, num_classes: int) -> CaseFigures:
        summary = self._summary(case)
        reason = NO_REPEATS if summary is not None and summary.runs == 1 else None
        return CaseFigures(
            case=Case(
                framework=case.framework,
                version=self.data.version(case.framework),
                workload=workload,
                parallelism=case.parallelism,
                sample_ratio=case.sample_ratio,
                precision=case.precision,
                topology=Topology(nodes=case.nodes, devices_per_node=case.gpus_per_node),
                device="cuda",
                batch_size_per_device=case.batch_size_per_device or 0,
                num_classes=num_classes,
                threads_per_device=1,
                measure=_MEASURE,
            ),
            sweep=Path(PREFIX + self.name),
            hardware=self.data.hardware,
            status=Status.NOT_MEASURED if summary is None else Status.OK,
            runs=(),
            summary=summary,
            reason=self.data.why_missing("samples_per_sec") if summary is None else reason,
            evidence=None,
            not_known=_NOT_KNOWN,
            published=True,
        )

    def _summary(self, case: PublishedCase) -> Summary | None:
        """With the spread of its repeats, where they are the ones behind the printed figure."""
        if case.samples_per_sec is None:
            return None
        for repeats in self.data.repeats:
            if repeats.key == case.key and repeats.complete and repeats.median == case.samples_per_sec:
                return summarise(list(repeats.repeats.values()))
        return summarise([case.samples_per_sec])


def _workload(experiment: str) -> tuple[Workload, int]:
    # The shipped file, not one of the same name where the user happens to stand.
    file, _document = load_experiment(experiment, folder=shipped_folder("experiments").parent)
    return file.workload, file.num_classes


def published_names() -> tuple[str, ...]:
    """The data sets of this installation."""
    return tuple(sorted(path.parent.name for path in shipped_folder("reports").glob(f"*/{DATA_FILE}")))


def load_published(name: str) -> Published:
    """The data set `name`, with or without `published:` in front."""
    name = name.removeprefix(PREFIX)
    path = shipped_folder("reports") / name / DATA_FILE
    if name not in published_names():
        known = ", ".join(PREFIX + one for one in published_names())
        raise UserError(f"{PREFIX}{name}: no such published data set; known: {known}")
    try:
        return Published(name=name, data=PublishedData.model_validate_json(path.read_bytes()))
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {first_problem(error)}") from error
