"""Results out of other programs' logs: the records of one run, and the figure that a method makes of them.

The run folder of an imported run holds the log itself (`logs/imported.log`) and `import.json`; its result can
be made again from these and `case.json` alone.

The method `samples/seconds` gives every record the time that its samples took at its rate, leaves out the
warm-up iterations, and divides all samples by all seconds. `dlperf-2021` is the 2021 comparison's
(`method_2021.py`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dlperf import __version__
from dlperf.errors import UserError
from dlperf.logs.dialects.base import Scope
from dlperf.logs.dialects.registry import choose_dialects
from dlperf.logs.events import TRAIN, WARMUP, Step
from dlperf.logs.failures import Failure, FailureKind
from dlperf.logs.preamble import Preamble
from dlperf.logs.reader import LogReader
from dlperf.logs.stream import open_logs
from dlperf.results import method_2021
from dlperf.results.schema import Imported, RunFigures, RunResult, Status
from dlperf.results.statistics import quantile, samples_per_second

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlperf.logs.dialects.base import Dialect
    from dlperf.logs.records import Record
    from dlperf.logs.stream import Log
    from dlperf.plan.case import Case

IMPORT_FILE = "import.json"
LOG_STEM = "imported.log"
SAMPLES_PER_SECONDS = "samples/seconds"
METHODS = {"dlperf": SAMPLES_PER_SECONDS, method_2021.NAME: method_2021.NAME}
OTHER = "other"  # the kind of a step that the method neither counts as warm-up nor takes
_REPEAT = re.compile(r"r(\d+)")
_STATUSES = {
    FailureKind.OOM: Status.OOM,
    FailureKind.KILLED: Status.KILLED,
    FailureKind.HANG: Status.STALLED,
    FailureKind.NCCL: Status.CRASH,
    FailureKind.CRASH: Status.CRASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLog:
    """A log as a whole: its records by run, what its preamble says, and how each run failed."""

    name: str
    dialect: Dialect
    runs: tuple[tuple[Record, ...], ...]
    settings: dict[str, tuple[str, int]]
    failures: dict[int, Failure]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a method makes of a run.

    Attributes:
        steps: one a record; seconds are the time that the record's samples took at its rate.
        iterations: how many iterations a record stands for.
        used: records behind the figure.
        figures: None where there is no figure, and then `lacking` says why.
        rule: which records the method takes, for people.
    """

    steps: tuple[Step, ...]
    iterations: int
    used: tuple[Record, ...]
    figures: RunFigures | None
    lacking: str | None
    rule: str


def parse_log(log: Log, *, dialect: str) -> ParsedLog:
    """Read all of a log; the records stay in memory, some hundred bytes each.

    Raises:
        NoRecords, MixedDialects, UserError: as `LogReader`.
    """
    preamble = Preamble()
    first_line = math.inf

    def before_the_first_record(line: int, text: bytes) -> None:
        if line < first_line:
            preamble.feed(line, text)

    reader = LogReader(log, dialects=choose_dialects(dialect), unrecognised=before_the_first_record)
    runs: list[list[Record]] = []
    for batch in reader:
        for record in batch.records():
            first_line = min(first_line, record.line)
            runs.extend([] for _ in range(record.run + 1 - len(runs)))
            runs[record.run].append(record)
    known = reader.dialect
    if known is None:
        known = _named_dialect(reader, log, dialect)
        runs = [[]]
    return ParsedLog(
        name=log.name,
        dialect=known,
        runs=tuple(tuple(run) for run in runs),
        settings={key: told for key, told in preamble.settings.items() if told[1] < first_line},
        failures=reader.failures,
        warnings=tuple(log.warnings),
    )


