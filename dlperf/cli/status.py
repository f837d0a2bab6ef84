"""`dlperf status`: how far a sweep is, from its files alone, while another dlperf works on it or after."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from dlperf.cli.options import JSON, PATH
from dlperf.cli.plan import duration, known_seconds
from dlperf.cli.progress import Estimate
from dlperf.cli.terminal import echo, print_json, say, wrapped
from dlperf.errors import UserError
from dlperf.files import open_regular
from dlperf.layout import (
    LOCK_NAME,
    RESULTS_LOCK_NAME,
    SLURM_FOLDER,
    launch_files,
    log_files,
    run_folder,
    sweep_folders,
)
from dlperf.logs.events import read_events, read_steps
from dlperf.plan.plan import Plan, PlannedRun, read_lock
from dlperf.report.numbers import rate
from dlperf.results.schema import read_environment
from dlperf.results.store import read_result
from dlperf.running.cell_jobs import in_words, task_states
from dlperf.running.slurm import UNKNOWN, NoSlurm, job_state
from dlperf.running.slurm_job import read_record
from dlperf.wording import plural

_LOCKS = Path("/proc/locks")
_TAIL_BYTES = 1 << 16  # of a log: more than the lines that are shown
_LAST_LINES = 3

_EPILOG = """\b
Examples:
  dlperf status
  dlperf status results/r100_emore
  watch -n 5 dlperf status results/r100_emore

DIR is a results folder or the folder of one sweep (default: results). Only files are read: it disturbs no
run, and works on a disk that another machine writes to. Slurm is asked about a job that has not ended.

Exit codes: 0 every run has a result, 3 some have none yet, 2 wrong input."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A run that was started and has no result yet."""

    case_id: str
    repeat: int
    nodes: tuple[str, ...]
    seconds: float  # since it was started
    steps: int
    planned_steps: int
    samples_per_sec: float | None  # of the last step
    silent_seconds: float | None  # since rank 0 printed something; None before
    last_lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """How far a sweep is."""

    sweep: str
    folder: str
    planned: int
    done: dict[str, int]  # status: runs
    running: tuple[Running, ...]
    waiting: int
    process: int | None  # that works on it on this machine
    seconds_left: float | None  # estimated from the runs that are done
    job: str | None = None  # the newest job of Slurm for it, or those of its cells, and what became of them
    job_goes_on: bool = False  # as far as Slurm answers

    @property
    def missing(self) -> int:
        """Runs without a result."""
        return self.planned - sum(self.done.values())


@click.command(epilog=_EPILOG)
@click.argument("folder", metavar="[DIR]", type=PATH, default=Path("results"))
@JSON
@click.pass_context
def command(ctx: click.Context, *, folder: Path, as_json: bool) -> None:
    """Show what is done, running and waiting in a results folder."""
    found = [
        status_of(sweep, read_lock(sweep / LOCK_NAME))
        for sweep in sorted(sweep_folders(folder))
        if (sweep / LOCK_NAME).is_file()
    ]
    if not found:
        raise UserError(f"{folder}: no sweep with a plan; `dlperf run SWEEP` makes one")
    if as_json:
        print_json([asdict(status) for status in found])
    else:
        for status in found:
            echo(*_lines(status))
    if any(status.missing and status.process is None and not status.job_goes_on for status in found):
        resumes = "`dlperf run` with the same sweep resumes it"
        say(wrapped(f"no dlperf of this machine works on what is missing; {resumes}"))
    ctx.exit(3 if any(status.missing for status in found) else 0)


def status_of(folder: Path, plan: Plan) -> SweepStatus:
    """How far the plan in the folder of a sweep is."""
    done: Counter[str] = Counter()
    running: list[Running] = []
    waiting: list[str] = []
    process = _worker(folder / RESULTS_LOCK_NAME)
    for run in plan.runs:
        where = run_folder(folder, case_id=run.case_id, repeat=run.repeat)
        result = read_result(where)
        if result is not None:
            done[str(result.status)] += 1
        elif launch_files(where):
            running.append(_running(run, where, plan))
        else:
            waiting.append(run.case_id)
    missing = [*(run.case_id for run in running), *waiting]
    job, job_goes_on = _jobs(folder, plan)
    return SweepStatus(
        sweep=plan.sweep,
        folder=str(folder),
        planned=len(plan.runs),
        done=dict(done),
        running=tuple(running),
        waiting=len(waiting),
        process=process,
        seconds_left=Estimate(known_seconds(folder), missing).left_seconds() if missing else None,
        job=job,
        job_goes_on=job_goes_on,
    )


