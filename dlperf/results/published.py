"""Published results as data: `published:NAME` wherever results are read.

`reports/<name>/data.json` holds what the source printed or what was read from its charts and logs, nothing
else; `dlperf schema published` is the JSON Schema of `PublishedData`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationError

from dlperf.errors import UserError
from dlperf.files import first_problem, shipped_folder
from dlperf.model import Model
from dlperf.plan.case import Case, Loss, Measure, Network, Parallelism, Precision, Topology, Workload
from dlperf.plan.load import load_experiment
from dlperf.results.cases import CaseFigures, Printed, Reading, sort_key
from dlperf.results.schema import Status
from dlperf.statistics.basic import Summary, summarise

PREFIX = "published:"
DATA_FILE = "data.json"
NO_REPEATS = "published as a median alone; the runs behind it were not printed"
OUT_OF_MEMORY = "training failed for want of GPU memory, says the source"
READINGS: dict[Reading, str] = {
    "rounded": "rounded by its authors",
    "chart": "read from a chart",
    "log": "median of the lines of a public log",
}
_MEASURE = Measure(warmup_iterations=20, measured_iterations=100)
_NOT_KNOWN = frozenset({"data", "seed", "threads_per_device"})  # no table says
# Networks of sources that are ours. arcface_torch's `mbf` is none: it is twice as wide as y1.
_NETWORKS: dict[str, Network] = {"r50": "iresnet50", "r100": "iresnet100", "y1": "mobilefacenet"}

Rate = Annotated[float, Field(gt=0)]


class _Entry(Model):
    """What a published number belongs to."""

    framework: str
    """Name of the framework."""
    nodes: PositiveInt
    """Number of nodes."""
    gpus_per_node: PositiveInt
    """Number of GPUs on each node."""
    options: dict[str, str] = Field(default_factory=dict)
    """What tells figures of one framework apart, such as `execution: static`; empty: nothing."""

    @property
    def program(self) -> str:
        """The framework with what tells its figures apart, such as `paddle static`."""
        return " ".join((self.framework, *self.options.values()))

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
    num_classes: PositiveInt | None = None
    """Number of classes of the classifier; null: not known."""
    loss: str | None
    """Name of the loss, such as `arcface`; null: not known."""
    precision: Precision
    """What layers were computed in."""
    parallelism: Parallelism
    """How the classifier lay on the devices."""
    sample_ratio: float | None
    """Share of the classes that an iteration of `partial_fc` used; null for other parallelism."""
    batch_size_per_device: PositiveInt | None
    """Samples per iteration on each GPU; null: not known."""
    hardware: str | None = None
    """The machines of this figure, where they are not those of all; null: they are."""

    @property
    def experiment(self) -> str:
        """The name of the workload, such as `r100_emore`."""
        return f"{self.network}_{self.dataset}"

    @property
    def series(self) -> tuple[object, ...]:
        """Equal for the topologies of one column of a table."""
        return (
            self.program, self.network, self.dataset, self.num_classes, self.loss, self.precision,
            self.parallelism, self.sample_ratio, self.batch_size_per_device, self.hardware,
        )  # fmt: skip

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for a case and its repeats."""
        return (*self.series, self.nodes, self.gpus_per_node)


class PublishedCase(_CaseEntry):
    """A cell of a published table. None: not measured, not known, or not printed, as `units` says."""

    batch_is_max: bool = False
    """Whether the batch was the largest that trained."""
    samples_per_sec: Rate | None
    """Samples per second over all devices; null: not measured."""
    out_of_memory: bool = False
    """Whether the source says that training failed for want of memory."""
    reading: Reading = "printed"
    """Where the figure comes from: `printed` as it stands, `rounded` by its authors, read from a `chart`, or
    the median of the lines of a `log`."""
    uncertainty: Rate | None = None
    """Samples per second that the figure may be off by, to either side; null: not known."""
    speedup: Rate | None = None
    """samples_per_sec over that of one device, as printed; null: none was printed."""
    peak_memory_mib: PositiveInt | None = None
    """Memory in use on the GPU with the most, in MiB; null: not printed."""
    sources: tuple[str, ...]
    """Files of the source that print it."""

    @property
    def printed(self) -> Printed:
        """What the source tells of the figure beside its case."""
        return Printed(
            reading=self.reading, uncertainty=self.uncertainty, peak_memory_mib=self.peak_memory_mib
        )


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
    """The most classes that trained."""

    network: str | None = None
    """Name of the network in the source, such as `r100`; null: not known."""
    batch_size_per_device: PositiveInt
    """Samples per iteration on each GPU."""
    precision: Precision | Literal["amp"]
    """What layers were computed in; `amp`: mixed, as the framework chooses."""
    model_parallel: bool
    """Whether the classifier was divided over the devices."""
    partial_fc: bool
    """Whether an iteration used a sample of the classes."""
    sample_ratio: float | None
    """Share of the classes in that sample; null without one."""
    num_classes: PositiveInt
    """The most classes that trained."""
    peak_memory_mib: PositiveInt | None = None
    """Memory in use on a GPU, in MiB; null: not printed."""


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