def _named_dialect(reader: LogReader, log: Log, dialect: str) -> Dialect:
    """The dialect of a log without a record: one that failed before its first step, if the user names it."""
    failure = reader.failure
    if failure is None:
        reader.require_records()
    elif dialect == "auto":
        raise UserError(
            f"{log.name}: no record, and it failed: {failure.kind}: {failure.evidence}; "
            "name its program with --dialect to import it as a failed run"
        )
    return choose_dialects(dialect)[0]


def measure(records: Sequence[Record], *, case: Case, dialect: Dialect, imported: Imported) -> Measured:
    """Apply the method of `imported` to the records of one run."""
    if imported.method == method_2021.NAME:
        return _measure_2021(records, case=case, dialect=dialect)
    series = _of_the_job(
        [record for record in records if _is_rate(record.samples_per_sec)],
        nodes=case.topology.nodes,
        scope=dialect.scope,
    )
    iterations = _iterations_a_record(series)
    warm = [place * iterations < imported.warmup_iterations for place in range(len(series))]
    kinds = [WARMUP if is_warm else TRAIN for is_warm in warm]
    steps = tuple(_steps(series, kinds, samples=iterations * case.global_batch_size))
    accepted = [step for step in steps if step.kind == TRAIN]
    lacking = figures = None
    if accepted:
        rate = samples_per_second([step.samples for step in accepted], [step.seconds for step in accepted])
        figures = _figures(rate, steps, iterations)
    else:
        lacking = f"no record with a rate behind the {imported.warmup_iterations} warm-up iterations"
    return Measured(
        steps=steps,
        iterations=iterations,
        used=tuple(record for record, is_warm in zip(series, warm, strict=True) if not is_warm),
        figures=figures,
        lacking=lacking,
        rule=f"all records behind the first {imported.warmup_iterations} iterations",
    )


def _measure_2021(records: Sequence[Record], *, case: Case, dialect: Dialect) -> Measured:
    if dialect.name not in method_2021.WINDOWS:
        raise UserError(
            f"method {method_2021.NAME} is not defined for {dialect.name}; it knows "
            f"{', '.join(method_2021.WINDOWS)}"
        )
    window = method_2021.WINDOWS[dialect.name](records, case.topology.nodes)
    lacking = window.lacking
    if lacking is None and not all(map(_is_rate, window.rates)):
        lacking = "a rate among them is no number"
    iterations = _iterations_a_record(records)
    used = set(window.used)
    rated = [(place, record) for place, record in enumerate(records) if _is_rate(record.samples_per_sec)]
    kinds = [TRAIN if place in used else OTHER for place, _record in rated]
    series = [record for _place, record in rated]
    steps = tuple(_steps(series, kinds, samples=iterations * case.global_batch_size))
    return Measured(
        steps=steps,
        iterations=iterations,
        used=tuple(records[place] for place in window.used),
        figures=None if lacking else _figures(window.figure, steps, iterations),
        lacking=lacking,
        rule=window.rule,
    )


