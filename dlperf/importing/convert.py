"""A foreign log -> our own event log, once, at import.

The event log says all that a figure needs, in fields that any log may have: how many iterations a line
covers, which steps count and by which method, what is not known about the case, and how the run failed.
Nothing that reads a run folder afterwards asks who wrote the original.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlperf.errors import UserError
from dlperf.importing.archives import Log, open_log, printable
from dlperf.importing.case import Preamble
from dlperf.importing.dialects import choose_dialects
from dlperf.importing.dialects.base import Dialect, Scope
from dlperf.importing.reader import LogReader
from dlperf.importing.records import (
    EPOCH,
    ITERATION,
    RANK,
    SAMPLES_PER_SEC,
    Batch,
    concatenate,
)
from dlperf.layout import log_name
from dlperf.logs.events import OTHER, TRAIN, WARMUP, event_line
from dlperf.logs.failures import Failure
from dlperf.plan.case import Case, Topology
from dlperf.results.extract import read_case, read_import
from dlperf.results.schema import METHOD_2021, SAMPLES_PER_SECONDS, Imported

EVENT_LOG = log_name(0)
METHODS = {"dlperf": SAMPLES_PER_SECONDS, METHOD_2021: METHOD_2021}
# Steps that start again more often than this in one file are not runs that somebody appended.
MOST_RUNS = 1000
_LOWEST_RATE = 1e-9  # samples/s; below it a step would take longer than anything lasts
_HIGHEST_RATE = 1e27  # beyond it no figure can be stored
_LOWEST_RATE_2021 = 0.005  # its figures are rounded to 0.01
_EXACT_STEP = 1 << 53  # above it a double is not an exact whole number


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLog:
    """A whole log: its records by run, what it says before the first one, and how each run failed."""

    name: str
    dialect: Dialect
    runs: tuple[Batch, ...]
    settings: dict[str, tuple[str, int]]  # from before the first record: name -> value, line
    failures: dict[int, Failure]
    warnings: tuple[str, ...]


def parse_log(log: Log, *, dialect: str) -> ParsedLog:
    """Read all of a log; about 80 bytes per record stay in memory.

    UserError as of `LogReader`, and where there are more than MOST_RUNS runs.
    """
    preamble = Preamble()
    first_line = math.inf

    def before_the_first_record(line: int, text: bytes) -> None:
        if line < first_line:
            preamble.feed(line, text)

    reader = LogReader(log, dialects=choose_dialects(dialect), unrecognised=before_the_first_record)
    batches = []
    for batch in reader:
        first_line = min(first_line, int(batch.line.min()))
        batches.append(batch)
        if batch.run[-1] >= MOST_RUNS:
            raise UserError(
                f"{log.name}: steps start again more than {MOST_RUNS} times by line {batch.line[-1]}: "
                "these are not runs appended in one file"
            )
    records = concatenate(batches)
    borders = np.searchsorted(records.run, np.arange(max(1, reader.runs) + 1)).tolist()
    return ParsedLog(
        name=log.name,
        dialect=reader.dialect or _named_dialect(reader, log, dialect),
        runs=tuple(records.take(slice(*pair)) for pair in pairwise(borders)),
        settings={
            key: (value, line) for key, (value, line) in preamble.settings.items() if line < first_line
        },
        failures=reader.failures,
        warnings=tuple(log.warnings),
    )


def _named_dialect(reader: LogReader, log: Log, dialect: str) -> Dialect:
    """The dialect of a log without records: one that failed before its first step, if the user names it."""
    if dialect == "auto" and reader.trace:
        raise UserError(
            f"{log.name}: no record{reader.trace}; if it is the log of a run that failed, name its program "
            "with --dialect"
        )
    if reader.failure is None:
        reader.require_records()
    return choose_dialects(dialect)[0]


def convert(parsed: ParsedLog, *, case: Case, imported: Imported) -> Iterator[str]:
    """One run of a foreign log as lines of our own event log.

    `imported` says which run, and which method makes its figure; UserError where the log has no such run, or
    the method does not know the dialect.
    """
    if imported.run >= len(parsed.runs):
        raise UserError(
            f"{parsed.name}: it has {len(parsed.runs)} runs, so there is no run {imported.run + 1}"
        )
    batch = parsed.runs[imported.run]
    iterations = _iterations(batch)
    nodes, warmup = case.topology.nodes, imported.warmup_iterations
    if imported.method == METHOD_2021:
        series = _series_2021(parsed, batch, nodes=nodes)
    else:
        series = _series(parsed, batch, topology=case.topology, iterations=iterations, warmup=warmup)
    how = {"rule": series.rule, "no_figure_because": series.lacking}
    yield event_line("global_batch_size", case.global_batch_size)
    yield event_line("figure_method", imported.method, how)
    yield event_line("not_known", list(imported.not_known))
    yield event_line("run_start", event_type="INTERVAL_START")
    yield from _step_lines(series, iterations=iterations, samples=iterations * case.global_batch_size)
    failure = parsed.failures.get(imported.run)
    if failure is not None:
        evidence = failure.evidence
        place = {"file": imported.log, "line": evidence.line}
        yield event_line("failure", {"kind": str(failure.kind), "text": evidence.text}, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """The steps behind a figure."""

    records: Batch  # one per step, with a rate in samples/s that can be divided by
    throughput: Sequence[float]  # [n], the rate that the method uses, in samples/s of the whole job
    kinds: Sequence[str]  # [n], whether each step counts: TRAIN, WARMUP or OTHER
    rule: str  # which records count, for people
    lacking: str | None  # why there is no figure


def _step_lines(series: _Series, *, iterations: int, samples: int) -> Iterator[str]:
    """One event per step. A step lasts as long as its samples take at the printed rate."""
    steps = _step_numbers(series.records, iterations)
    for step, record, throughput, kind in zip(
        steps, series.records.records(), series.throughput, series.kinds, strict=True
    ):
        value: dict[str, Any] = {
            "throughput": throughput,
            "seconds": samples / record.samples_per_sec,
            "loss": record.loss,
        }
        if record.loss is not None and not math.isfinite(record.loss):
            value.update(loss=None, loss_text=str(record.loss))  # JSON has no NaN
        metadata = {
            "step": step,
            "samples": samples,
            "kind": kind,
            "iterations": iterations,
            "line": record.line,
        }
        yield event_line("tracked_stats", value, metadata, time_ms=record.time)


def _step_numbers(records: Batch, iterations: int) -> list[int]:
    """As printed where they rise from record to record, else counted."""
    printed = records.values[:, ITERATION]
    rising = records.given[:, ITERATION].all() and (np.diff(printed, prepend=-1.0) > 0).all()
    if rising and (printed < _EXACT_STEP).all():
        return [round(step) for step in printed.tolist()]
    return [index * iterations for index in range(len(records))]


def _series(parsed: ParsedLog, batch: Batch, *, topology: Topology, iterations: int, warmup: int) -> _Series:
    """All records after the warm-up iterations."""
    good = batch.take(_have_rates(batch))
    records = good if parsed.dialect.scope is Scope.JOB else _joined(good, topology)
    used = np.arange(len(records)) * iterations >= warmup
    return _Series(
        records=records,
        throughput=records.values[:, SAMPLES_PER_SEC].tolist(),
        kinds=np.where(used, TRAIN, WARMUP).tolist(),
        rule=f"all records after the first {warmup} iterations",
        lacking=None if used.any() else f"no record with a rate after the {warmup} warm-up iterations",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The records that a script of the 2021 comparison averaged, and what it made of a printed rate."""

    rule: str  # how they are chosen, for people
    counts: Callable[[Batch], NDArray[np.bool_]]  # which records of a batch the script looked at, bool [n]
    first: int  # of those, counted from 1, that it averaged
    last: float
    fewest: int  # how many it had to look at to give a figure
    complaint: str  # what is missing below that, for people
    rate: Callable[[float, int], float]  # samples/s of the whole job, from a printed rate and the nodes


