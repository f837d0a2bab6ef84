"""One side of a comparison: its cases with the values of their runs. Saved, it is a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from dlperf.errors import UserError
from dlperf.model import Model, Retired
from dlperf.plan.case import Case
from dlperf.results.schema import Status
from dlperf.results.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dlperf.compare.metrics import Metric

BASELINE_SCHEMA_VERSION: Final = 1

Alignment = Literal["aligned", "not aligned"]


class SideRun(Model):
    """A good run: its value of each metric that it has.

    Runs of two cases of one cell with the same `session` and `repeat` were made in one block.
    """

    repeat: int
    session: str | None = None  # None: not known, or not run in blocks
    started_at: str | None = None  # ISO 8601, UTC
    values: dict[str, float]
    before: Retired = None
    after: Retired = None

    @property
    def block(self) -> str | None:
        """Equal for runs made in one block; None where there is none."""
        return None if self.session is None else f"{self.session} r{self.repeat}"


class SideCase(Model):
    """A case, what it ran on, and its good runs; without one `status` and `reason` say why."""

    case: Case
    hardware: str
    driver: str | None = None
    alignment: Alignment | None = None  # None: not proven
    python: str | None = None  # that the framework ran on, such as `3.10.13`; None: not known
    status: Status
    reason: str | None = None
    runs: tuple[SideRun, ...] = ()
    failed_runs: int = 0
    out_of_memory: bool = False  # how a run without a figure ended

    def values(self, metric: Metric) -> dict[str, float]:
        """The metric's values by block; a run outside any block has a name of its own."""
        return {
            run.block or f"run {number}": run.values[metric.name]
            for number, run in enumerate(self.runs)
            if metric.name in run.values
        }

    def checked_values(self, metric: Metric) -> dict[str, float]:
        """The same; UserError where one is not above 0, which has no logarithm and is no figure."""
        values = self.values(metric)
        bad = [value for value in values.values() if not value > 0]
        if bad:
            raise UserError(
                f"{self.case.case_id}: a run's {metric.title} is {bad[0]:g}, which is no figure; "
                "look at its log (`dlperf explain`) and remove that run's folder"
            )
        return values

    def figure(self, metric: Metric) -> float | None:
        """The median over the runs."""
        values = list(self.values(metric).values())
        return quantile(values, 0.5) if values else None


class Side(Model):
    """All cases of one side; `label` is what the user called it."""

    schema_version: Literal[1] = BASELINE_SCHEMA_VERSION
    label: str
    created_at: str | None = None
    dlperf_version: str
    cases: tuple[SideCase, ...]

    def pooled(self) -> Side:
        """The same with the runs of a case put together that was run in several sessions."""
        by_case: dict[tuple[str, str], list[SideCase]] = {}
        for one in self.cases:
            by_case.setdefault((one.case.content_hash, one.hardware), []).append(one)
        return self.model_copy(update={"cases": tuple(map(_one_case, by_case.values()))})

    def only(self, cases: Iterable[SideCase]) -> Side:
        """The same with these cases alone."""
        return self.model_copy(update={"cases": tuple(cases)})


def _one_case(parts: list[SideCase]) -> SideCase:
    good = [part for part in parts if part.status is Status.OK]
    first = (good or parts)[0]
    update: Mapping[str, object] = {
        "runs": tuple(run for part in parts for run in part.runs),
        "failed_runs": sum(part.failed_runs for part in parts),
        "out_of_memory": any(part.out_of_memory for part in parts),
    }
    return first.model_copy(update=update)
