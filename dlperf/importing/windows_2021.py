"""Which records the scripts of the 2021 comparison averaged, and what each made of a printed rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.records import Batch

_ONEFLOW_SKIPPED_ITERATIONS = 5
_ONEFLOW_FIRST, _ONEFLOW_LAST = 20, 120  # of the remaining lines, counted from 1
_ARCFACE_FIRST, _ARCFACE_LAST = 2, 6  # windows of 20 batches each
_PARTIAL_FC_FIRST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The records that a script averaged.

    Attributes:
        rule: how they are chosen, for people.
        counts: which records of a batch the script looked at, bool [n].
        first, last: which of those it averaged, counted from 1.
        rate: what it made of a printed rate: samples/s of the whole job.
        fewest: how many it had to look at to give a figure.
        complaint: what is missing below that, for people.
    """

    rule: str
    counts: Callable[[Batch], NDArray[np.bool_]]
    first: int
    last: float
    rate: Callable[[float], float]
    fewest: int
    complaint: str

    def choose(self, batch: Batch) -> tuple[NDArray[np.bool_], str | None]:
        """Which records of a run are averaged, bool [n], and why there is no figure, or None."""
        counts = self.counts(batch)
        number = np.cumsum(counts)
        used: NDArray[np.bool_] = counts & (number >= self.first) & (number <= self.last)
        if counts.sum() < self.fewest:
            return used, f"{counts.sum()} {self.complaint}"
        rates = [self.rate(rate) for rate in batch.column("samples_per_sec")[used].tolist()]
        good = all(math.isfinite(rate) and rate > 0 for rate in rates)
        return used, None if good else "a rate among them is not a number"


def _oneflow(_nodes: int) -> Window:
    """The printed rate is the whole job's."""
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


def _partial_fc(_nodes: int) -> Window:
    """The printed rate is the whole job's."""
    return Window(
        rule="the 20th line and all after it, each total rounded to 0.1",
        counts=lambda batch: np.ones(len(batch), np.bool_),
        first=_PARTIAL_FC_FIRST,
        last=math.inf,
        rate=lambda rate: round(rate, 1),
        fewest=_PARTIAL_FC_FIRST,
        complaint=f"lines, and the 2021 script skipped the first {_PARTIAL_FC_FIRST - 1}",
    )


# By the name of the dialect.
WINDOWS: dict[str, Callable[[int], Window]] = {
    "oneflow_face": _oneflow,
    "insightface_mxnet": _arcface,
    "partial_fc_mxnet": _partial_fc,
}
