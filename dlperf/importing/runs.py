"""Which process printed a record, which run it belongs to, and how each run ended: docs/logs.md says how."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dlperf.errors import UserError
from dlperf.importing.columnar import ChunkLines
from dlperf.importing.dialects.base import Scope
from dlperf.importing.records import EPOCH, ITERATION, LOSS, METRIC, RANK, SAMPLES_PER_SEC, Batch
from dlperf.logs.endings import Outcome
from dlperf.logs.failures import Failure, FailureScan

# Records that may still be joined with a later line; ranks that lag further behind are no longer told apart.
_HELD = 512
_LOOSE_LOSSES = 512
_MOST_WRITERS = 64  # processes without a tag
_MOST_BEHIND = 100  # records of the others, after which such a process prints no more
_INTERLEAVED = 2  # runs in a row that go on where the one before the last one stopped

Key = tuple[float, float]


@dataclass(slots=True)
class _Held:
    """A record that may still change."""

    line: int
    run: int
    cells: list[float | None]  # as FIELDS
    step_before: float | None = None  # of the loss line last seen before it
    metrics: set[float | None] = field(default_factory=set)  # that its lines name first

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
class _Writer:
    """What one process printed so far in this run: its last two steps, and the last rate."""

    last: Key
    before: Key | None = None
    last_rate: float | None = None
    row: int = 0  # that its last record was among those of its rank


@dataclass(slots=True)
class _Rank:
    """The processes of one rank: one, or several that name none.

    `losses` are those by step that are not yet given to a record.
    """

    writers: list[_Writer] = field(default_factory=list)
    losses: dict[float | None, float] = field(default_factory=dict)
    rows: int = 0


class RunSplitter:
    """Takes raw rows in the order of the log and gives records; memory does not grow with the log."""

    def __init__(self, scope: Scope) -> None:
        self._job = scope is Scope.JOB
        self.run = 0  # that the last row belongs to
        self.starts: list[tuple[int, int]] = []  # (run, line) of each run that began in the last `feed`
        self._ranks: dict[float | None, _Rank] = {}
        self._marker: tuple[float | None, int] | None = (
            None  # rank and line of a start that awaits its record
        )
        self._interleaved = 0
        self._held: dict[tuple[object, ...], _Held] = {}
        self._newest_released: Key | None = None
        self._ready: list[_Held] = []

    def feed(self, rows: Batch) -> list[Batch]:
        """Take rows, of which `run` is not looked at; give the records that nothing can change any more.

        No batch is empty. UserError where two jobs print into the log.
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
            elif given[LOSS]:
                self._loss(cells[RANK], step=row[ITERATION], loss=row[LOSS])
            elif self._marker is None and cells[RANK] in self._ranks and self._ranks[cells[RANK]].rows:
                self._marker = cells[RANK], number
        return self._taken()

    def finish(self) -> list[Batch]:
        """The records still held back."""
        self.starts = []
        self._release_all()
        return self._taken()

    def _is_plain(self, rows: Batch) -> bool:
        """Whether all rows are records of one process, every step above the one before, as most logs are."""
        values, given = rows.values, rows.given
        if self._marker or not given[:, SAMPLES_PER_SEC].all() or not given[:, ITERATION].all():
            return False
        ranks = np.where(given[:, RANK], values[:, RANK], -1.0)
        if not (ranks == ranks[0]).all():
            return False
        rank = None if ranks[0] < 0 else float(ranks[0])
        if any(other != rank or each.losses or len(each.writers) > 1 for other, each in self._ranks.items()):
            return False
        epoch = np.where(given[:, EPOCH], values[:, EPOCH], 0.0)
        writers = self._ranks[rank].writers if rank in self._ranks else ()
        before = writers[0].last if writers else (-1.0, -1.0)
        epochs = np.diff(epoch, prepend=before[0])
        steps = np.diff(values[:, ITERATION], prepend=before[1])
        return bool(((epochs > 0) | ((epochs == 0) & (steps > 0))).all())

    def _feed_plain(self, rows: Batch) -> list[Batch]:
        """All but the last row, which a later line may still join."""
        self._release_all()
        before = self._taken()
        body = rows.take(slice(0, -1))
        body = replace(body, run=np.full(len(body), self.run))
        last = replace(_held(rows), run=self.run)
        if len(body):
            self._newest_released = newest = _held(body).key
            rank = self._ranks.setdefault(last.cells[RANK], _Rank())
            rank.rows += len(body)
            if newest is not None:
                rank.writers = [_Writer(newest, row=rank.rows)]
        self._record(last)
        return [*before, body] if len(body) else before

    def _record(self, new: _Held) -> None:
        rank_of, key = new.cells[RANK], new.key
        if self._marker is not None and self._marker[0] == rank_of:
            self._begin_run(self._marker[1])
        new.run = self.run
        if key is None:
            self._ranks.setdefault(rank_of, _Rank()).rows += 1
            self._release_all()
            self._ready.append(new)
            return
        writer = self._writer(rank_of, key, new.cells[SAMPLES_PER_SEC])
        if writer is None:
            self._check_interleaving(rank_of, key, new.line)
            self._begin_run(new.line)
            new.run = self.run
            writer = _Writer(key)
            self._ranks[rank_of] = _Rank(writers=[writer])
        rank = self._ranks[rank_of]
        rank.rows += 1
        writer.before = writer.last if writer.last < key else writer.before
        writer.last, writer.last_rate, writer.row = key, new.cells[SAMPLES_PER_SEC], rank.rows
        identity, held = self._known(new, key)
        if held is not None:
            self._join(held, new)
        elif not (self._job and self._newest_released is not None and key <= self._newest_released):
            self._take_loss(new, rank.losses)
            self._held[identity] = new
            if len(self._held) > _HELD:
                self._release(self._held.pop(next(iter(self._held))))

    def _writer(self, rank_of: float | None, key: Key, rate: float | None) -> _Writer | None:
        """Who of a rank printed the step; None where it begins a new run.

        That is the process whose last step is the nearest below. A tag stands for one process; without tags
        the same step again is another one's.
        """
        rank = self._ranks.setdefault(rank_of, _Rank())
        writers = rank.writers
        if rank_of is None:
            writers = [writer for writer in writers if rank.rows - writer.row <= _MOST_BEHIND]
        behind = [writer for writer in writers if writer.last < key]
        if behind:
            return max(behind, key=lambda writer: writer.last)
        level = next((writer for writer in writers if writer.last == key), None)
        if rank_of is not None and level is not None:
            same_line_again = rate == level.last_rate or rate != rate  # noqa: PLR0124  a NaN
            return level if same_line_again else None
        if rank.writers and level is None:
            return None
        if level is None or len(rank.writers) < _MOST_WRITERS:
            level = _Writer(key)
            rank.writers = [*writers, level]
        return level

    def _check_interleaving(self, rank_of: float | None, key: Key, line: int) -> None:
        """UserError where steps go back and forth between two series that both rise."""
        ahead = max(self._ranks[rank_of].writers, key=lambda writer: writer.last)
        if ahead.before is None or ahead.before >= key:
            self._interleaved = 0
            return
        self._interleaved += 1
        if self._interleaved >= _INTERLEAVED:
            step, before, between = (each[1] for each in (key, ahead.before, ahead.last))
            raise UserError(
                f"two jobs print into this log: step {step:.0f} in line {line} goes on from step "
                f"{before:.0f}, with step {between:.0f} between them; split the file"
            )

    def _begin_run(self, line: int) -> None:
        self._release_all()
        self._newest_released, self._marker = None, None
        self._ranks = {}
        self.run += 1
        self.starts.append((self.run, line))

    def _known(self, new: _Held, key: Key) -> tuple[tuple[object, ...], _Held | None]:
        """The name of a record among those held, and the one that has it.

        Processes without a tag print their metrics in one order: a line of the same step and rate that begins
        with the same metric is another process's, one with another metric the same record's next line.
        """
        rank_of, rate, metric = new.cells[RANK], new.cells[SAMPLES_PER_SEC], new.cells[METRIC]
        new.metrics.add(metric)
        if self._job:
            return (key,), self._held.get((key,))
        place, held = 1, self._held.get((rank_of, key, rate, 1))
        while held is not None and rank_of is None and metric in held.metrics and place < _MOST_WRITERS:
            place += 1
            held = self._held.get((rank_of, key, rate, place))
        return (rank_of, key, rate, place), held

    def _join(self, held: _Held, new: _Held) -> None:
        """The same record again: the lower rank's wins, and what one line does not say the other may."""
        held.metrics |= new.metrics
        if self._job and new.rank < held.rank:
            held.line = new.line
            held.cells, new.cells = new.cells, held.cells
        held.cells = [
            other if cell is None else cell for cell, other in zip(held.cells, new.cells, strict=True)
        ]

    @staticmethod
    def _take_loss(record: _Held, losses: dict[float | None, float]) -> None:
        if record.cells[LOSS] is not None or not losses:
            return
        record.cells[LOSS] = losses.pop(record.cells[ITERATION], None)
        if record.cells[LOSS] is None:
            record.step_before = next(reversed(losses))

    def _loss(self, rank: float | None, *, step: float, loss: float) -> None:
        """A loss on a line of its own; `rank` is None where the line names none."""
        for record in reversed(self._held.values()):
            lacks_it = record.cells[ITERATION] == step and record.cells[LOSS] is None
            if lacks_it and (rank is None or record.rank == rank):
                record.cells[LOSS] = loss
                return
        losses = self._ranks.setdefault(rank, _Rank()).losses
        losses[step] = loss
        if len(losses) > _LOOSE_LOSSES:
            del losses[next(iter(losses))]

    def _release_all(self) -> None:
        for held in self._held.values():
            self._release(held)
        self._held.clear()

    def _release(self, held: _Held) -> None:
        rank = self._ranks.get(held.cells[RANK])
        if held.cells[LOSS] is None and rank is not None:
            held.cells[LOSS] = rank.losses.pop(held.step_before, None)
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


