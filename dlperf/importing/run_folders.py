"""Files of foreign logs -> run folders of a sweep folder.

A run folder is complete or absent. Importing the same file twice changes nothing.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from dlperf.errors import UserError
from dlperf.files import write_atomically, write_document
from dlperf.importing.archives import Log, open_log, open_logs
from dlperf.importing.case import (
    Described,
    Fact,
    Facts,
    Rule,
    describe,
    facts_of_path,
    facts_of_text,
    join,
    mapped,
)
from dlperf.importing.convert import EVENT_LOG, ParsedLog, convert, parse_log
from dlperf.importing.reader import BINARY, looks_binary
from dlperf.importing.records import RANK
from dlperf.layout import CASE_NAME, IMPORT_NAME, LOGS_FOLDER, OUTCOME_NAME, RUNS_FOLDER, repeat_of, run_name
from dlperf.plan.case import Case
from dlperf.results.extract import extract, read_import
from dlperf.results.schema import Imported, RunResult
from dlperf.results.store import store_run

_BLOCK = 1 << 20
_STAGING, _LOCK = ".importing-", ".import.lock"
_LOG_STEM = "imported.log"
_SUFFIXES = frozenset({".gz", ".zst", ".bz2", ".xz"})
# No one watched the run: how it ended is in its log alone.
_OUTCOME = b'{"schema_version": 1, "reason": "unknown"}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What the user said."""

    sweep: Path  # the folder that gets the runs; created if missing
    method: str  # as in `Imported.method`
    dialect: str  # its name, or `auto`
    settings: Facts  # from `--set`
    rules: Sequence[Rule]  # from the mapping file
    here: Path  # the working directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One run of a log. `is_new` is False where it was imported before; `warnings` are about the log."""

    source: str
    folder: Path
    result: RunResult
    is_new: bool
    warnings: tuple[str, ...]


