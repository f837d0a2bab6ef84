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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dlperf.importing.dialects.base import Scope

# In the order of a batch's columns. `time` is milliseconds since 1970-01-01 UTC; a log time without a zone is
# read as UTC, so differences hold and the hour may not.
FIELDS = ("iteration", "epoch", "rank", "samples_per_sec", "loss", "lr", "time")
ITERATION, EPOCH, RANK, SAMPLES_PER_SEC, LOSS, LR, TIME = range(len(FIELDS))
_RECORDS_AT_ONCE = 1 << 14  # Python's objects take ten times the memory of the columns


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

    def records(self) -> Iterator[Record]:
        """One at a time."""
        for start in range(0, len(self), _RECORDS_AT_ONCE):
            part = slice(start, start + _RECORDS_AT_ONCE)
            columns = (self.run, self.line, self.values, self.given)
            for run, line, values, given in zip(*(column[part].tolist() for column in columns), strict=True):
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


# Records that may still be joined with a later line; ranks that lag further behind are no longer told apart.
_HELD = 512
_LOOSE_LOSSES = 512

Key = tuple[float, float]


@dataclass(slots=True)
class _Held:
    """A record that may still change."""

    line: int
    run: int
    values: list[float]
    given: list[bool]
    step_before: float | None = None  # of the loss line last seen before it


@dataclass(slots=True)
class _Stream:
    """What one rank printed so far in this run."""

    last: Key | None = None
    last_rate: float | None = None
    losses: dict[float, float] = field(default_factory=dict)  # by step, not yet given to a record