# By the name of the dialect.
_WINDOWS = {
    "oneflow_face": _Window(
        rule="of the lines with iter > 5, the 20th to the 120th",
        counts=lambda batch: batch.column("iteration") > 5,  # noqa: PLR2004
        first=20,
        last=120,
        fewest=120,
        complaint="lines with iter > 5, and the 2021 script gave 0 below 120",
        rate=lambda rate, _nodes: rate,
    ),
    "insightface_mxnet": _Window(
        rule="of the lines of epoch 0, the 2nd to the 6th, each rate rounded to 0.1 and times the nodes",
        counts=lambda batch: batch.column("epoch") == 0,
        first=2,
        last=6,  # windows of 20 batches each
        fewest=2,
        complaint="lines of epoch 0, and the 2021 script skipped the first",
        rate=lambda rate, nodes: round(rate, 1) * nodes,
    ),
    "partial_fc_mxnet": _Window(
        rule="the 20th line and all after it, each total rounded to 0.1",
        counts=lambda batch: np.ones(len(batch), np.bool_),
        first=20,
        last=math.inf,
        fewest=20,
        complaint="lines, and the 2021 script skipped the first 19",
        rate=lambda rate, _nodes: round(rate, 1),
    ),
}


def _series_2021(parsed: ParsedLog, batch: Batch, *, nodes: int) -> _Series:
    window = _WINDOWS.get(parsed.dialect.name)
    if window is None:
        raise UserError(
            f"{parsed.name}: method {METHOD_2021} is not defined for {parsed.dialect.name}; it knows "
            f"{', '.join(_WINDOWS)}"
        )
    counts = window.counts(batch)
    number = np.cumsum(counts)
    used = counts & (number >= window.first) & (number <= window.last)
    rates = np.array([window.rate(rate, nodes) for rate in batch.values[:, SAMPLES_PER_SEC].tolist()])
    lacking = None
    if counts.sum() < window.fewest:
        lacking = f"{counts.sum()} {window.complaint}"
    elif not (np.isfinite(rates[used]) & (rates[used] >= _LOWEST_RATE_2021)).all():
        lacking = "a rate among them is not a number"
    good = _have_rates(batch)
    return _Series(
        records=batch.take(good),
        throughput=rates[good].tolist(),
        kinds=np.where(used[good] & (lacking is None), TRAIN, OTHER).tolist(),
        rule=window.rule,
        lacking=lacking,
    )


