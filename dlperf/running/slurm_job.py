"""The job that makes the runs of a results folder: submitted once, followed from anywhere, kept in a file.

`slurm.json` in the results folder holds the jobs, the newest last. What a job does is read from the results
and from its log alone; Slurm says why it waits and how it ended.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from filelock import FileLock
from pydantic import Field

from dlperf.errors import UserError
from dlperf.files import answering, read_document, write_atomically, write_document
from dlperf.layout import CASE_NAME, RESULT_NAME, SLURM_FOLDER, run_folders
from dlperf.model import Model
from dlperf.plan.cluster import Cluster
from dlperf.running.run import store_taken_away
from dlperf.running.run_folder import DESERTED_LIMIT_SECONDS, results_folder
from dlperf.running.slurm import (
    UNKNOWN,
    JobState,
    NoSlurm,
    cancel,
    job_named,
    job_state,
    require_nodes,
    script,
    submit,
)

_RECORD_NAME: Final = "slurm.json"
_LOCK_NAME: Final = "submit.lock"
LOG_SECONDS: Final = 1.0
_SUBMIT_SECONDS: Final = 30.0
# Between questions to Slurm, which asks not to be asked often: the first while something happens.
FIRST_SECONDS, LONGEST_SECONDS = 2.0, 10.0
# Slurm's controller may be away for a while, as when it is restarted.
UNKNOWN_SECONDS: Final = 120.0


class SubmittedTask(Model):
    """A job of an array: it makes runs of one cell."""

    cell: str
    """The cell: 12 hexadecimal digits of SHA-256 over what its cases have in common."""
    cases: tuple[str, ...]
    """Names of the cases whose runs it makes."""
    ended: str | None = None
    """How it ended, in words; null while that is not known."""


class SubmittedJob(Model):
    """A job, or an array of jobs, that was submitted."""

    number: str
    """Slurm's number of the job."""
    submitted_at: str
    """When, in ISO 8601."""
    log: str
    """File of its output, below the results folder; `%a` stands for the number of a job in its array."""
    ended: str | None = None
    """How it ended, in words; null while that is not known, and of an array."""
    tasks: Annotated[tuple[SubmittedTask, ...], Field(exclude_if=lambda tasks: not tasks)] = ()
    """The jobs of an array by their numbers in it, from 0; not written of a single job."""


class AskedJob(Model):
    """A job that sbatch was asked for."""

    name: str
    """Its name in Slurm, which no other job has."""
    asked_at: str
    """When, in ISO 8601."""
    tasks: Annotated[tuple[SubmittedTask, ...], Field(exclude_if=lambda tasks: not tasks)] = ()
    """The jobs of an array; not written of a single job."""