def _jobs(folder: Path, plan: Plan) -> tuple[str | None, bool]:
    """The newest jobs in words, and whether one waits or works: as recorded, else as Slurm says at once."""
    jobs = read_record(folder).jobs
    if not jobs:
        return None, False
    if jobs[-1].tasks:
        return _jobs_of_cells(folder, plan)
    job = jobs[-1]
    name = f"job {job.number}, submitted at {job.submitted_at}"
    if job.ended is not None:
        return f"{name}: {job.ended}", False
    state = job_state(job.number, attempts=1)
    said = "no word from Slurm" if state.state == UNKNOWN else str(state)
    return f"{name}: {said}; its output: {folder / job.log}", state.is_alive


def _jobs_of_cells(folder: Path, plan: Plan) -> tuple[str, bool]:
    """The newest job of each cell."""
    newest = {task.cell: task.ended for job in read_record(folder).jobs for task in job.tasks}
    ends = Counter(ended for ended in newest.values() if ended is not None)
    try:
        states = task_states(plan, results=folder, attempts=1)
    except NoSlurm:
        parts, alive = ["no word from Slurm about the others"], []
    else:
        alive = [state for state in states if state.is_alive]
        parts = list(in_words(alive))
        ends.update(str(state) for state in states if not state.is_alive)
    parts += [f"{count} ended: {ended}" for ended, count in ends.items()]
    said = f"jobs of {plural(len(newest), 'cell')}: {'; '.join(parts)}; output: {folder / SLURM_FOLDER}"
    return said, any(state.state.is_alive for state in alive)


def _running(run: PlannedRun, folder: Path, plan: Plan) -> Running:
    (case,) = [case for case in plan.runnable if case.case_id == run.case_id]
    log = log_files(folder).get(0)
    lines = _tail(log) if log is not None else []
    steps = read_steps(read_events(lines))
    environment = read_environment(folder)
    now = time.time()
    return Running(
        case_id=run.case_id,
        repeat=run.repeat,
        nodes=tuple(node.host for node in environment.nodes) if environment is not None else (),
        seconds=max(0.0, now - min(path.stat().st_mtime for path in launch_files(folder))),
        steps=steps[-1].step + 1 if steps else 0,
        planned_steps=case.measure.warmup_iterations + case.measure.measured_iterations,
        samples_per_sec=steps[-1].samples / steps[-1].seconds if steps else None,
        silent_seconds=max(0.0, now - log.stat().st_mtime) if log is not None else None,
        last_lines=tuple(lines[-_LAST_LINES:]),
    )


def _tail(log: Path) -> list[str]:
    """The last whole lines of a log that another process may be writing."""
    try:
        with open_regular(log) as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[1:] if size > _TAIL_BYTES else lines


def _worker(lock: Path) -> int | None:
    """The process of this machine that holds the lock of a results folder; None where none does.

    /proc/locks says it without locking, which could turn away a dlperf that starts at this moment.
    """
    try:
        file = lock.stat()
        rows = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE PROCESS MAJOR:MINOR:INODE START END; "->" begins one that waits.
    holders = {
        row[5]: int(row[4])
        for row in rows
        if row[1] == "FLOCK" and row[5].rpartition(":")[2] == str(file.st_ino)
    }
    exact = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    # Some file systems, such as btrfs, show another device there than to stat.
    return holders.get(exact) or (next(iter(holders.values())) if len(holders) == 1 else None)


def _lines(status: SweepStatus) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in status.done.items())
    done = f"{status.planned - status.missing} of {plural(status.planned, 'run')} done"
    parts = [f"{done} ({counts})" if counts else done]
    if status.running:
        parts.append(f"{len(status.running)} {'running' if status.process else 'started'}")
    if status.waiting:
        parts.append(f"{status.waiting} waiting")
    if status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    if status.process is not None:
        parts.append(f"process {status.process} works on it")
    yield wrapped(f"{status.sweep} ({status.folder}): {', '.join(parts)}")
    if status.job is not None:
        yield wrapped(f"  {status.job}")
    for run in status.running:
        where = f" on {', '.join(run.nodes)}" if run.nodes else ""
        speed = f", {rate(run.samples_per_sec)} samples/s" if run.samples_per_sec is not None else ""
        yield f"  {run.case_id} r{run.repeat}{where}"
        silent = f"; last output {duration(run.silent_seconds)} ago" if run.silent_seconds is not None else ""
        since = f"    since {duration(run.seconds)}: step {run.steps} of {run.planned_steps}{speed}{silent}"
        yield wrapped(since, indent=4)
        yield from (f"    | {line}" for line in run.last_lines)
