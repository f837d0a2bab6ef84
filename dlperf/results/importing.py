"""Files of logs -> run folders of a sweep folder.

A run folder is there whole or not at all. Importing the same file twice changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dlperf.errors import UserError
from dlperf.importing.archives import open_logs
from dlperf.importing.case import Facts, describe, facts_of_path, facts_of_text, join, mapped
from dlperf.results.imported import IMPORT_FILE, LOG_STEM, imported_result, parse_log, read_import
from dlperf.results.layout import repeat_of
from dlperf.results.schema import Imported
from dlperf.results.store import write_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.importing.archives import Log
    from dlperf.importing.case import Described, Fact
    from dlperf.plan.case import Case
    from dlperf.results.imported import ParsedLog
    from dlperf.results.measure import Measured
    from dlperf.results.schema import RunResult

_BLOCK = 1 << 20
_STAGING, _LOCK = ".importing-", ".import.lock"
_SUFFIXES = frozenset({".gz", ".zst", ".bz2", ".xz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What the user said.

    Attributes:
        sweep: the sweep folder that gets the runs; made where there is none.
        method: as in `Imported.method`.
        dialect: a dialect's name, or `auto`.
        told: from `--set`.
        rules: from the mapping file: pattern and facts.
        here: where the user stands.
    """

    sweep: Path
    method: str
    dialect: str
    told: Facts
    rules: Sequence[tuple[str, Facts]]
    here: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One run of a log. `is_new` is False where it was there already; `warnings` are of the log."""

    source: str
    folder: Path
    result: RunResult
    is_new: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staged:
    """A log on its way into a run folder."""

    name: str
    path: Path
    sha256: str


@contextmanager
def alone_in(sweep: Path) -> Iterator[None]:
    """Hold the sweep folder against other imports; what one that was killed left there is removed.

    A folder into which nothing was imported is not left behind.

    Raises:
        UserError: another import goes on there.
    """
    made = [folder for folder in (sweep, *sweep.parents) if not folder.exists()]
    sweep.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{sweep}: another import goes on there; wait for its end") from None
    try:
        for left in sweep.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
        _remove_empty(sweep, made)


def _remove_empty(sweep: Path, made: Sequence[Path]) -> None:
    """Remove the folders that were made, innermost first, where nothing came into them."""
    with suppress(OSError):
        (sweep / "runs").rmdir()
    if made and not (sweep / "runs").exists():
        (sweep / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # the first that is not empty ends it
            for folder in made:
                folder.rmdir()


def import_file(path: Path, instructions: Instructions) -> Iterator[Done | UserError]:
    """Import every log in the file; a log that cannot be imported gives its error and stops no other."""
    instructions.sweep.joinpath("runs").mkdir(parents=True, exist_ok=True)
    try:
        for log in open_logs(path):
            try:
                with _staged(log, path, instructions.sweep) as staged:
                    yield from _import_log(staged, instructions)
            except UserError as error:
                yield error
    except UserError as error:
        yield error


@contextmanager
def _staged(log: Log, path: Path, sweep: Path) -> Iterator[_Staged]:
    """A copy of the log beside the runs: as it is on disk, or a member of an archive by itself."""
    folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=sweep))
    try:
        suffix = path.suffix if not log.is_member and path.suffix in _SUFFIXES else ""
        copy = folder / f"{LOG_STEM}{suffix}"
        digest = hashlib.sha256()
        with log.stream if log.is_member else path.open("rb") as source, copy.open("wb") as target:
            while block := source.read(_BLOCK):
                digest.update(block)
                target.write(block)
        yield _Staged(name=log.name, path=copy, sha256=digest.hexdigest())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import_log(staged: _Staged, instructions: Instructions) -> Iterator[Done]:
    parsed = _parse(staged, instructions.dialect)
    mapping = mapped(staged.name, instructions.rules)
    facts = join(
        staged.name,
        facts_of_path(staged.name),
        facts_of_text(parsed.settings, parsed.dialect),
        instructions.told,
        mapping=mapping,
    )
    described = describe(staged.name, facts, folder=instructions.here)
    _check_ranks(parsed, described.case)
    if "topology" not in mapping:
        _check_world_size(parsed, described.case, facts["topology"])
    for run in range(len(parsed.runs)):
        imported = Imported(
            source=staged.name,
            sha256=staged.sha256,
            dialect=parsed.dialect.name,
            method=instructions.method,
            run=run,
            warmup_iterations=described.warmup_iterations,
            not_known=described.not_known,
        )
        yield _import_run(staged, parsed, described, imported, instructions.sweep)


def _parse(staged: _Staged, dialect: str) -> ParsedLog:
    for log in open_logs(staged.path):
        log.name = staged.name
        return parse_log(log, dialect=dialect)
    raise UserError(f"{staged.name}: an empty archive")


def _check_ranks(parsed: ParsedLog, case: Case) -> None:
    if parsed.highest_rank is not None and parsed.highest_rank[0] >= case.topology.world_size:
        rank, line = parsed.highest_rank
        raise UserError(
            f"{parsed.name}: contradictory topology: line {line} is of rank {rank}, "
            f"and {case.topology} has {case.topology.world_size} ranks"
        )


def _check_world_size(parsed: ParsedLog, case: Case, topology: Fact) -> None:
    """Programs count processes: one a device, or one a node that drives all its devices."""
    told, line = parsed.settings.get("world_size", (None, 0))
    if told is not None and int(told) not in {case.topology.world_size, case.topology.nodes}:
        raise UserError(
            f"{parsed.name}: contradictory topology: {topology.value} says {topology.source}, "
            f"world size {told} says line {line}; give the right one for this file in a mapping file (--map)"
        )


def _import_run(
    staged: _Staged, parsed: ParsedLog, described: Described, imported: Imported, sweep: Path
) -> Done:
    case_folder = sweep / "runs" / described.case.case_id
    known = _known_runs(case_folder)
    for repeat, other in known.items():
        if (other.sha256, other.run, other.method) == (imported.sha256, imported.run, imported.method):
            result, _measured = _result(staged, parsed, described.case, repeat, other)
            return Done(
                source=staged.name,
                folder=case_folder / f"r{repeat}",
                result=result,
                is_new=False,
                warnings=parsed.warnings,
            )
    repeat = (
        described.repeat if described.repeat is not None and imported.run == 0 else max(known, default=0) + 1
    )
    for number, other in known.items():
        if other.not_known != imported.not_known:
            raise UserError(
                f"{staged.name}: not known of it: {', '.join(imported.not_known)}; of repeat {number} of its "
                f"case ({other.source}): {', '.join(other.not_known)}; tell the same of both (--set, --map)"
            )
    if repeat in known:
        raise UserError(
            f"{staged.name}: repeat {repeat} of this case was imported from {known[repeat].source}; "
            "give another with --set repeat=N"
        )
    result, measured = _result(staged, parsed, described.case, repeat, imported)
    folder = staged.path.parent / f"r{repeat}"
    (folder / "logs").mkdir(parents=True)
    os.link(staged.path, folder / "logs" / staged.path.name)
    (folder / "case.json").write_text(described.case.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / IMPORT_FILE).write_text(imported.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_result(folder, result, steps=measured.steps)
    case_folder.mkdir(parents=True, exist_ok=True)
    target = case_folder / f"r{repeat}"
    folder.rename(target)
    return Done(source=staged.name, folder=target, result=result, is_new=True, warnings=parsed.warnings)


def _result(
    staged: _Staged, parsed: ParsedLog, case: Case, repeat: int, imported: Imported
) -> tuple[RunResult, Measured]:
    return imported_result(
        parsed, case=case, repeat=repeat, imported=imported, log_path=f"logs/{staged.path.name}"
    )


def _known_runs(case_folder: Path) -> dict[int, Imported]:
    """What was imported into a case before, by repeat."""
    known = {}
    if case_folder.is_dir():
        for folder in case_folder.iterdir():
            repeat = repeat_of(folder)
            imported = read_import(folder) if repeat is not None else None
            if repeat is not None and imported is not None:
                known[repeat] = imported
    return known
