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
    nodes: PositiveInt
    gpus_per_node: PositiveInt

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
    dataset: str
    loss: str
    precision: Precision
    parallelism: Parallelism
    sample_ratio: float | None
    batch_size_per_device: PositiveInt | None

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
    samples_per_sec: Rate | None
    speedup: Rate | None
    sources: tuple[str, ...]


class PublishedRepeats(_CaseEntry):
    """The single runs of a case, by number, where a source printed them, and what it printed below them."""

    repeats: dict[str, Rate]
    median: Rate
    mean: Rate
    complete: bool
    source_file: str
    printed_average: Rate | None = None
    printed_median: Rate | None = None
    printed_speedup: Rate | None = None


class PublishedLimit(_Entry):
    """The most classes that trained; the source names no network."""

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


class Superseded(_Entry):
    """Figures of a case that a later edition replaced."""

    network: str | None
    dataset: str | None
    parallelism: Parallelism
    sample_ratio: float | None
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