class Disagreement(Model):
    """One thing of which the source, or its authors elsewhere, say two."""

    about: str
    """Of what."""
    says: str
    """What one place says."""
    elsewhere: str
    """What another place says, and which."""


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
    disagreements: tuple[Disagreement, ...] = ()
    """Where the source disagrees with itself."""
    notes: tuple[str, ...]
    """What a reader of the figures should know, one sentence or several each."""

    def version(self, framework: str) -> str:
        """The second word of `OneFlow 0.3.4, oneflow_face at ...`; a program's name where none is printed."""
        return self.software[framework].partition(",")[0].rpartition(" ")[2]

    @property
    def titles(self) -> dict[str, str]:
        """The frameworks as the source writes them, by name."""
        return {name: text.partition(",")[0].rpartition(" ")[0] for name, text in self.software.items()}

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
        return tuple(sorted((self._figures_of(case) for case in known), key=sort_key))

    def _figures_of(self, case: PublishedCase) -> CaseFigures:
        summary = self._summary(case)
        workload, num_classes = _workload(case)
        told = {"num_classes": case.num_classes, "loss": case.loss, "network": _NETWORKS.get(case.network)}
        return CaseFigures(
            case=Case(
                framework=case.framework,
                version=self.data.version(case.framework),
                options=dict(case.options),
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
            hardware=case.hardware or self.data.hardware,
            status=_status(case),
            runs=(),
            summary=summary,
            reason=self._reason(case, summary),
            evidence=None,
            not_known=_NOT_KNOWN | {name for name, value in told.items() if value is None},
            published=case.printed,
        )

    def _reason(self, case: PublishedCase, summary: Summary | None) -> str | None:
        """Why there is no figure, or what to know of one."""
        if case.out_of_memory:
            return OUT_OF_MEMORY
        if summary is None:
            return self.data.why_missing("samples_per_sec")
        if case.reading == "printed":
            return NO_REPEATS if summary.runs == 1 else None
        within = "" if case.uncertainty is None else f", within {case.uncertainty:g} samples/s"
        return READINGS[case.reading] + within

    def _summary(self, case: PublishedCase) -> Summary | None:
        """With the spread of its repeats, where they are the ones behind the printed figure."""
        if case.samples_per_sec is None:
            return None
        for repeats in self.data.repeats:
            if repeats.key == case.key and repeats.complete and repeats.median == case.samples_per_sec:
                return summarise(list(repeats.repeats.values()))
        return summarise([case.samples_per_sec])


def _status(case: PublishedCase) -> Status:
    if case.out_of_memory:
        return Status.OOM
    return Status.NOT_MEASURED if case.samples_per_sec is None else Status.OK


def _workload(case: PublishedCase) -> tuple[Workload, int]:
    """The workload, with placeholders for what the source does not say, and the number of classes."""
    # The shipped file, not one of the same name where the user happens to stand.
    folder = shipped_folder("experiments")
    if (folder / f"{case.experiment}.yaml").is_file():
        file, _document = load_experiment(case.experiment, folder=folder.parent)
        return file.workload, case.num_classes or file.num_classes
    workload = Workload(
        experiment=case.experiment,
        network=_NETWORKS.get(case.network, "mobilefacenet"),
        head="FC",
        embedding_size=512,
        dataset=case.dataset,
        loss=Loss(kind="softmax"),
    )
    return workload, case.num_classes or 1


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
