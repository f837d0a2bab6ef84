"""The arithmetic of the 2021 comparison, exactly: which records its scripts averaged, and how they rounded.

A mean of rates is no samples over time: it counts fast windows as much as slow ones. It is here so that old
figures can be made again; the method of dlperf itself divides samples by seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dlperf.logs.records import Record

NAME = "dlperf-2021"
FORMULA = "mean of rates, rounded to 2 decimals"

_ONEFLOW_SKIPPED_ITERATIONS = 5
_ONEFLOW_FIRST, _ONEFLOW_LAST = 20, 120  # of the lines left, counted from 1
_ARCFACE_WINDOWS = slice(1, 6)  # of 20 batches each
_PARTIAL_FC_SKIPPED = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The records that a script averaged.

    Attributes:
        used: their places in the log's records.
        rates: samples/s of the whole job, as averaged.
        rule: how they were chosen, for people.
        lacking: why the script has no figure here; None where it has one.
    """

    used: tuple[int, ...]
    rates: tuple[float, ...]
    rule: str
    lacking: str | None = None

    @property
    def figure(self) -> float:
        """Samples/s of the run; ValueError where there is none."""
        if self.lacking is not None:
            raise ValueError(self.lacking)
        return run_figure(self.rates)


def run_figure(rates: Sequence[float]) -> float:
    """Arithmetic mean of rates, rounded to 2 decimals."""
    return float(round(np.mean(rates), 2))


def case_figure(run_figures: Sequence[float]) -> float:
    """Median over the runs, rounded to 2 decimals."""
    return float(round(np.median(run_figures), 2))


def speedup(figure: float, single: float) -> float:
    """Case over 1n1g, rounded to 2 decimals."""
    return round(figure / single, 2)


def _oneflow(records: Sequence[Record], nodes: int) -> Window:
    del nodes  # the rate is the whole job's
    kept = [
        place
        for place, record in enumerate(records)
        if record.iteration is not None and record.iteration > _ONEFLOW_SKIPPED_ITERATIONS
    ]
    rule = "of the lines with iter > 5, the 20th to the 120th"
    used = kept[_ONEFLOW_FIRST - 1 : _ONEFLOW_LAST]
    lacking = None
    if len(kept) < _ONEFLOW_LAST:
        lacking = f"{len(kept)} lines with iter > 5, and the 2021 script gave 0 below {_ONEFLOW_LAST}"
    return _window(records, used, rule, lacking, lambda rate: rate)


def _arcface(records: Sequence[Record], nodes: int) -> Window:
    epoch = [place for place, record in enumerate(records) if record.epoch == 0]
    used = epoch[_ARCFACE_WINDOWS]
    rule = "of the lines of epoch 0, the 2nd to the 6th, each rate rounded to 0.1 and times the nodes"
    lacking = None if used else f"{len(epoch)} lines of epoch 0, and the 2021 script skipped the first"
    return _window(records, used, rule, lacking, lambda rate: round(rate, 1) * nodes)


def _partial_fc(records: Sequence[Record], nodes: int) -> Window:
    del nodes  # the rate is the whole job's
    used = range(len(records))[_PARTIAL_FC_SKIPPED:]
    rule = "the 20th line and all behind it, each total rounded to 0.1"
    lacking = (
        None if used else f"{len(records)} lines, and the 2021 script skipped the first {_PARTIAL_FC_SKIPPED}"
    )
    return _window(records, used, rule, lacking, lambda rate: round(rate, 1))


def _window(
    records: Sequence[Record],
    used: Sequence[int],
    rule: str,
    lacking: str | None,
    rate: Callable[[float], float],
) -> Window:
    return Window(
        used=tuple(used),
        rates=tuple(rate(records[place].samples_per_sec) for place in used),
        rule=rule,
        lacking=lacking,
    )


WINDOWS: dict[str, Callable[[Sequence[Record], int], Window]] = {
    "oneflow_face": _oneflow,
    "insightface_mxnet": _arcface,
    "partial_fc_mxnet": _partial_fc,
}