def _have_rates(batch: Batch) -> NDArray[np.bool_]:
    """Which records have a rate that can be divided by, bool [n]."""
    rates = batch.values[:, SAMPLES_PER_SEC]
    return (rates > _LOWEST_RATE) & (rates < _HIGHEST_RATE)


def _iterations(batch: Batch) -> int:
    """That a record covers: the median distance of neighbours within an epoch; 1 without any."""
    epoch = np.where(batch.given[:, EPOCH], batch.values[:, EPOCH], -1.0)
    iteration = np.where(batch.given[:, ITERATION], batch.values[:, ITERATION], math.nan)
    distance = np.diff(iteration)
    distance = distance[(np.diff(epoch) == 0) & (distance > 0)]
    return round(float(np.median(distance))) if len(distance) else 1


def _joined(batch: Batch, topology: Topology) -> Batch:
    """One record per step with the whole job's rate: the mean of its processes' rates times their number.

    Every node has a process. More are counted by their ranks, or by the most rates that one step has. The
    other fields are those of the step's first line.
    """
    has_step = batch.given[:, ITERATION]
    epoch = np.where(batch.given[:, EPOCH], batch.values[:, EPOCH], 0.0)
    keys = zip(
        np.where(has_step, epoch, math.inf).tolist(),
        np.where(has_step, batch.values[:, ITERATION], batch.line).tolist(),
        strict=True,
    )
    steps: dict[tuple[float, float], list[int]] = {}
    for index, key in enumerate(keys):
        steps.setdefault(key, []).append(index)
    rates = batch.values[:, SAMPLES_PER_SEC].tolist()
    ranks = np.unique(np.where(batch.given[:, RANK], batch.values[:, RANK], -1.0))  # -1: a line without one
    most = max((len({rates[index] for index in indices}) for indices in steps.values()), default=0)
    processes = max(topology.nodes, len(ranks), min(most, topology.world_size))
    joined = batch.take(np.array([indices[0] for indices in steps.values()], np.int64))
    joined.values[:, SAMPLES_PER_SEC] = [
        math.fsum(rates[index] for index in indices) / len(indices) * processes for indices in steps.values()
    ]
    return joined


def check_conversion(folder: Path) -> None:
    """Convert the original log of a run folder again; UserError where the event log is another.

    A run that was not imported has no original.
    """
    imported = read_import(folder)
    if imported is None:
        return
    original = folder / imported.log
    if not original.is_file():
        raise UserError(f"{original}: the log that this run was imported from is gone; import it again")
    with original.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != imported.sha256:
            raise UserError(
                f"{original}: changed since it was imported (SHA-256 {digest}); import the log again"
            )
        stream.seek(0)
        parsed = parse_log(open_log(printable(str(original)), stream), dialect=imported.dialect)
    again = convert(parsed, case=read_case(folder), imported=imported)
    with (folder / EVENT_LOG).open(encoding="utf-8") as stored:
        for number, (line, new) in enumerate(zip_longest(stored, again, fillvalue="nothing"), 1):
            if line != new:
                raise UserError(
                    f"{folder / EVENT_LOG}:{number}: it says {line.strip()}, {original.name} gives "
                    f"{new.strip()}; import the log again"
                )