class JobRecord(Model):
    """`slurm.json`: the jobs of a results folder."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    jobs: tuple[SubmittedJob, ...] = ()
    """The jobs, the newest last."""
    asked: AskedJob | None = None
    """A further job, from before sbatch is asked for it until its number is among `jobs`; null otherwise."""


def read_record(results: Path) -> JobRecord:
    """The jobs of a results folder; UserError where the file is no record."""
    path = results / _RECORD_NAME
    if not path.exists():
        return JobRecord()
    remedy = "remove the file; `squeue --me` lists your jobs"
    return read_document(path, JobRecord, kind="record of Slurm jobs", remedy=remedy)


@contextmanager
def submitting(results: Path) -> Iterator[None]:
    """Let no second command submit a job for the folder meanwhile: it waits."""
    with answering(results):
        (results / SLURM_FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(results / SLURM_FOLDER / _LOCK_NAME):
        yield


def living_job(results: Path) -> SubmittedJob | None:
    """The last job, no array, of a results folder if Slurm still has it; None where it has ended or was none.

    NoSlurm where Slurm does not say: another job could meet it. Call in `submitting`.
    """
    record = read_record(results)
    if record.asked is not None:
        record = _with_asked(record, record.asked)
        _write_record(results, record)
    jobs = [job for job in record.jobs if not job.tasks]
    if not jobs or jobs[-1].ended is not None:
        return None
    job = jobs[-1]
    state = job_state(job.number)
    if state.state == UNKNOWN and not state.is_forgotten:
        raise NoSlurm(f"Slurm does not say what became of job {job.number}: is slurmctld up?")
    if state.is_alive:
        return job
    _record_end(results, job, state)
    return None


def _with_asked(record: JobRecord, asked: AskedJob) -> JobRecord:
    """The record with the job that a command had asked for when it was killed, if Slurm has it."""
    # sbatch may outlive the command for a moment.
    settled = datetime.fromisoformat(asked.asked_at) + timedelta(seconds=_SUBMIT_SECONDS)
    while (number := job_named(asked.name)) is None and datetime.now(UTC) < settled:
        time.sleep(LOG_SECONDS)
    return JobRecord(jobs=record.jobs) if number is None else _with_number(record, asked, number)


def _with_number(record: JobRecord, asked: AskedJob, number: str) -> JobRecord:
    log = f"{SLURM_FOLDER}/{number}{'_%a' if asked.tasks else ''}.log"
    job = SubmittedJob(number=number, submitted_at=asked.asked_at, log=log, tasks=asked.tasks)
    return JobRecord(jobs=(*record.jobs, job))


def job_script(cluster: Cluster, *, name: str, results: Path, command: Sequence[str]) -> str:
    """The script of the job that `submit_job` submits."""
    log = results.absolute() / SLURM_FOLDER / "%j.log"
    return script(cluster, name=name, log=log, command=command, folder=Path.cwd())


def submit_job(cluster: Cluster, *, name: str, results: Path, command: Sequence[str]) -> SubmittedJob:
    """Submit `command` as a job and record it. UserError where Slurm refuses it."""
    require_nodes(cluster)
    text = job_script(cluster, name=name, results=results, command=command)
    return submit_script(text, name=name, results=results)


def submit_script(
    text: str, *, name: str, results: Path, tasks: tuple[SubmittedTask, ...] = ()
) -> SubmittedJob:
    """Submit a script and record it as a job, or as an array of `tasks`; raises as `submit`."""
    path = results / SLURM_FOLDER / "job.sh"
    with answering(results):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    record, now = read_record(results), datetime.now(UTC).isoformat(timespec="seconds")
    own = f"dlperf-{name}-{secrets.token_hex(4)}".replace(",", "_")  # squeue takes names with commas between
    asked = AskedJob(name=own, asked_at=now, tasks=tasks)
    _write_record(results, record.model_copy(update={"asked": asked}))
    try:
        number = submit(path, name=asked.name)
    except NoSlurm:  # it may have the job all the same
        raise
    except UserError:
        _write_record(results, record)
        raise
    record = _with_number(record, asked, number)
    _write_record(results, record)
    return record.jobs[-1]


def _record_end(results: Path, job: SubmittedJob, state: JobState) -> None:
    """Record how a job ended, first with the runs that ended with it. Call in `submitting`."""
    if read_record(results).jobs[-1].number == job.number:  # else a later job may be making them
        with suppress(UserError), results_folder(results, limit_seconds=DESERTED_LIMIT_SECONDS):
            explain_runs(results, job=job, number=job.number, state=state)
    record_job(results, job.model_copy(update={"ended": str(state)}))


def explain_runs(
    results: Path, *, job: SubmittedJob, number: str, state: JobState, cases: Collection[str] | None = None
) -> None:
    """Store why runs of a job (of these cases) have no figure, where its end from outside ended them.

    Runs that somebody's scancel or a failure of the command ended have no result.
    """
    reason, since = state.run_reason, datetime.fromisoformat(job.submitted_at).timestamp()
    if reason is None:
        return
    for folder in run_folders(results):
        case = folder / CASE_NAME
        is_under_way = case.exists() and not (folder / RESULT_NAME).exists()
        if is_under_way and case.stat().st_mtime >= since and (cases is None or folder.parent.name in cases):
            store_taken_away(folder, reason=reason, detail=f"job {number}: {state}")


def record_job(results: Path, job: SubmittedJob) -> None:
    """Write a job into the record, in the place of what it said of it."""
    record = read_record(results)
    jobs = {known.number: known for known in record.jobs} | {job.number: job}
    _write_record(results, record.model_copy(update={"jobs": tuple(jobs.values())}))


def _write_record(results: Path, record: JobRecord) -> None:
    with answering(results):
        write_document(results / _RECORD_NAME, record)


@dataclass
class Tail:
    """What a growing file has that was not shown yet."""

    path: Path
    position: int = 0

    def lines(self) -> list[str]:
        """The whole lines that are new."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                data = stream.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return whole.decode(errors="replace").splitlines()


def follow(
    job: SubmittedJob, *, results: Path, say: Callable[[str], None], show: Callable[[str], None]
) -> JobState:
    """Wait for the end of a job.

    `say` gets what Slurm says of it when that changes, `show` the lines of its log. UserError where it would
    wait for ever.
    """
    tail, told, heard = Tail(results / job.log), "", time.monotonic()
    pause = 0.0
    while True:
        state = job_state(job.number)
        now = time.monotonic()
        heard = heard if state.state == UNKNOWN else now
        pause = min(2 * pause, LONGEST_SECONDS)
        if str(state) != told and state.state != UNKNOWN:
            say(f"job {job.number}: {state}")
            told, pause = str(state), FIRST_SECONDS
        is_over = not state.is_alive and state.state != UNKNOWN
        if state.waits_for_ever:
            cancel(job.number)
            record_job(results, job.model_copy(update={"ended": f"cancelled: {state}"}))
            remedy = f"; {state.remedy}" if state.remedy else ""
            raise UserError(f"job {job.number} would wait for ever and was cancelled: {state.reason}{remedy}")
        if is_over or state.is_forgotten or now - heard > UNKNOWN_SECONDS:
            for line in tail.lines():
                show(line)
            with submitting(results):
                _record_end(results, job, state)
            return state
        while time.monotonic() < now + pause:
            for line in tail.lines():
                show(line)
                pause = FIRST_SECONDS
            time.sleep(LOG_SECONDS)
