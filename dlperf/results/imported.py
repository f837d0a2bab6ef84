"""Results out of other programs' logs: their records by run, and the result of each run.

The run folder of an imported run holds the log itself (`logs/imported.log`) and `import.json`; its result can
be made again from these and `case.json` alone. `measure.py` has the methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlperf import __version__
from dlperf.errors import UserError
from dlperf.files import read_document
from dlperf.importing.archives import open_logs
from dlperf.importing.case import Preamble
from dlperf.importing.columnar.spool import Spool
from dlperf.importing.dialects.registry import choose_dialects
from dlperf.importing.reader import LogReader
from dlperf.importing.records import RANK, ROW, Batch
from dlperf.logs.text import plain
from dlperf.results import method_2021
from dlperf.results.layout import told_repeat
from dlperf.results.measure import SAMPLES_PER_SECONDS, Measured, measure
from dlperf.results.schema import Imported, RunResult, Status
from dlperf.results.verdict import STATUS_OF, Verdict, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.importing.archives import Log
    from dlperf.importing.dialects.base import Dialect
    from dlperf.logs.failures import Failure
    from dlperf.plan.case import Case

IMPORT_FILE = "import.json"
LOG_STEM = "imported.log"
METHODS = {"dlperf": SAMPLES_PER_SECONDS, method_2021.NAME: method_2021.NAME}
# Steps that start again more often than that in one file are no runs that somebody appended.
MOST_RUNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLog:
    """A log as a whole: its records by run, what its preamble says, and how each run failed.

    `highest_rank` is the highest rank that a record names, with its line; None where none names any.
    """

    name: str
    dialect: Dialect
    records: Spool
    runs: tuple[slice, ...]  # where each run's records are
    highest_rank: tuple[int, int] | None
    settings: dict[str, tuple[str, int]]
    failures: dict[int, Failure]
    warnings: tuple[str, ...]

    def batches(self, run: int) -> Iterator[Batch]:
        """The records of a run, from 0, in order."""
        place = self.runs[run]
        return map(Batch.of_rows, self.records.chunks(place.start, place.stop))


def parse_log(log: Log, *, dialect: str) -> ParsedLog:
    """Read all of a log; its records go to a spool.

    Raises:
        NoRecords, MixedDialects, UserError: as `LogReader`; or there are more than MOST_RUNS runs.
    """
    preamble = Preamble()
    first_line = math.inf

    def before_the_first_record(line: int, text: bytes) -> None:
        if line < first_line:
            preamble.feed(line, text)

    reader = LogReader(log, dialects=choose_dialects(dialect), unrecognised=before_the_first_record)
    spool = Spool(ROW)
    ends: dict[int, int] = {}  # run -> behind its last record
    highest: tuple[int, int] | None = None
    for batch in reader:
        first_line = min(first_line, int(batch.line.min()))
        runs, counts = np.unique(batch.run, return_counts=True)
        ends.update(zip(runs.tolist(), (len(spool) + np.cumsum(counts)).tolist(), strict=True))
        spool.append(batch.rows())
        highest = _higher(highest, batch)
        if len(ends) > MOST_RUNS:
            raise UserError(
                f"{log.name}: steps start again more than {MOST_RUNS} times by line {batch.line[-1]}: "
                "these are no runs appended in one file"
            )
    borders = [0, *ends.values()]
    return ParsedLog(
        name=log.name,
        dialect=reader.dialect or _named_dialect(reader, log, dialect),
        records=spool,
        runs=tuple(map(slice, borders[:-1], borders[1:])) or (slice(0, 0),),
        highest_rank=highest,
        settings={key: told for key, told in preamble.settings.items() if told[1] < first_line},
        failures=reader.failures,
        warnings=tuple(log.warnings),
    )


def _higher(highest: tuple[int, int] | None, batch: Batch) -> tuple[int, int] | None:
    ranks = np.where(batch.given[:, RANK], batch.values[:, RANK], -1.0)
    at = int(ranks.argmax())
    rank = int(ranks[at])
    return (rank, int(batch.line[at])) if rank > (-1 if highest is None else highest[0]) else highest


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


def imported_result(
    parsed: ParsedLog, *, case: Case, repeat: int, imported: Imported, log_path: str
) -> tuple[RunResult, Measured]:
    """The result of one run of a log, and what it was made of.

    Args:
        parsed: the whole log.
        case: what was run.
        repeat: the number of the run within the case, from 1.
        imported: which run of the log, and the method.
        log_path: the log's place in the run folder, for the evidence.
    """
    if imported.run >= len(parsed.runs):
        raise UserError(f"{log_path}: no run {imported.run + 1} in it any more; it has {len(parsed.runs)}")
    try:
        measured = measure(
            lambda: parsed.batches(imported.run), case=case, dialect=parsed.dialect, imported=imported
        )
    except UserError as error:
        raise UserError(f"{parsed.name}: {error}") from error
    verdict = _verdict(measured, parsed.failures.get(imported.run), log_path=log_path)
    result = RunResult(
        dlperf_version=__version__,
        case=case,
        repeat=repeat,
        status=verdict.status,
        reason=verdict.reason,
        evidence=verdict.evidence,
        figures=measured.figures,
        imported=imported,
    )
    return result, measured


def _verdict(measured: Measured, failure: Failure | None, *, log_path: str) -> Verdict:
    """A log with a figure keeps it: such runs were often ended by hand once there were steps enough."""
    if failure is None:
        status = Status.INSUFFICIENT if measured.figures is None else Status.OK
        return Verdict(status=status, reason=measured.lacking)
    text = f"{failure.kind}: {failure.evidence.text}"
    good = measured.figures is not None
    return Verdict(
        status=Status.OK if good else STATUS_OF[failure.kind],
        reason=one_line(f"the run ended with {text}" if good else text),
        evidence=plain(f"{log_path}:{failure.evidence.line}: {failure.evidence.text}"),
    )


def read_import(folder: Path) -> Imported | None:
    """What `import.json` of a run folder says; None where it is no imported run.

    Raises:
        UserError: the file is damaged, or of a newer dlperf.
    """
    path = folder / IMPORT_FILE
    if not path.exists():
        return None
    return read_document(path, Imported, kind="import", remedy="import the log again")


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


def extract_imported(folder: Path, *, case: Case, imported: Imported) -> tuple[RunResult, Measured]:
    """Make the result of an imported run folder again, from the log in it."""
    repeat = told_repeat(folder)
    path = imported_log(folder)
    return imported_result(
        parse_imported(folder, imported),
        case=case,
        repeat=repeat,
        imported=imported,
        log_path=f"logs/{path.name}",
    )