def _is_rate(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _of_the_job(records: Sequence[Record], *, nodes: int, scope: Scope) -> list[Record]:
    """One record a step, with the whole job's rate: of processes the mean rate times how many they are."""
    if scope is Scope.JOB:
        return list(records)
    processes = max(nodes, len({record.rank for record in records}))
    by_step: dict[tuple[int | None, int | None], list[Record]] = {}
    for record in records:
        by_step.setdefault((record.epoch, record.iteration), []).append(record)
    joined = []
    for same in by_step.values():
        rate = math.fsum(record.samples_per_sec for record in same) / len(same) * processes
        joined.append(replace(same[0], samples_per_sec=rate))
    return joined


def _iterations_a_record(records: Sequence[Record]) -> int:
    """The median distance of neighbours within an epoch; 1 where there are none."""
    distances = [
        later.iteration - earlier.iteration
        for earlier, later in pairwise(records)
        if earlier.iteration is not None
        and later.iteration is not None
        and later.epoch == earlier.epoch
        and later.iteration > earlier.iteration
    ]
    return round(median(distances)) if distances else 1


def _steps(records: Sequence[Record], kinds: Sequence[str], *, samples: int) -> list[Step]:
    return [
        Step(
            step=place if record.iteration is None else record.iteration,
            samples=samples,
            seconds=samples / record.samples_per_sec,
            kind=kind,
            loss=record.loss,
            line=record.line,
        )
        for place, (record, kind) in enumerate(zip(records, kinds, strict=True))
    ]


def _figures(rate: float, steps: Sequence[Step], iterations: int) -> RunFigures:
    accepted = [step.seconds / iterations for step in steps if step.kind == TRAIN]
    losses = [step.loss for step in steps if step.loss is not None]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return RunFigures(
        samples_per_sec=rate,
        accepted_steps=len(accepted) * iterations,
        dropped_steps=(len(steps) - len(accepted)) * iterations,
        step_seconds_median=quantile(accepted, 0.5),
        step_seconds_p95=quantile(accepted, 0.95),
        loss_first=finite[0] if finite else None,
        loss_last=losses[-1] if losses and math.isfinite(losses[-1]) else None,
        peak_memory_bytes=None,
    )


def imported_result(
    parsed: ParsedLog, *, case: Case, repeat: int, imported: Imported, log_path: str
) -> tuple[RunResult, tuple[Step, ...]]:
    """The result of one run of a log, and its series.

    Args:
        parsed: the whole log.
        case: what was run.
        repeat: the number of the run within the case, from 1.
        imported: which run of the log, and the method.
        log_path: the log's place in the run folder, for the evidence.
    """
    measured = measure(parsed.runs[imported.run], case=case, dialect=parsed.dialect, imported=imported)
    failure = parsed.failures.get(imported.run)
    status, reason = _verdict(measured, failure)
    evidence = None
    if failure is not None:
        evidence = f"{log_path}:{failure.evidence.line}: {failure.evidence.text}"
    result = RunResult(
        dlperf_version=__version__,
        case=case,
        repeat=repeat,
        status=status,
        reason=reason,
        evidence=evidence,
        figures=measured.figures if status is Status.OK else None,
        imported=imported,
    )
    return result, measured.steps


def _verdict(measured: Measured, failure: Failure | None) -> tuple[Status, str | None]:
    """A log with a figure keeps it: such runs were often ended by hand once there were steps enough."""
    if measured.figures is not None:
        return (
            Status.OK,
            None if failure is None else f"the run ended with {failure.kind}: {failure.evidence.text}"[:300],
        )
    if failure is not None:
        return _STATUSES[failure.kind], f"{failure.kind}: {failure.evidence.text}"[:300]
    return Status.INSUFFICIENT, measured.lacking


def read_import(folder: Path) -> Imported | None:
    """What `import.json` of a run folder says; None where it is no imported run.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / IMPORT_FILE
    try:
        return Imported.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def imported_log(folder: Path) -> Path:
    """The log of an imported run folder; UserError where there is none."""
    found = sorted((folder / "logs").glob(f"{LOG_STEM}*"))
    if not found:
        raise UserError(f"{folder}: the log of this imported run is gone")
    return found[0]


def parse_imported(folder: Path, imported: Imported) -> ParsedLog:
    """Read the log of an imported run folder again."""
    for log in open_logs(imported_log(folder)):
        return parse_log(log, dialect=imported.dialect)
    raise UserError(f"{folder}: the log of this imported run is gone")


def extract_imported(folder: Path, *, case: Case, imported: Imported) -> tuple[RunResult, tuple[Step, ...]]:
    """Make the result of an imported run folder again, from the log in it."""
    match = _REPEAT.fullmatch(folder.resolve().name)
    if match is None:
        raise UserError(f"{folder}: a run folder is named r<repeat>, such as r1")
    path = imported_log(folder)
    return imported_result(
        parse_imported(folder, imported),
        case=case,
        repeat=int(match[1]),
        imported=imported,
        log_path=f"logs/{path.name}",
    )
