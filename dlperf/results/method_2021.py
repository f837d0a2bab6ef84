"""The arithmetic of the 2021 comparison, exactly: which records its scripts averaged, and how they rounded.

A mean of rates is no samples over time: it counts fast windows as much as slow ones. It is here so that old
figures can be made again; the method of dlperf itself divides samples by seconds.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dlperf.importing.records import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "dlperf-2021"
FORMULA = "mean of rates, rounded to 2 decimals"

_ONEFLOW_SKIPPED_ITERATIONS = 5
_ONEFLOW_FIRST, _ONEFLOW_LAST = 20, 120  # of the lines left, counted from 1
_ARCFACE_FIRST, _ARCFACE_LAST = 2, 6  # windows of 20 batches each
_PARTIAL_FC_FIRST = 20
# Averaged as the scripts did, in one go; no log of 2021 came near. Of more, the mean is made of parts.
_MOST_RATES_AT_ONCE = 1 << 20


@dataclass(slots=True, kw_only=True)
class Window:
    """The records that a script averaged; feed it a run's records in order.

    Attributes:
        rule: how they are chosen, for people.
        counts: which records of a batch the script looked at, bool [n].
        first, last: which of those it averaged, counted from 1.
        rate: what it made of a printed rate: samples/s of the whole job.
        fewest: how many it had to look at to give a figure.
        complaint: what it lacks below that, for people.
        counted: how many it looked at so far.
    """

    rule: str
    counts: Callable[[Batch], NDArray[np.bool_]]
    first: int
    last: float
    rate: Callable[[float], float]
    fewest: int
    complaint: str
    counted: int = 0
    _rates: array[float] = field(default_factory=lambda: array("d"))
    _parts: list[tuple[float, int]] = field(default_factory=list)  # mean and number of rates

    def take(self, batch: Batch) -> NDArray[np.bool_]:
        """Which of these records are averaged, bool [n]."""
        counts = self.counts(batch)
        number = self.counted + np.cumsum(counts)
        self.counted += int(counts.sum())
        used: NDArray[np.bool_] = counts & (number >= self.first) & (number <= self.last)
        self._rates.extend(map(self.rate, batch.column("samples_per_sec")[used].tolist()))
        if len(self._rates) > _MOST_RATES_AT_ONCE:
            self._parts.append((float(np.mean(self._rates)), len(self._rates)))
            del self._rates[:]
        return used

    @property
    def lacking(self) -> str | None:
        """Why the script has no figure here; None where it has one."""
        if self.counted < self.fewest:
            return f"{self.counted} {self.complaint}"
        means = [mean for mean, _number in self._parts]
        return None if _are_rates(self._rates) and _are_rates(means) else "a rate among them is no number"

    @property
    def figure(self) -> float:
        """Samples/s of the run; ValueError where there is none."""
        if self.lacking is not None:
            raise ValueError(self.lacking)
        if not self._parts:
            return run_figure(self._rates)
        parts = [*self._parts, (math.fsum(self._rates) / max(1, len(self._rates)), len(self._rates))]
        number = sum(number for _mean, number in parts)
        return round(math.fsum(mean * number for mean, number in parts) / number, 2)


def _are_rates(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) and value > 0 for value in values)


def run_figure(rates: Sequence[float]) -> float:
    """Arithmetic mean of rates, rounded to 2 decimals."""
    return float(round(np.mean(rates), 2))


def case_figure(run_figures: Sequence[float]) -> float:
    """Median over the runs, rounded to 2 decimals."""
    return float(round(np.median(run_figures), 2))


def speedup(figure: float, single: float) -> float:
    """Case over 1n1g, rounded to 2 decimals."""
    return round(figure / single, 2)


def _oneflow(nodes: int) -> Window:
    del nodes  # the rate is the whole job's
    return Window(
        rule="of the lines with iter > 5, the 20th to the 120th",
        counts=lambda batch: batch.column("iteration") > _ONEFLOW_SKIPPED_ITERATIONS,
        first=_ONEFLOW_FIRST,
        last=_ONEFLOW_LAST,
        rate=lambda rate: rate,
        fewest=_ONEFLOW_LAST,
        complaint=f"lines with iter > 5, and the 2021 script gave 0 below {_ONEFLOW_LAST}",
    )


def _arcface(nodes: int) -> Window:
    return Window(
        rule="of the lines of epoch 0, the 2nd to the 6th, each rate rounded to 0.1 and times the nodes",
        counts=lambda batch: batch.column("epoch") == 0,
        first=_ARCFACE_FIRST,
        last=_ARCFACE_LAST,
        rate=lambda rate: round(rate, 1) * nodes,
        fewest=_ARCFACE_FIRST,
        complaint="lines of epoch 0, and the 2021 script skipped the first",
    )


def _partial_fc(nodes: int) -> Window:
    del nodes  # the rate is the whole job's
    return Window(
        rule="the 20th line and all behind it, each total rounded to 0.1",
        counts=lambda batch: np.ones(len(batch), np.bool_),
        first=_PARTIAL_FC_FIRST,
        last=math.inf,
        rate=lambda rate: round(rate, 1),
        fewest=_PARTIAL_FC_FIRST,
        complaint=f"lines, and the 2021 script skipped the first {_PARTIAL_FC_FIRST - 1}",
    )


WINDOWS: dict[str, Callable[[int], Window]] = {
    "oneflow_face": _oneflow,
    "insightface_mxnet": _arcface,
    "partial_fc_mxnet": _partial_fc,
}
