"""Records: what the throughput lines of a log say, singly and as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# In the order of a batch's columns. `time` is milliseconds since 1970-01-01 UTC; a log time without a zone is
# read as UTC, so differences hold and the hour may not. `metric` is a checksum, and no part of a record.
FIELDS = ("iteration", "epoch", "rank", "samples_per_sec", "loss", "lr", "time", "metric")
ITERATION, EPOCH, RANK, SAMPLES_PER_SEC, LOSS, LR, TIME, METRIC = range(len(FIELDS))
WHOLE = frozenset({ITERATION, EPOCH, RANK, TIME})
_RECORDS_AT_ONCE = 1 << 14  # Python's objects take ten times the memory of the columns


class Record(NamedTuple):
    """One line; None where it does not say. `run` counts from 0, `line` from 1 within the log.

    `loss` and `lr` may be nan or inf, as printed. `samples_per_sec` is as printed too: the whole job's rate
    or one process's, as the dialect's scope says.
    """

    run: int
    line: int
    iteration: int | None
    epoch: int | None
    rank: int | None
    samples_per_sec: float
    loss: float | None
    lr: float | None
    time: int | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as columns, in the order of the log."""

    line: NDArray[np.int64]  # [n], from 1
    run: NDArray[np.int64]  # [n], from 0
    # [n, 8], columns as in FIELDS; NaN where not given, and where NaN was printed
    values: NDArray[np.float64]
    given: NDArray[np.bool_]  # [n, 8], whether the line says it

    def __len__(self) -> int:
        return len(self.line)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Batch:
        """The records at `index`."""
        return Batch(self.line[index], self.run[index], self.values[index], self.given[index])

    def column(self, field: str) -> NDArray[np.float64]:
        """One field, float64 [n], NaN where not given."""
        return self.values[:, FIELDS.index(field)]

    def records(self) -> Iterator[Record]:
        """One at a time."""
        for start in range(0, len(self), _RECORDS_AT_ONCE):
            part = slice(start, start + _RECORDS_AT_ONCE)
            cells = (
                [
                    (round(value) if column in WHOLE else value) if is_given else None
                    for value, is_given in zip(
                        self.values[part, column].tolist(), self.given[part, column].tolist(), strict=True
                    )
                ]
                for column in range(METRIC)
            )
            yield from map(
                Record._make, zip(self.run[part].tolist(), self.line[part].tolist(), *cells, strict=True)
            )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """All of them, one behind the other."""
    parts = [(batch.line, batch.run, batch.values, batch.given) for batch in (empty(), *batches)]
    return Batch(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def empty() -> Batch:
    """No records."""
    shape = (0, len(FIELDS))
    return Batch(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(shape), np.empty(shape, np.bool_))
