"""What a method makes of the records of an imported run; constant memory, however many they are.

The method `samples/seconds` gives every record the time that its samples took at its rate, leaves out the
warm-up iterations, and divides all samples by all seconds. `dlperf-2021` is the 2021 comparison's
(`method_2021.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dlperf.errors import UserError
from dlperf.importing.columnar.spool import Spool
from dlperf.importing.dialects.base import Dialect, Scope
from dlperf.importing.records import EPOCH, ITERATION, LOSS, RANK, SAMPLES_PER_SEC, Batch
from dlperf.logs.events import TRAIN, WARMUP, Step
from dlperf.plan.case import Case
from dlperf.results import method_2021
from dlperf.results.joining import are_rates, joined, rated
from dlperf.results.schema import Imported, RunFigures
from dlperf.results.selection import quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES_PER_SECONDS = "samples/seconds"
OTHER = "other"  # the kind of a step that the method neither counts as warm-up nor takes
# A record of the series: the whole job's rate; `step` and `loss` are NaN where the line has none.
_ROW = np.dtype(
    [("line", "<i8"), ("step", "<f8"), ("rate", "<f8"), ("loss", "<f8"), ("has_loss", "?"), ("used", "?")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The steps behind a figure, one a record; iterate over it as often as you like.

    `seconds` of a step are the time that the record's samples took at its rate.
    """

    rows: Spool
    samples: int  # that a record stands for
    unused: str  # the kind of the steps that are not used

    def __iter__(self) -> Iterator[Step]:
        place = 0
        for rows in self.rows.chunks():
            for line, step, rate, loss, has_loss, used in rows.tolist():
                yield Step(
                    step=place if math.isnan(step) else round(step),
                    samples=self.samples,
                    seconds=self.samples / rate,
                    kind=TRAIN if used else self.unused,
                    loss=loss if has_loss else None,
                    line=line,
                )
                place += 1

    def used_seconds(self) -> Iterator[NDArray[np.float64]]:
        """Of the steps that are used, some at a time."""
        for rows in self.rows.chunks():
            yield self.samples / rows["rate"][rows["used"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a method makes of a run: `figures`, or in `lacking` why there are none; `rule` is for people."""

    steps: Series
    figures: RunFigures | None
    lacking: str | None
    rule: str


@dataclass(slots=True)
class _Overview:
    """What the first reading of a run tells."""

    ranks: set[float] = field(default_factory=set)  # NaN-free; -1 stands for lines without one
    distances: Counter[int] = field(default_factory=Counter)
    _last: tuple[float, float] = (math.nan, math.nan)  # epoch and iteration

    def add(self, batch: Batch) -> None:
        """Look at the next records."""
        self.ranks.update(np.unique(np.where(batch.given[:, RANK], batch.values[:, RANK], -1.0)).tolist())
        epoch = np.where(batch.given[:, EPOCH], batch.values[:, EPOCH], -1.0)
        iteration = np.where(batch.given[:, ITERATION], batch.values[:, ITERATION], math.nan)
        distance = np.diff(iteration, prepend=self._last[1])
        fits = (np.diff(epoch, prepend=self._last[0]) == 0) & (distance > 0)
        values, counts = np.unique(distance[fits], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.distances[round(value)] += count
        self._last = (float(epoch[-1]), float(iteration[-1]))

    @property
    def iterations(self) -> int:
        """That a record stands for: the median distance of neighbours within an epoch; 1 without any."""
        total = self.distances.total()
        if not total:
            return 1
        ordered = sorted(self.distances.items())
        values, ends = [value for value, _count in ordered], np.cumsum([count for _value, count in ordered])
        low, high = (
            values[int(np.searchsorted(ends, place, side="right"))]
            for place in ((total - 1) // 2, total // 2)
        )
        return round((low + high) / 2)


def measure(
    batches: Callable[[], Iterator[Batch]], *, case: Case, dialect: Dialect, imported: Imported
) -> Measured:
    """Apply the method of `imported` to the records of one run.

    Args:
        batches: gives all records of the run in order, each time that it is called.
        case: what was run.
        dialect: of the log.
        imported: which method.

    Raises:
        UserError: the method knows no such logs, or the lines of a step lie too far apart to be joined.
    """
    overview = _Overview()
    for batch in batches():
        overview.add(batch)
    if imported.method == method_2021.NAME:
        return _measure_2021(batches, case=case, dialect=dialect, iterations=overview.iterations)
    rows = Spool(_ROW)
    processes = max(case.topology.nodes, len(overview.ranks))
    series = map(rated, batches()) if dialect.scope is Scope.JOB else joined(batches(), processes)
    for batch in series:
        place = len(rows) + np.arange(len(batch))
        rows.append(_rows(batch, used=place * overview.iterations >= imported.warmup_iterations))
    steps = Series(rows=rows, samples=overview.iterations * case.global_batch_size, unused=WARMUP)
    used = sum(len(seconds) for seconds in steps.used_seconds())
    lacking = figures = None
    if used:
        rate = used * steps.samples / math.fsum(_each(steps.used_seconds()))
        figures = _figures(rate, steps, used, overview.iterations)
    else:
        lacking = f"no record with a rate behind the {imported.warmup_iterations} warm-up iterations"
    rule = f"all records behind the first {imported.warmup_iterations} iterations"
    return Measured(steps=steps, figures=figures, lacking=lacking, rule=rule)


def _measure_2021(
    batches: Callable[[], Iterator[Batch]], *, case: Case, dialect: Dialect, iterations: int
) -> Measured:
    if dialect.name not in method_2021.WINDOWS:
        raise UserError(
            f"method {method_2021.NAME} is not defined for {dialect.name}; it knows "
            f"{', '.join(method_2021.WINDOWS)}"
        )
    window = method_2021.WINDOWS[dialect.name](case.topology.nodes)
    rows = Spool(_ROW)
    for batch in batches():
        used, good = window.take(batch), are_rates(batch)
        rows.append(_rows(batch.take(good), used=used[good]))
    steps = Series(rows=rows, samples=iterations * case.global_batch_size, unused=OTHER)
    number = sum(len(seconds) for seconds in steps.used_seconds())
    lacking = window.lacking
    figures = None if lacking else _figures(window.figure, steps, number, iterations)
    return Measured(steps=steps, figures=figures, lacking=lacking, rule=window.rule)


def _rows(batch: Batch, *, used: NDArray[np.bool_]) -> NDArray[np.void]:
    rows = np.empty(len(batch), _ROW)
    rows["line"], rows["rate"], rows["used"] = batch.line, batch.values[:, SAMPLES_PER_SEC], used
    rows["step"] = np.where(batch.given[:, ITERATION], batch.values[:, ITERATION], math.nan)
    rows["loss"], rows["has_loss"] = batch.values[:, LOSS], batch.given[:, LOSS]
    return rows


def _each(chunks: Iterator[NDArray[np.float64]]) -> Iterator[float]:
    for chunk in chunks:
        yield from chunk.tolist()


def _figures(rate: float, steps: Series, used: int, iterations: int) -> RunFigures:
    median, p95 = quantiles(lambda: (seconds / iterations for seconds in steps.used_seconds()), (0.5, 0.95))
    first = last = None
    for rows in steps.rows.chunks():
        losses = rows["loss"][rows["has_loss"]]
        finite = losses[np.isfinite(losses)]
        first = float(finite[0]) if first is None and len(finite) else first
        last = float(losses[-1]) if len(losses) else last
    return RunFigures(
        samples_per_sec=rate,
        accepted_steps=used * iterations,
        dropped_steps=(len(steps.rows) - used) * iterations,
        step_seconds_median=median,
        step_seconds_p95=p95,
        loss_first=first,
        loss_last=last if last is not None and math.isfinite(last) else None,
        peak_memory_bytes=None,
    )
