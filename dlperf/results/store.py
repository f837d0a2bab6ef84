"""Results on disk: written whole or not at all; what cannot be read back is skipped and named."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from dlperf.errors import UserError
from dlperf.files import (
    answering,
    first_problem,
    is_newer,
    open_regular,
    read_regular,
    version_problem,
    write_atomically,
    write_document,
)
from dlperf.layout import (
    LAUNCH_NAME,
    LIMIT_NAME,
    LIMITS_FOLDER,
    LOCK_NAME,
    LOGS_FOLDER,
    OUTCOME_NAME,
    RESULT_NAME,
    STEPS_NAME,
    run_folders,
    sweep_folders,
)
from dlperf.logs.events import TRAIN, Step
from dlperf.plan.plan import Plan, read_lock
from dlperf.results.extract import extract
from dlperf.results.schema import (
    UNKNOWN_HARDWARE,
    LimitRecord,
    ProbeRecord,
    RunEnvironment,
    RunResult,
    Status,
    kinds_of_hardware,
    read_environment,
)

STEP_COLUMNS = ("step", "samples", "seconds", "kind", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A result, its run folder, the sweep folder above it, and its environment if known.

    `hardware` is equal for runs on machines of one kind.
    """

    folder: Path
    sweep: Path
    result: RunResult
    environment: RunEnvironment | None
    hardware: str = UNKNOWN_HARDWARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that cannot be read, why, and whether that is because a newer dlperf wrote it."""

    path: Path
    why: str
    is_newer: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything read, in the order of the folders' names; `sweeps` are the sweep folders."""

    runs: tuple[StoredRun, ...]
    skipped: tuple[Skipped, ...]
    sweeps: tuple[Path, ...]
    plans: Mapping[Path, Plan]  # by sweep; a folder assembled by hand has none


def store_run(folder: Path) -> RunResult:
    """Compute a run folder's result from its logs and write it there; raises as `extract`."""
    extracted = extract(folder)
    write_result(folder, extracted.result, steps=extracted.steps)
    return extracted.result


def write_result(folder: Path, result: RunResult, *, steps: Iterable[Step] = ()) -> None:
    """Write steps.csv, then result.json into an existing run folder, each whole or not at all."""
    with answering(folder / STEPS_NAME):
        write_atomically(folder / STEPS_NAME, steps_as_csv(steps))
    write_document(folder / RESULT_NAME, result, indent=2)


def steps_as_csv(steps: Iterable[Step]) -> Iterator[bytes]:
    """The series with a header, line by line; a loss that was not printed is empty, a NaN is `nan`."""
    yield (",".join(STEP_COLUMNS) + "\n").encode()
    for step in steps:
        loss = "" if step.loss is None else repr(step.loss)
        yield f"{step.step},{step.samples},{step.seconds!r},{step.kind},{loss}\n".encode()


def read_steps_csv(folder: Path, *, samples_per_iteration: int) -> list[float]:
    """Seconds per iteration of the accepted steps in `steps.csv` of a run folder; empty if it has none.

    A step of an imported log may cover several iterations.
    """
    try:
        with io.TextIOWrapper(open_regular(folder / STEPS_NAME), encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [
            float(row["seconds"]) * (samples_per_iteration / int(row["samples"]))
            for row in rows
            if row["kind"] == TRAIN
        ]
    except (OSError, ValueError, KeyError, ZeroDivisionError, csv.Error):
        return []


def read_results(*paths: Path) -> Results:
    """Every result under the paths, each a results folder or the folder of a sweep.

    A result of a newer schema and a damaged file are skipped and named in `Results.skipped`.
    """
    runs: list[StoredRun] = []
    skipped: list[Skipped] = []
    plans: dict[Path, Plan] = {}
    sweeps = sorted({sweep for path in paths for sweep in sweep_folders(path)})
    for sweep in sweeps:
        try:
            if (sweep / LOCK_NAME).is_file():
                plans[sweep] = read_lock(sweep / LOCK_NAME)
        except UserError as error:
            skipped.append(Skipped(path=sweep / LOCK_NAME, why=str(error)))
        for folder in run_folders(sweep):
            run = read_run(folder, sweep=sweep)
            if isinstance(run, StoredRun):
                runs.append(run)
            elif run is not None:
                skipped.append(run)
    kinds = kinds_of_hardware(sorted({run.hardware for run in runs}))
    return Results(
        runs=tuple(
            run if kinds[run.hardware] == run.hardware else replace(run, hardware=kinds[run.hardware])
            for run in runs
        ),
        skipped=tuple(skipped),
        sweeps=tuple(sweeps),
        plans=plans,
    )


def recompute(results: Results) -> Results:
    """The results computed again from their logs; a run whose folder gives none is skipped and named."""
    runs, lost = [], []
    for run in results.runs:
        if run.result.status is Status.NOT_MEASURED and not _was_started(run.folder):
            runs.append(run)  # nothing was started, so there are no logs
            continue
        try:
            runs.append(replace(run, result=extract(run.folder).result))
        except UserError as error:
            lost.append(Skipped(path=run.folder / RESULT_NAME, why=f"cannot be computed again: {error}"))
    return replace(results, runs=tuple(runs), skipped=(*results.skipped, *lost))


def _was_started(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAUNCH_NAME, OUTCOME_NAME, LOGS_FOLDER))


def read_run(folder: Path, *, sweep: Path) -> StoredRun | Skipped | None:
    """A run with its environment, or why it cannot be read; None where it has no result yet."""
    result = _read_result(folder)
    if not isinstance(result, RunResult):
        return result
    special = next(_special_files(folder), None)
    if special is not None:
        return Skipped(path=special, why="not a regular file")
    environment = read_environment(folder)
    hardware = environment.hardware_key if environment is not None else UNKNOWN_HARDWARE
    return StoredRun(folder=folder, sweep=sweep, result=result, environment=environment, hardware=hardware)


def _special_files(folder: Path) -> Iterator[Path]:
    """What is neither file nor folder in a run folder and its logs: a pipe, a device, a link to one."""
    for place in (folder, folder / LOGS_FOLDER):
        if not place.is_dir():
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                # The kind of an entry that is no link is known without asking for it.
                known = Path(entry) if entry.is_symlink() else entry
                if not known.is_file() and not known.is_dir():
                    yield Path(entry)


def read_result(folder: Path) -> RunResult | None:
    """The result of a run folder; None if there is none that this dlperf can read."""
    result = _read_result(folder)
    return result if isinstance(result, RunResult) else None


def _read_result(folder: Path) -> RunResult | Skipped | None:
    path = folder / RESULT_NAME
    try:
        content = read_regular(path)
        return RunResult.model_validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Skipped(path=path, why=str(error.strerror))
    except ValidationError as error:
        damage = f"damaged: {first_problem(error, not_json='not the JSON of a result')}"
        version = version_problem(content, RunResult)
        return Skipped(path=path, why=version or damage, is_newer=is_newer(content, RunResult))


def read_limit(folder: Path) -> LimitRecord | None:
    """The record of a search; None if there is none that this dlperf can read."""
    try:
        return LimitRecord.model_validate_json(read_regular(folder / LIMIT_NAME))
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
    peaks = result.figures.peaks if result.figures is not None else {}
    return ProbeRecord(
        value=value,
        full=full,
        attempt=result.repeat,
        status=result.status,
        reason=result.reason,
        seconds=result.seconds,
        **{
            name: peaks.get(name)
            for name in ("peak_memory_bytes", "peak_anonymous_bytes", "peak_device_bytes")
        },
        memory_held_by=result.memory_held_by,
        folder=folder,
    )
