"""A job of Slurm for each cell of the grid: arrays of them are submitted, and each is followed to its end.

A cell is what is compared: cases that differ in their framework, its version, options and source alone. All
their repeats are made in one job, so that they stay interleaved. An array has one number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dlperf.errors import InfrastructureError
from dlperf.layout import SLURM_FOLDER
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan, cell_digest, cells_of
from dlperf.running.run_folder import DESERTED_LIMIT_SECONDS, cell_of_results, pending_runs, stored_runs
from dlperf.running.slurm import (
    ATTEMPTS,
    UNKNOWN,
    JobState,
    TooManyJobs,
    job_state,
    longest_array,
    require_nodes,
    script,
    tasks_in_queue,
)
from dlperf.running.slurm_job import (
    SubmittedJob,
    SubmittedTask,
    explain_runs,
    read_record,
    record_job,
    submit_script,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCell:
    """A cell with runs to make.

    Attributes:
        digest: tells cells apart.
        nodes: how many its cases need.
        cases: names of those with runs to make.
        left: how many runs.
    """

    digest: str
    nodes: int
    cases: tuple[str, ...]
    left: int


def pending_cells(plan: Plan, *, results: Path, retry_failed: bool) -> tuple[PendingCell, ...]:
    """The cells of the plan with runs to make, in its order."""
    left: dict[str, int] = {}
    for run in pending_runs(plan, results=results, retry_failed=retry_failed):
        left[run.case_id] = left.get(run.case_id, 0) + 1
    return tuple(
        PendingCell(
            digest=cell_digest(cases[0]),
            nodes=cases[0].topology.nodes,
            cases=tuple(case.case_id for case in cases),
            left=sum(left[case.case_id] for case in cases),
        )
        for cell in cells_of(plan.runnable)
        if (cases := [case for case in cell if case.case_id in left])
    )


def arrays_of(cells: Sequence[PendingCell], *, longest: int) -> tuple[tuple[PendingCell, ...], ...]:
    """The cells as arrays of at most `longest` jobs, each of one number of nodes; small ones come first."""
    arrays = []
    for nodes in sorted({cell.nodes for cell in cells}):
        alike = tuple(cell for cell in cells if cell.nodes == nodes)
        arrays += [alike[start : start + longest] for start in range(0, len(alike), longest)]
    return tuple(arrays)


def array_script(
    array: Sequence[PendingCell],
    cluster: Cluster,
    *,
    name: str,
    results: Path,
    command: Sequence[str],
    after: str | None = None,
) -> str:
    """The script of an array of cells; `command` makes the runs of the cases behind it."""
    return script(
        cluster.of_nodes(array[0].nodes),
        name=name,
        log=results.absolute() / SLURM_FOLDER / "%A_%a.log",
        command=command,
        folder=Path.cwd(),
        tasks=[" ".join(cell.cases) for cell in array],
        after=after,
    )


def is_chained(cluster: Cluster) -> bool:
    """Whether arrays start one after the other, so that no more jobs than `parallel_jobs` work at a time."""
    return cluster.slurm is not None and cluster.slurm.parallel_jobs is not None


def submit_cells(
    cells: Sequence[PendingCell], cluster: Cluster, *, name: str, results: Path, command: Sequence[str]
) -> Iterator[SubmittedJob]:
    """Submit jobs that make the cells, as many as Slurm takes, and record and give each array.

    TooManyJobs at the first that it does not take; UserError where it refuses one for another reason. With
    `parallel_jobs` an array starts when the one before has ended.
    """
    if not cells:
        return
    require_nodes(cluster.of_nodes(max(cell.nodes for cell in cells)))
    chained, living = is_chained(cluster), open_arrays(results)
    after = living[-1].number if chained and living else None
    for whole in arrays_of(cells, longest=longest_array()):
        left, size = whole, len(whole)
        while left:
            array = left[:size]
            text = array_script(array, cluster, name=name, results=results, command=command, after=after)
            tasks = tuple(SubmittedTask(cell=cell.digest, cases=cell.cases) for cell in array)
            try:
                job = submit_script(text, name=name, results=results, tasks=tasks)
            except TooManyJobs:
                # The limit may be the user's, the account's or a group's: half as many are tried.
                if size == 1:
                    raise
                size //= 2
                continue
            yield job
            after = job.number if chained else None
            left = left[size:]
            size = min(size, len(left))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """What became of a job of an array.

    Attributes:
        job: its number in Slurm, such as 12_3.
        cell: digest of its cell.
        log: file of its output.
        state: what Slurm says of it; COMPLETED, without asking, where its runs have results.
        left: runs that it has left to make.
    """

    job: str
    cell: str
    log: Path
    state: JobState
    left: int = 0

    def __str__(self) -> str:
        return str(self.state) if self.left or self.is_alive else "every run has a result"

    @property
    def is_alive(self) -> bool:
        """Whether it waits or works, as far as Slurm answers."""
        return self.state.is_alive or (self.state.state == UNKNOWN and not self.state.is_forgotten)


def task_states(plan: Plan, *, results: Path, attempts: int = ATTEMPTS) -> tuple[TaskState, ...]:
    """The jobs of arrays whose end is not recorded; NoSlurm where Slurm does not answer."""
    return tuple(
        _state(job, index, plan=plan, results=results, queue=queue, attempts=attempts)
        for job in open_arrays(results)
        for queue in [tasks_in_queue(job.number)]
        for index, task in enumerate(job.tasks)
        if task.ended is None
    )


def _state(
    job: SubmittedJob,
    index: int,
    *,
    plan: Plan,
    results: Path,
    queue: Mapping[int, JobState],
    attempts: int,
) -> TaskState:
    """Slurm is asked only about a job that has left the queue and runs to make."""
    task, number = job.tasks[index], f"{job.number}_{index}"
    state, left = queue.get(index), 0
    if state is None:
        own = plan.narrowed(frozenset(task.cases))
        left = len(pending_runs(own, results=results, retry_failed=False))
        state = job_state(number, attempts=attempts) if left else JobState(state="COMPLETED")
        # A run that was disturbed each time has a result, and only the next command makes it again.
        if state.ended_by_itself and len(stored_runs(own, results=results)) == len(own.runs):
            left = 0
    log = results / job.log.replace("%a", str(index))
    return TaskState(job=number, cell=task.cell, log=log, state=state, left=left)


def record_ends(results: Path, states: Sequence[TaskState]) -> None:
    """Record which jobs have ended, and how, first with the runs that ended with them.

    Call in `submitting`.
    """
    ended = {state.job: state for state in states if not state.is_alive}
    for job in read_record(results).jobs:
        tasks = list(job.tasks)
        for index, task in enumerate(tasks):
            state = ended.get(f"{job.number}_{index}")
            if state is None:
                continue
            if state.left:
                with (
                    suppress(InfrastructureError),
                    cell_of_results(results, task.cell, limit_seconds=DESERTED_LIMIT_SECONDS),
                ):
                    explain_runs(results, job=job, number=state.job, state=state.state, cases=task.cases)
            tasks[index] = task.model_copy(update={"ended": str(state)})
        if tuple(tasks) != job.tasks:
            record_job(results, job.model_copy(update={"tasks": tuple(tasks)}))


def open_arrays(results: Path) -> tuple[SubmittedJob, ...]:
    """The recorded arrays of a results folder with jobs whose end is not recorded."""
    jobs = read_record(results).jobs
    return tuple(job for job in jobs if any(task.ended is None for task in job.tasks))


def in_words(alive: Sequence[TaskState]) -> Iterator[str]:
    """How many jobs run, how many wait, and why."""
    waiting = [state.state for state in alive if state.state.state == "PENDING"]
    unknown = sum(state.state.state == UNKNOWN for state in alive)
    running = len(alive) - len(waiting) - unknown
    if running:
        yield f"{running} running"
    if waiting:
        reasons = ", ".join(sorted({state.reason for state in waiting} - {""}))
        yield f"{len(waiting)} waiting{f' ({reasons})' if reasons else ''}"
    if unknown:
        yield f"{unknown} of which Slurm says nothing"
