"""Published results as data: `published:NAME` wherever results are read.

`reports/<name>/data.json` holds what the source printed; `schema.json` beside it is made from the models of
`published_data.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from dlperf.errors import UserError
from dlperf.files import first_problem, shipped_folder
from dlperf.plan.case import Case, Measure, Topology, Workload
from dlperf.plan.load import load_experiment
from dlperf.results.cases import CaseFigures, sort_key
from dlperf.results.published_data import PublishedCase, PublishedData
from dlperf.results.schema import Status
from dlperf.statistics.basic import Summary, summarise

PREFIX = "published:"
DATA_FILE = "data.json"
NO_REPEATS = "published as a median alone; the runs behind it were not printed"
_MEASURE = Measure(warmup_iterations=20, measured_iterations=100)
_NOT_KNOWN = frozenset({"data", "seed", "threads_per_device"})  # no table says


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published data set under its name."""

    name: str
    data: PublishedData

    @cached_property
    def figures(self) -> tuple[CaseFigures, ...]:
        """Its cases as the report reads cases, in the report's order.

        Cases whose batch size nobody knows are no cases; `without_batch_size` holds them.
        """
        workloads: dict[str, tuple[Workload, int]] = {}
        figures = [
            self._figures_of(case, workloads)
            for case in self.data.cases
            if case.batch_size_per_device is not None
        ]
        return tuple(sorted(figures, key=sort_key))

    @property
    def without_batch_size(self) -> tuple[PublishedCase, ...]:
        """Cells of the tables that hold neither a number nor a batch size."""
        return tuple(case for case in self.data.cases if case.batch_size_per_device is None)

    def _figures_of(self, case: PublishedCase, workloads: dict[str, tuple[Workload, int]]) -> CaseFigures:
        experiment = f"{case.network}_{case.dataset}"
        if experiment not in workloads:
            workloads[experiment] = _workload(experiment)
        summary = self._summary(case)
        reason = None
        if summary is None:
            reason = f"not measured: {self.data.units['samples_per_sec']}"
        elif summary.runs == 1:
            reason = NO_REPEATS
        return CaseFigures(
            case=_case(case, *workloads[experiment], software=self.data.software),
            sweep=Path(PREFIX + self.name),
            hardware=self.data.hardware,
            status=Status.NOT_MEASURED if summary is None else Status.OK,
            runs=(),
            summary=summary,
            reason=reason,
            evidence=None,
            not_known=_NOT_KNOWN,
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


def _case(case: PublishedCase, workload: Workload, num_classes: int, *, software: dict[str, str]) -> Case:
    if case.batch_size_per_device is None:
        raise ValueError("no batch size")
    return Case(
        framework=case.framework,
        version=_version(software[case.framework]),
        workload=workload,
        parallelism=case.parallelism,
        sample_ratio=case.sample_ratio,
        precision=case.precision,
        topology=Topology(nodes=case.nodes, devices_per_node=case.gpus_per_node),
        device="cuda",
        batch_size_per_device=case.batch_size_per_device,
        num_classes=num_classes,
        threads_per_device=1,
        measure=_MEASURE,
    )


def _version(software: str) -> str:
    """The second word of `OneFlow 0.3.4, oneflow_face at ...`."""
    return software.partition(",")[0].rpartition(" ")[2]


def published_names() -> tuple[str, ...]:
    """The data sets of this installation."""
    return tuple(sorted(path.parent.name for path in shipped_folder("reports").glob(f"*/{DATA_FILE}")))


def load_published(name: str) -> Published:
    """The data set `name`, with or without `published:` in front.

    Raises:
        UserError: there is none of that name, or it is damaged.
    """
    name = name.removeprefix(PREFIX)
    path = shipped_folder("reports") / name / DATA_FILE
    if name not in published_names():
        known = ", ".join(PREFIX + one for one in published_names())
        raise UserError(f"{PREFIX}{name}: no such published data set; known: {known}")
    try:
        return Published(name=name, data=PublishedData.model_validate_json(path.read_bytes()))
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {first_problem(error)}") from error
