"""`limits/<case_id>/limit.json`: how the largest value of a case was found. docs/limits.md describes it.

The runs of the search lie beside it, in `runs/<case_id of the probe>/r<attempt>`, as any other run folder;
the file can be computed again from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from dlperf.layout import LIMIT_NAME, LIMITS_FOLDER
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.results.extract import extract
from dlperf.results.schema import RunResult, Status

LIMIT_SCHEMA_VERSION: Final = 1


class LimitStatus(StrEnum):
    """The state of a search."""

    SEARCHING = "searching"
    FOUND = "found"
    NOTHING_TRAINS = "nothing_trains"  # not even the smallest value
    BEYOND_UPPER = "beyond_upper"  # the largest allowed value trains
    BROKEN = "broken"  # a probe failed twice for a reason other than memory


class ProbeRecord(Model):
    """One probe."""

    value: int
    full: bool  # of full length: it confirms what short probes found
    attempt: int  # of this value, from 1
    status: Status
    reason: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None  # the largest over the ranks, where it trained
    memory_held_by: str | None = None
    folder: str  # from the folder of limit.json


class MemoryPart(Model):
    """Bytes of one kind of tensor by arithmetic; `formula` says how they are computed."""

    name: str
    bytes: int
    formula: str


class LimitRecord(Model):
    """`limit.json`."""

    schema_version: Literal[1] = LIMIT_SCHEMA_VERSION
    dlperf_version: str
    case: Case  # with its search; holds the value found, else the smallest
    status: LimitStatus
    reason: str  # one line: what was found, or why nothing was
    trains: int | None = None  # the largest value that trained, confirmed where the status is found
    fails: int | None = None  # the smallest value that ran out of memory
    most_probes: int  # upper bound on the number of short probes
    guess: int | None = None  # the limit by the memory model; it decides nothing
    model: tuple[MemoryPart, ...] = ()  # of the memory at `trains`, else at the smallest value
    probes: tuple[ProbeRecord, ...] = ()

    @property
    def model_bytes(self) -> int:
        """The model's sum: tensors of the training alone."""
        return sum(part.bytes for part in self.model)

    @property
    def short_probes(self) -> int:
        """How many short probes there were."""
        return sum(not probe.full for probe in self.probes)


def read_limit(folder: Path) -> LimitRecord | None:
    """The record of a search; None if there is none that this dlperf can read."""
    try:
        return LimitRecord.model_validate_json((folder / LIMIT_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLimit:
    """A record and its folder."""

    folder: Path
    record: LimitRecord

    def probe_at(self, value: int) -> ProbeRecord | None:
        """The last probe of a value; one of full length comes last."""
        return next((probe for probe in reversed(self.record.probes) if probe.value == value), None)


def read_limits(results: Path, *, from_logs: bool = False) -> tuple[StoredLimit, ...]:
    """The records of all searches of a results folder, by the case's id.

    `from_logs`: with what the logs of their probes say now.
    """
    found = []
    for path in sorted((results / LIMITS_FOLDER).glob(f"*/{LIMIT_NAME}")):
        record = read_limit(path.parent)
        if record is not None:
            made = _from_logs(record, path.parent) if from_logs else record
            found.append(StoredLimit(folder=path.parent, record=made))
    return tuple(found)


def _from_logs(record: LimitRecord, folder: Path) -> LimitRecord:
    probes = tuple(
        probe_record(
            extract(folder / probe.folder).result, value=probe.value, full=probe.full, folder=probe.folder
        )
        for probe in record.probes
    )
    return record.model_copy(update={"probes": probes})


def probe_record(result: RunResult, *, value: int, full: bool, folder: str) -> ProbeRecord:
    """What the record of a search keeps of a probe's result; `folder` is seen from that of limit.json."""
    return ProbeRecord(
        value=value,
        full=full,
        attempt=result.repeat,
        status=result.status,
        reason=result.reason,
        seconds=result.seconds,
        peak_memory_bytes=result.figures.peak_memory_bytes if result.figures is not None else None,
        memory_held_by=result.memory_held_by,
        folder=folder,
    )
