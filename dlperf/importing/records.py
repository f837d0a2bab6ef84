"""Records: what the throughput lines of a log say, singly and as columns, and which run each belongs to.

- A step number that goes down within one rank's lines begins a new run.
- Where the rate is the whole job's (scope job), a step counts once; of several ranks the lowest one counts.
- Where the rate is one process's (scope process), every rank's line counts; the same step with the same rate
  again is the same record with another metric on the line.
- A loss on a line of its own belongs to the record of its step, or, where the program counts losses by
  another step, to the next record after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.dialects.base import Scope

# In the order of a batch's columns. `time` is milliseconds since 1970-01-01 UTC; a log time without a zone is
# read as UTC, so differences hold and the hour may not.
FIELDS = ("iteration", "epoch", "rank", "samples_per_sec", "loss", "lr", "time")
ITERATION, EPOCH, RANK, SAMPLES_PER_SEC, LOSS, LR, TIME = range(len(FIELDS))
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
    values: NDArray[
        np.float64
    ]  # [n, 7], columns as in FIELDS; NaN where not given, and where NaN was printed
    given: NDArray[np.bool_]  # [n, 7], whether the line says it

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
                for column in range(len(FIELDS))
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


# Records that may still be joined with a later line; ranks that lag further behind are no longer told apart.
_HELD = 512
_LOOSE_LOSSES = 512

Key = tuple[float, float]


@dataclass(slots=True)
class _Held:
    """A record that may still change."""

    line: int
    run: int
    cells: list[float | None]  # as FIELDS
    step_before: float | None = None  # of the loss line last seen before it

    @property
    def key(self) -> Key | None:
        """Epoch and step; None where the line names no step."""
        step = self.cells[ITERATION]
        return None if step is None else (self.cells[EPOCH] or 0.0, step)

    @property
    def rank(self) -> float:
        """0 where the line names none."""
        return self.cells[RANK] or 0.0


def _held(rows: Batch) -> _Held:
    """The last of them."""
    cells = zip(rows.values[-1].tolist(), rows.given[-1].tolist(), strict=True)
    return _Held(
        line=int(rows.line[-1]),
        run=int(rows.run[-1]),
        cells=[value if is_given else None for value, is_given in cells],
    )


@dataclass(slots=True)
class _Stream:
    """What one rank printed so far in this run."""

    last: Key | None = None
    last_rate: float | None = None
    losses: dict[float | None, float] = field(default_factory=dict)  # by step, not yet given to a record


class RunSplitter:
    """Takes raw rows in the order of the log and gives records; memory does not grow with the log."""

    def __init__(self, scope: Scope) -> None:
        self._job = scope is Scope.JOB
        self.run = 0  # that the last row belongs to
        self.starts: list[tuple[int, int]] = []  # (run, line) of each run that began in the last `feed`
        self._streams: dict[float | None, _Stream] = {}
        self._held: dict[tuple[object, ...], _Held] = {}
        self._newest_released: Key | None = None
        self._ready: list[_Held] = []

    def feed(self, rows: Batch) -> list[Batch]:
        """Take rows, of which `run` is not looked at; give the records that nothing can change any more.

        No batch is empty.
        """
        self.starts = []
        if not len(rows):
            return []
        if self._is_plain(rows):
            return self._feed_plain(rows)
        for number, row, given in zip(
            rows.line.tolist(), rows.values.tolist(), rows.given.tolist(), strict=True
        ):
            cells = [value if is_given else None for value, is_given in zip(row, given, strict=True)]
            if cells[SAMPLES_PER_SEC] is not None:
                self._record(_Held(line=number, run=self.run, cells=cells))
            else:
                self._loss(cells[RANK], step=row[ITERATION], loss=row[LOSS])
        return self._taken()

    def finish(self) -> list[Batch]:
        """The records still held back."""
        self.starts = []
        self._release_all()
        return self._taken()

    def _is_plain(self, rows: Batch) -> bool:
        """Whether all rows are records of one rank, every step above the one before, as most logs are."""
        values, given = rows.values, rows.given
        if not given[:, SAMPLES_PER_SEC].all() or not given[:, ITERATION].all():
            return False
        ranks = np.where(given[:, RANK], values[:, RANK], -1.0)
        if not (ranks == ranks[0]).all():
            return False
        rank = None if ranks[0] < 0 else float(ranks[0])
        if any(known != rank or stream.losses for known, stream in self._streams.items()):
            return False
        epoch = np.where(given[:, EPOCH], values[:, EPOCH], 0.0)
        last = self._streams[rank].last if rank in self._streams else None
        before = (-1.0, -1.0) if last is None else last
        epochs = np.diff(epoch, prepend=before[0])
        steps = np.diff(values[:, ITERATION], prepend=before[1])
        return bool(((epochs > 0) | ((epochs == 0) & (steps > 0))).all())

    def _feed_plain(self, rows: Batch) -> list[Batch]:
        """All but the last row, which a later line may still join."""
        self._release_all()
        before = self._taken()
        body = rows.take(slice(0, -1))
        body = replace(body, run=np.full(len(body), self.run))
        if len(body):
            self._newest_released = _held(body).key
        self._record(replace(_held(rows), run=self.run))
        return [*before, body] if len(body) else before

    def _record(self, new: _Held) -> None:
        key, rate, rank = new.key, new.cells[SAMPLES_PER_SEC], new.cells[RANK]
        if key is None:
            self._release_all()
            self._ready.append(new)
            return
        stream = self._stream(rank)
        if self._starts_again(key, rate, rank, stream):
            stream = self._new_run(rank, line=new.line)
            new.run = self.run
        stream.last, stream.last_rate = key, rate
        identity = (key,) if self._job else (rank, key, rate)
        held = self._held.get(identity)
        if held is not None:
            self._join(held, new)
        elif not (self._job and self._newest_released is not None and key <= self._newest_released):
            self._take_loss(new, stream)
            self._held[identity] = new
            if len(self._held) > _HELD:
                self._release(self._held.pop(next(iter(self._held))))

    def _stream(self, rank: float | None) -> _Stream:
        return self._streams.setdefault(rank, _Stream())

    def _starts_again(self, key: Key, rate: float | None, rank: float | None, stream: _Stream) -> bool:
        if stream.last is None or key > stream.last:
            return False
        if key < stream.last:
            return True
        same_line_again = rate == stream.last_rate or rate != rate  # noqa: PLR0124  a NaN
        untagged_process = not self._job and rank is None
        return not (same_line_again or untagged_process)

    def _new_run(self, rank: float | None, *, line: int) -> _Stream:
        self._release_all()
        self._newest_released = None
        self._streams = {rank: _Stream()}
        self.run += 1
        self.starts.append((self.run, line))
        return self._streams[rank]

    def _join(self, held: _Held, new: _Held) -> None:
        """The same record again: the lower rank's wins, and what one line does not say the other may."""
        if self._job and new.rank < held.rank:
            held.line = new.line
            held.cells, new.cells = new.cells, held.cells
        held.cells = [
            other if cell is None else cell for cell, other in zip(held.cells, new.cells, strict=True)
        ]

    @staticmethod
    def _take_loss(record: _Held, stream: _Stream) -> None:
        if record.cells[LOSS] is not None or not stream.losses:
            return
        record.cells[LOSS] = stream.losses.pop(record.cells[ITERATION], None)
        if record.cells[LOSS] is None:
            record.step_before = next(reversed(stream.losses))

    def _loss(self, rank: float | None, *, step: float, loss: float) -> None:
        """A loss on a line of its own; `rank` is None where the line names none."""
        for record in reversed(self._held.values()):
            lacks_it = record.cells[ITERATION] == step and record.cells[LOSS] is None
            if lacks_it and (rank is None or record.rank == rank):
                record.cells[LOSS] = loss
                return
        losses = self._stream(rank).losses
        losses[step] = loss
        if len(losses) > _LOOSE_LOSSES:
            del losses[next(iter(losses))]

    def _release_all(self) -> None:
        for held in self._held.values():
            self._release(held)
        self._held.clear()

    def _release(self, held: _Held) -> None:
        stream = self._streams.get(held.cells[RANK])
        if held.cells[LOSS] is None and stream is not None:
            held.cells[LOSS] = stream.losses.pop(held.step_before, None)
        if held.key is not None and (self._newest_released is None or held.key > self._newest_released):
            self._newest_released = held.key
        self._ready.append(held)

    def _taken(self) -> list[Batch]:
        if not self._ready:
            return []
        ready, self._ready = self._ready, []
        batch = Batch(
            np.array([held.line for held in ready], np.int64),
            np.array([held.run for held in ready], np.int64),
            np.array([held.cells for held in ready], np.float64),  # None becomes NaN
            np.array([[cell is not None for cell in held.cells] for held in ready]),
        )
        return [batch]