_LONGEST_WATCHED = 64 << 10
_MOST_FAILURES = 1000


class Endings:
    """How the runs of a log ended; `failures` holds those that show a failure."""

    def __init__(self, file: str) -> None:
        self.failures: dict[int, Failure] = {}
        self._file = file
        self._scan = FailureScan()
        self._run = 0
        self._last_line: tuple[int, bytes] | None = None

    def feed(
        self, lines: ChunkLines, first_line: int, *, rows: Batch | None, starts: Sequence[tuple[int, int]]
    ) -> None:
        """Take a chunk, what a dialect read from it, and the runs that begin in it."""
        self._last_line = (first_line + len(lines) - 1, lines.text(len(lines) - 1))
        watched = lines.worth_watching().tolist()
        if not (watched or starts or self._scan.has_signs or self._scan.wants_more):
            return
        records = None if rows is None else rows.take(rows.given[:, SAMPLES_PER_SEC])
        record_lines = [] if records is None else (records.line - first_line).tolist()
        waiting = [(run, line - first_line) for run, line in starts]
        at = noted = 0
        while True:
            if not self._scan.wants_more:
                next_watched = bisect_left(watched, at)
                at = watched[next_watched] if next_watched < len(watched) else len(lines)
            ending = bool(waiting) and at >= waiting[0][1]
            until = bisect_left(record_lines, max(0, waiting[0][1]) if ending else at, noted)
            if self._scan.has_signs and records is not None and noted < until:
                self._scan.note_records(_ranks(records, slice(noted, until)))
            noted = until
            if ending:
                self._end_run(waiting.pop(0)[0])
                continue
            if at >= len(lines):
                break
            text = lines.text(at)[:_LONGEST_WATCHED].decode("utf-8", errors="replace")
            for part in text.split("\r"):
                self._scan.feed(self._file, first_line + at, part)
            at += 1

    def finish(self, outcome: Outcome | None) -> None:
        """The log ends; `outcome` is how the process of its last run did, where known."""
        if self._last_line is not None:
            number, text = self._last_line
            self._scan.note_last(self._file, number, text.decode(errors="replace"))
        self._end_run(None, outcome=outcome)

    def _end_run(self, next_run: int | None, *, outcome: Outcome | None = None) -> None:
        """Keep what the run showed; the next run starts anew."""
        failure = self._scan.failure(outcome)
        if failure is not None and len(self.failures) < _MOST_FAILURES:
            self.failures[self._run] = failure
        self._scan = FailureScan()
        self._run = next_run or 0


def _ranks(records: Batch, part: slice) -> list[str]:
    ranks, given = records.values[part, RANK].tolist(), records.given[part, RANK].tolist()
    return [f"{rank:.0f}" if is_given else "" for rank, is_given in zip(ranks, given, strict=True)]