class RunSplitter:
    """Takes raw rows in the order of the log and gives records; memory does not grow with the log.

    Attributes:
        run: the number of the run that the last row belongs to, from 0.
        starts: (run, line) of each run that began in the last call of `feed`.
    """

    def __init__(self, scope: Scope) -> None:
        self._job = scope is Scope.JOB
        self.run = 0
        self.starts: list[tuple[int, int]] = []
        self._streams: dict[float | None, _Stream] = {}
        self._held: dict[tuple[object, ...], _Held] = {}
        self._newest_released: Key | None = None
        self._ready: list[_Held] = []

    def feed(self, line: NDArray[np.int64], values: NDArray[np.float64], given: NDArray[np.bool_]) -> Batch:
        """Take rows; give the records that nothing can change any more. Shapes as in `Batch`."""
        self.starts = []
        if not len(line):
            return empty()
        if self._is_plain(values, given):
            return self._feed_plain(line, values, given)
        for number, row, row_given in zip(line.tolist(), values.tolist(), given.tolist(), strict=True):
            rank = row[RANK] if row_given[RANK] else None
            stream = self._streams.get(rank)
            if stream is None:
                stream = self._streams[rank] = _Stream()
            if row_given[SAMPLES_PER_SEC]:
                self._record(_Held(line=number, run=self.run, values=row, given=row_given), rank, stream)
            else:
                self._loss(stream, rank, step=row[ITERATION], loss=row[LOSS])
        return self._taken()

    def finish(self) -> Batch:
        """The records still held back."""
        self.starts = []
        self._release_all()
        return self._taken()

    # The plain case, which most logs are: one rank, every step above the one before.

    def _is_plain(self, values: NDArray[np.float64], given: NDArray[np.bool_]) -> bool:
        if not given[:, SAMPLES_PER_SEC].all() or not given[:, ITERATION].all():
            return False
        has_rank = given[:, RANK]
        if has_rank[0] != has_rank.all() or has_rank[0] != has_rank.any():
            return False
        rank = float(values[0, RANK]) if has_rank[0] else None
        if has_rank[0] and not (values[:, RANK] == rank).all():
            return False
        if any(known != rank or stream.losses for known, stream in self._streams.items()):
            return False
        epoch = np.where(given[:, EPOCH], values[:, EPOCH], 0.0)
        step = values[:, ITERATION]
        last = self._streams[rank].last if rank in self._streams else None
        before = (-1.0, -1.0) if last is None else last
        epochs = np.diff(epoch, prepend=before[0])
        steps = np.diff(step, prepend=before[1])
        return bool(((epochs > 0) | ((epochs == 0) & (steps > 0))).all())

    def _feed_plain(
        self, line: NDArray[np.int64], values: NDArray[np.float64], given: NDArray[np.bool_]
    ) -> Batch:
        self._release_all()
        before = self._taken()
        body = Batch(
            line=line[:-1], run=np.full(len(line) - 1, self.run), values=values[:-1], given=given[:-1]
        )
        if len(line) > 1:
            self._newest_released = _key(values[-2].tolist(), given[-2].tolist())
        rank = float(values[-1, RANK]) if given[-1, RANK] else None
        stream = self._streams.setdefault(rank, _Stream())
        last = _Held(line=int(line[-1]), run=self.run, values=values[-1].tolist(), given=given[-1].tolist())
        self._record(last, rank, stream)
        return concatenate([before, body]) if len(before) else body

    # The careful case, row by row.

    def _record(self, new: _Held, rank: float | None, stream: _Stream) -> None:
        key = _key(new.values, new.given)
        rate = new.values[SAMPLES_PER_SEC]
        if key is None:
            self._release_all()
            self._ready.append(new)
            return
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
            self._release_oldest()

    def _starts_again(self, key: Key, rate: float, rank: float | None, stream: _Stream) -> bool:
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
        if self._job and _rank(new) < _rank(held):
            held.line, new.line = new.line, held.line
            held.values, new.values = new.values, held.values
            held.given, new.given = new.given, held.given
        if held.given != new.given:
            for column, is_given in enumerate(new.given):
                if is_given and not held.given[column]:
                    held.values[column], held.given[column] = new.values[column], True

    def _take_loss(self, record: _Held, stream: _Stream) -> None:
        if record.given[LOSS] or not stream.losses:
            return
        step = record.values[ITERATION]
        if step in stream.losses:
            _set_loss(record, stream.losses.pop(step))
        else:
            record.step_before = next(reversed(stream.losses))

    def _loss(self, stream: _Stream, rank: float | None, *, step: float, loss: float) -> None:
        for record in reversed(self._held.values()):
            same = record.values[ITERATION] == step and not record.given[LOSS]
            if same and (rank is None or _rank(record) == rank):
                _set_loss(record, loss)
                return
        stream.losses[step] = loss
        if len(stream.losses) > _LOOSE_LOSSES:
            del stream.losses[next(iter(stream.losses))]

    def _release_oldest(self) -> None:
        while len(self._held) > _HELD:
            identity = next(iter(self._held))
            self._release(self._held.pop(identity))

    def _release_all(self) -> None:
        for held in self._held.values():
            self._release(held)
        self._held.clear()

    def _release(self, held: _Held) -> None:
        if held.step_before is not None and not held.given[LOSS]:
            stream = self._streams.get(held.values[RANK] if held.given[RANK] else None)
            if stream is not None and held.step_before in stream.losses:
                _set_loss(held, stream.losses.pop(held.step_before))
        key = _key(held.values, held.given)
        if key is not None and (self._newest_released is None or key > self._newest_released):
            self._newest_released = key
        self._ready.append(held)

    def _taken(self) -> Batch:
        if not self._ready:
            return empty()
        ready, self._ready = self._ready, []
        return Batch(
            line=np.array([held.line for held in ready], np.int64),
            run=np.array([held.run for held in ready], np.int64),
            values=np.array([held.values for held in ready]),
            given=np.array([held.given for held in ready]),
        )


def _key(values: Sequence[float], given: Sequence[bool]) -> Key | None:
    if not given[ITERATION]:
        return None
    return (values[EPOCH] if given[EPOCH] else 0.0, values[ITERATION])


def _rank(held: _Held) -> float:
    return held.values[RANK] if held.given[RANK] else 0.0


def _set_loss(record: _Held, loss: float) -> None:
    record.values[LOSS] = loss
    record.given[LOSS] = True
