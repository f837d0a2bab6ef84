"""Records: what one throughput line of a log says, singly and as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# In the order of a batch's columns. `time` is milliseconds since 1970-01-01 UTC; a log time without a zone is
# read as UTC, so differences hold and the hour may not.
FIELDS = ("iteration", "epoch", "rank", "samples_per_sec", "loss", "lr", "time")
ITERATION, EPOCH, RANK, SAMPLES_PER_SEC, LOSS, LR, TIME = range(len(FIELDS))
# A row of a spool: the columns of a batch side by side.
ROW = np.dtype(
    [("line", "<i8"), ("run", "<i8"), ("values", "<f8", (len(FIELDS),)), ("given", "?", (len(FIELDS),))]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records as columns, in the order of the log.

    Attributes:
        line: int64 [n], from 1.
        run: int64 [n], from 0.
        values: float64 [n, 7], columns as in FIELDS; NaN where not given, and where NaN was printed.
        given: bool [n, 7], whether the line says it.
    """

    line: NDArray[np.int64]
    run: NDArray[np.int64]
    values: NDArray[np.float64]
    given: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Batch:
        """The records at `index`."""
        return Batch(
            line=self.line[index], run=self.run[index], values=self.values[index], given=self.given[index]
        )

    def column(self, field: str) -> NDArray[np.float64]:
        """One field, float64 [n], NaN where not given."""
        return self.values[:, FIELDS.index(field)]

    def rows(self) -> NDArray[np.void]:
        """The records as rows of a spool, ROW [n]."""
        rows = np.empty(len(self), ROW)
        rows["line"], rows["run"], rows["values"], rows["given"] = (
            self.line,
            self.run,
            self.values,
            self.given,
        )
        return rows

    @classmethod
    def of_rows(cls, rows: NDArray[np.void]) -> Batch:
        """The batch that the rows were made of."""
        return cls(line=rows["line"], run=rows["run"], values=rows["values"], given=rows["given"])

    def records(self) -> Iterator[Record]:
        """One at a time."""
        lists = (self.run.tolist(), self.line.tolist(), self.values.tolist(), self.given.tolist())
        for run, line, values, given in zip(*lists, strict=True):
            cells = [value if is_given else None for value, is_given in zip(values, given, strict=True)]
            yield Record(
                run=run,
                line=line,
                iteration=_whole(cells[ITERATION]),
                epoch=_whole(cells[EPOCH]),
                rank=_whole(cells[RANK]),
                samples_per_sec=values[SAMPLES_PER_SEC],
                loss=cells[LOSS],
                lr=cells[LR],
                time=_whole(cells[TIME]),
            )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def concatenate(batches: list[Batch]) -> Batch:
    """All of them, one behind the other."""
    if not batches:
        return empty()
    return Batch(
        line=np.concatenate([batch.line for batch in batches]),
        run=np.concatenate([batch.run for batch in batches]),
        values=np.concatenate([batch.values for batch in batches]),
        given=np.concatenate([batch.given for batch in batches]),
    )


def empty() -> Batch:
    """No records."""
    columns = len(FIELDS)
    return Batch(
        line=np.empty(0, np.int64),
        run=np.empty(0, np.int64),
        values=np.empty((0, columns)),
        given=np.empty((0, columns), np.bool_),
    )