def files_of(paths: Sequence[Path], *, results: Path) -> Iterator[Path | UserError]:
    """The files themselves, and all files in folders, by name; an error for a folder that cannot be read.

    Hidden files, results of dlperf, and pipes and the like are skipped. UserError where a path is itself a
    folder of results.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        if _is_of_results(path, results):
            raise UserError(f"{path}: results of dlperf already; `dlperf results {path}` lists them")
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(path, onerror=unreadable.append):
            here = Path(folder)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and not _is_of_results(here / name, results)
            )
            found = (here / name for name in sorted(files) if not name.startswith("."))
            yield from (file for file in found if file.is_file() or not file.exists())
        for error in unreadable:
            yield UserError(f"{error.filename}: cannot be read: {error.strerror}")


def _is_of_results(folder: Path, results: Path) -> bool:
    has_runs = any(folder.glob(f"{RUNS_FOLDER}/*/r*/{CASE_NAME}"))
    return has_runs or (results.exists() and folder.samefile(results))


@contextmanager
def alone_in(sweep: Path) -> Iterator[None]:
    """Lock the sweep folder against other imports, UserError where one is running there.

    The remains of an import that was killed are removed, and so is a folder into which nothing was imported.
    """
    created = [folder for folder in (sweep, *sweep.parents) if not folder.exists()]
    sweep.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{sweep}: another import is running there; wait for its end") from None
    try:
        for left in sweep.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
        with suppress(OSError):
            (sweep / RUNS_FOLDER).rmdir()
        if created and not (sweep / RUNS_FOLDER).exists():
            (sweep / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # the first that is not empty ends it
                for folder in created:
                    folder.rmdir()


def import_file(path: Path, instructions: Instructions) -> Iterator[Done | UserError]:
    """Import every log in the file; a log that cannot be imported yields its error and stops no other."""
    instructions.sweep.joinpath(RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        for log in open_logs(path):
            mapping = mapped(log.name, instructions.rules)
            try:
                with _staged(log, path, instructions.sweep) as copy:
                    yield from _import_log(log.name, copy, instructions, mapping=mapping)
            except UserError as error:
                yield error
    except UserError as error:
        yield error


@contextmanager
def _staged(log: Log, path: Path, sweep: Path) -> Iterator[Path]:
    """A copy of the log beside the runs: a file as it is on disk, or a member of an archive by itself."""
    if looks_binary(log.start()):
        raise UserError(f"{log.name}: {BINARY}")
    suffix = path.suffix if not log.is_member and path.suffix in _SUFFIXES else ""
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=sweep, ignore_cleanup_errors=True) as folder:
        copy = Path(folder, f"{_LOG_STEM}{suffix}")
        with log.stream if log.is_member else path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        yield copy


def _import_log(name: str, copy: Path, instructions: Instructions, *, mapping: Facts) -> Iterator[Done]:
    """Every run in one log; `name` is for people, `copy` is the log beside the runs."""
    with copy.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        parsed = parse_log(open_log(name, stream), dialect=instructions.dialect)
    facts = join(
        name,
        facts_of_path(name),
        facts_of_text(parsed.settings, parsed.dialect),
        instructions.settings,
        mapping=mapping,
    )
    described = describe(name, facts, folder=instructions.here)
    _check_ranks(parsed, described.case)
    if "topology" not in mapping:
        _check_world_size(parsed, described.case, facts["topology"])
    for run, records in enumerate(parsed.runs):
        imported = Imported(
            source=name,
            sha256=sha256,
            log=f"{LOGS_FOLDER}/{copy.name}",
            dialect=parsed.dialect.name,
            method=instructions.method,
            run=run,
            lines=(int(records.line.min()), int(records.line.max())) if len(records) else None,
            warmup_iterations=described.warmup_iterations,
            not_known=described.not_known,
        )
        yield _import_run(copy, parsed, described, imported, instructions.sweep)


def _check_ranks(parsed: ParsedLog, case: Case) -> None:
    for records in parsed.runs:
        beyond = records.take(records.values[:, RANK] >= case.topology.world_size)  # false where not given
        if len(beyond):
            raise UserError(
                f"{parsed.name}: topology: line {beyond.line[0]} is of rank {beyond.values[0, RANK]:.0f}, "
                f"and {case.topology} has {case.topology.world_size} ranks"
            )


def _check_world_size(parsed: ParsedLog, case: Case, topology: Fact) -> None:
    """Programs count processes: one per device, or one per node that drives all its devices."""
    world_size, line = parsed.settings.get("world_size", (None, 0))
    if world_size is not None and int(world_size) not in {case.topology.world_size, case.topology.nodes}:
        raise UserError(
            f"{parsed.name}: topology: {topology.source} says {topology.value}, "
            f"line {line} says world size {world_size}; give the right one for this file in a mapping file "
            "(--map)"
        )


def _import_run(copy: Path, parsed: ParsedLog, described: Described, imported: Imported, sweep: Path) -> Done:
    case_folder = sweep / RUNS_FOLDER / described.case.case_id
    known = _known_runs(case_folder)
    same = [repeat for repeat, other in known.items() if _identity(other) == _identity(imported)]
    if same:
        target = case_folder / run_name(same[0])
        result = extract(target).result
    else:
        repeat = _repeat(described, imported, known)
        target, folder = case_folder / run_name(repeat), copy.parent / run_name(repeat)
        (folder / LOGS_FOLDER).mkdir(parents=True)
        os.link(copy, folder / imported.log)
        write_document(folder / CASE_NAME, described.case, indent=2)
        write_document(folder / IMPORT_NAME, imported, indent=2)
        write_atomically(folder / OUTCOME_NAME, _OUTCOME)
        lines = convert(parsed, case=described.case, imported=imported)
        write_atomically(folder / EVENT_LOG, (line.encode() for line in lines))
        result = store_run(folder)
        case_folder.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    return Done(
        source=imported.source, folder=target, result=result, is_new=not same, warnings=parsed.warnings
    )


def _identity(imported: Imported) -> tuple[str, int, str]:
    return imported.sha256, imported.run, imported.method


def _repeat(described: Described, imported: Imported, known: dict[int, Imported]) -> int:
    """The number of a new run within its case; UserError where it cannot stand beside the other runs."""
    source = imported.source
    for number, other in known.items():
        if other.not_known != imported.not_known:
            raise UserError(
                f"{source}: not known of it: {', '.join(imported.not_known)}; of repeat {number} of its "
                f"case ({other.source}): {', '.join(other.not_known)}; say the same about both (--set, --map)"
            )
    if described.repeat is None or imported.run > 0:
        return max(known, default=0) + 1
    if described.repeat in known:
        raise UserError(
            f"{source}: repeat {described.repeat} of this case was imported from "
            f"{known[described.repeat].source}; give another with --set repeat=N"
        )
    return described.repeat


def _known_runs(case_folder: Path) -> dict[int, Imported]:
    """What was imported into a case before, by repeat."""
    known = {}
    for folder in case_folder.iterdir() if case_folder.is_dir() else ():
        repeat = repeat_of(folder)
        if repeat is not None and (imported := read_import(folder)) is not None:
            known[repeat] = imported
    return known
