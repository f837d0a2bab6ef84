"""The runs of a sweep as jobs of Slurm, one for each cell: submitted, followed, taken up again."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from dlperf.cli.options import RunOptions
from dlperf.cli.plan import duration, node_hours
from dlperf.cli.submitting import EXIT_INTERRUPTED, MOST_FRUITLESS, make_shared_environments
from dlperf.cli.terminal import echo, say, write_data
from dlperf.errors import InfrastructureError, UserError
from dlperf.layout import LOCK_NAME, SLURM_FOLDER
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan, cells_of, freeze, read_lock
from dlperf.results.store import StoredRun
from dlperf.running.cell_jobs import (
    TaskState,
    array_script,
    arrays_of,
    in_words,
    is_chained,
    open_arrays,
    pending_cells,
    record_ends,
    submit_cells,
    task_states,
)
from dlperf.running.run import mend_run_folders
from dlperf.running.run_folder import results_folder, stored_runs
from dlperf.running.slurm import UNKNOWN, NoSlurm, TooManyJobs, cancel, longest_array
from dlperf.running.slurm_job import (
    FIRST_SECONDS,
    LOG_SECONDS,
    LONGEST_SECONDS,
    UNKNOWN_SECONDS,
    Tail,
    living_job,
    submitting,
)
from dlperf.wording import plural

_SHOWN = 3  # jobs that one message names
_USUAL_ARRAY = 1000  # jobs, where no Slurm says its limit


def show_cell_jobs(plan: Plan, folder: Path, cluster: Cluster, run_options: RunOptions) -> None:
    """Print the batch scripts that would be submitted."""
    cells = pending_cells(plan, results=folder, retry_failed=run_options.retry_failed)
    try:
        longest = longest_array()
    except NoSlurm:
        say(f"note: no Slurm answers here; arrays are shown with at most {_USUAL_ARRAY} jobs")
        longest = _USUAL_ARRAY
    limit = cluster.slurm.time if cluster.slurm is not None else None
    command = _command(plan, folder, cluster, run_options)
    after = None
    for array in arrays_of(cells, longest=longest):
        nodes = array[0].nodes
        most = f" for at most {duration(limit)}: {node_hours(len(array) * nodes * limit)}" if limit else ""
        echo(f"an array of {plural(len(array), 'job')}, each with {plural(nodes, 'node')}{most}", "")
        text = array_script(array, cluster, name=plan.sweep, results=folder, command=command, after=after)
        write_data(text)
        echo("")
        after = "JOB" if is_chained(cluster) else None  # the number that the array before will have


def _command(plan: Plan, folder: Path, cluster: Cluster, run_options: RunOptions) -> list[str]:
    """What makes the runs of the cases whose names follow it."""
    program = [sys.executable, "-m", "dlperf", "cell", str(folder), f"--cluster={cluster.path}"]
    return [*program, f"--repeats={plan.repeats}", *run_options.words()]


def make_runs_in_cell_jobs(
    whole: Plan,
    folder: Path,
    cluster: Cluster,
    run_options: RunOptions,
    *,
    selected: Callable[[Plan], Plan],
) -> tuple[Plan, tuple[StoredRun, ...]]:
    """Let a job for each cell make the selected runs that are missing in `folder`; those and all results.

    Jobs that still wait or work for the folder are followed, and none is submitted for their cells. Ctrl-C
    ends the command and not the jobs. UserError where Slurm refuses a job; InfrastructureError where jobs end
    before all their runs have a result.
    """
    jobs = _CellJobs(whole=whole, folder=folder, cluster=cluster, run_options=run_options, selected=selected)
    try:
        plan = jobs.make()
    except KeyboardInterrupt:
        numbers = " ".join(job.number for job in open_arrays(folder))
        left = plural(jobs.unsubmitted, "cell is", "cells are")
        more = f"; {left} not submitted yet" if jobs.unsubmitted else ""
        say(f"jobs go on: {numbers}{more}; follow them again: {jobs.again}; end them: scancel {numbers}")
        click.get_current_context().exit(EXIT_INTERRUPTED)
    return plan, stored_runs(plan, results=folder)


@dataclass(kw_only=True)
class _CellJobs:
    """Submits the cells of a plan and follows their jobs.

    Attributes:
        unsubmitted: cells that Slurm takes only when others have ended.
    """

    whole: Plan
    folder: Path
    cluster: Cluster
    run_options: RunOptions
    selected: Callable[[Plan], Plan]
    unsubmitted: int = 0
    again: str = field(default_factory=lambda: shlex.join(["dlperf", *sys.argv[1:]]))
    _plan: Plan | None = None
    _settled: set[str] = field(default_factory=set)  # cells that are not submitted (again)
    _left: dict[str, int] = field(default_factory=dict)  # runs that a submitted cell had to make
    _fruitless: Counter[str] = field(default_factory=Counter)  # jobs of a cell that made no run
    _failed: list[TaskState] = field(default_factory=list)
    _tails: dict[str, Tail] = field(default_factory=dict)  # by job, of those that are followed
    _working: list[str] = field(default_factory=list)  # jobs that may print something
    _told: str = ""

    def make(self) -> Plan:
        """The selected plan, once no job is left; raises as `make_runs_in_cell_jobs`."""
        heard, pause, may_submit = time.monotonic(), 0.0, True  # which reads every result
        while True:
            with submitting(self.folder):
                states = self._states(heard)
                if states is not None:
                    ended = [state for state in states if not state.is_alive]
                    alive = {state.cell: state for state in states if state.is_alive}
                    record_ends(self.folder, ended)
                    may_submit |= self._take_note(ended) or not alive or bool(ended and self.unsubmitted)
                    accepted = self._submit(alive) if may_submit else 0
                    may_submit = False
                    if not alive and not accepted:
                        return self._end()
            if states is None:
                pause = LONGEST_SECONDS
            else:
                if all(state.state.state != UNKNOWN for state in alive.values()):
                    heard = time.monotonic()
                has_news = not accepted and self._tell(alive.values())
                pause = 0.0 if accepted else FIRST_SECONDS if has_news else min(2 * pause, LONGEST_SECONDS)
            self._show_logs(until=time.monotonic() + pause)

    def _states(self, heard: float) -> tuple[TaskState, ...] | None:
        """The jobs that have not ended before; None where Slurm does not answer for the moment."""
        if (held := living_job(self.folder)) is not None:
            raise UserError(
                f"job {held.number} of 'allocate: held' makes runs of {self.folder}; wait for its end, or "
                f"scancel {held.number}"
            )
        if not (jobs := open_arrays(self.folder)):
            return ()
        silent = time.monotonic() - heard > UNKNOWN_SECONDS
        try:
            states = task_states(read_lock(self.folder / LOCK_NAME), results=self.folder)
        except NoSlurm:
            if self._plan is None or silent:  # a second job could meet the first
                raise
            return None
        if silent and any(state.state.state == UNKNOWN for state in states if state.is_alive):
            numbers = " ".join(job.number for job in jobs)
            raise InfrastructureError(f"Slurm does not say what became of jobs {numbers}: is slurmctld up?")
        return states

    def _take_note(self, ended: Sequence[TaskState]) -> bool:
        """Show the last words of jobs that have ended; whether a cell of theirs gets a follow-up job."""
        follows_up = False
        for state in ended:
            tail = self._tails.pop(state.job, None)
            if tail is None:  # it ended before this command began
                continue
            self._show(state.job, tail)
            if not state.left:
                continue
            say(f"job {state.job} has left {plural(state.left, 'run')}: {state}; its output: {state.log}")
            is_fruitless = state.left >= self._left.get(state.cell, state.left + 1)
            self._fruitless[state.cell] = self._fruitless[state.cell] + 1 if is_fruitless else 0
            settings = self.cluster.slurm
            goes_on = settings is not None and settings.continue_ and state.state.may_go_on
            if goes_on and self._fruitless[state.cell] < MOST_FRUITLESS:
                self._settled.discard(state.cell)
                follows_up = True
            else:
                self._settled.add(state.cell)
                self._failed.append(state)
        return follows_up

    def _submit(self, alive: Mapping[str, TaskState]) -> int:
        """Submit the cells that have no job and runs to make; how many Slurm has taken."""
        if alive:  # they work by the frozen plan, so it stays
            plan = self.selected(read_lock(self.folder / LOCK_NAME).repeated(self.whole.repeats))
        else:
            with results_folder(self.folder):
                plan = self.selected(freeze(self.whole, self.folder))
                mend_run_folders(plan, results=self.folder, say=say)
        self._plan = plan
        cells = [
            cell
            for cell in pending_cells(plan, results=self.folder, retry_failed=self.run_options.retry_failed)
            if cell.digest not in alive and cell.digest not in self._settled
        ]
        if not cells:
            self.unsubmitted = 0
            return 0
        make_shared_environments(plan, self.cluster)
        accepted, left = 0, {cell.digest: cell.left for cell in cells}
        command = _command(plan, self.folder, self.cluster, self.run_options)
        jobs = submit_cells(cells, self.cluster, name=plan.sweep, results=self.folder, command=command)
        try:
            for job in jobs:
                accepted += len(job.tasks)
                log = self.folder / job.log.replace("%a", "*")
                say(f"job {job.number} submitted for {plural(len(job.tasks), 'cell')}; output: {log}")
                for index, task in enumerate(job.tasks):
                    self._settled.add(task.cell)
                    self._left[task.cell] = left[task.cell]
                    log = self.folder / job.log.replace("%a", str(index))
                    self._tails[f"{job.number}_{index}"] = Tail(log)
        except TooManyJobs as error:
            if not alive and not accepted:
                raise
            if not self.unsubmitted:
                say(f"{error}; the others are submitted as jobs end")
        self.unsubmitted = len(cells) - accepted
        return accepted

    def _tell(self, alive: Iterable[TaskState]) -> bool:
        """Say in one line how many cells wait, run, are done and have failed, where that has changed."""
        alive = tuple(alive)
        for state in alive:
            if state.state.waits_for_ever:
                self._refuse(state)
            self._tails.setdefault(state.job, Tail(state.log))
        self._working = [state.job for state in alive if state.state.state != "PENDING"]
        cells = len(cells_of(self._plan.runnable)) if self._plan is not None else 0
        counts = {"failed": len({state.cell for state in self._failed}), "not submitted": self.unsubmitted}
        done = max(0, cells - len(alive) - sum(counts.values()))  # jobs of other selections are alive too
        parts = [f"{done} done", *in_words(alive), *(f"{n} {name}" for name, n in counts.items() if n)]
        line = f"{plural(cells, 'cell')}: {', '.join(parts)}"
        if line == self._told:
            return False
        say(line)
        self._told = line
        return True

    def _refuse(self, waiting: TaskState) -> None:
        """Cancel an array that would wait for ever."""
        number, state = waiting.job.partition("_")[0], waiting.state
        cancel(number)
        remedy = f"; {state.remedy}" if state.remedy else ""
        raise UserError(f"job {number} would wait for ever and was cancelled: {state.reason}{remedy}")

    def _show_logs(self, *, until: float) -> None:
        """Show what jobs print until then, as time.monotonic() counts."""
        while True:
            for job in self._working:
                if job in self._tails:  # it has not ended
                    self._show(job, self._tails[job])
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOG_SECONDS))

    def _show(self, job: str, tail: Tail) -> None:
        for line in tail.lines():
            say(f"  {job}: {line}")

    def _end(self) -> Plan:
        if self._plan is None:
            raise ValueError("no plan was frozen")
        if self._failed:
            left = plural(sum(state.left for state in self._failed), "run")
            shown = "; ".join(f"job {state.job}: {state}" for state in self._failed[:_SHOWN])
            more = f"; and {len(self._failed) - _SHOWN} more" if len(self._failed) > _SHOWN else ""
            raise InfrastructureError(
                f"{plural(len(self._failed), 'job')} ended with {left} to make ({shown}{more}); "
                f"their output: {self.folder / SLURM_FOLDER}; completed runs are kept, and the same command "
                f"makes the others: {self.again}"
            )
        return self._plan
