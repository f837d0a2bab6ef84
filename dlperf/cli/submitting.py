"""The runs of a sweep as a job of Slurm: submitted, followed, taken up again by the same command."""

import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli.terminal import say
from dlperf.environments import ensure
from dlperf.errors import EnvironmentUnavailable, InfrastructureError, UserError
from dlperf.layout import LOCK_NAME
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan, freeze, read_lock
from dlperf.results.store import StoredRun
from dlperf.running.cell_jobs import open_arrays, task_states
from dlperf.running.launch import specification
from dlperf.running.run import mend_run_folders
from dlperf.running.run_folder import pending_runs, results_folder, stored_runs
from dlperf.running.scheduler import environment_name, require_adapters
from dlperf.running.slurm import JobState, this_command
from dlperf.running.slurm_job import SubmittedJob, follow, living_job, submit_job, submitting
from dlperf.wording import plural

EXIT_INTERRUPTED = 130
# A run may be longer than a job, or jobs may be preempted before any run ends.
MOST_FRUITLESS = 3


def make_runs_in_job(
    whole: Plan, folder: Path, cluster: Cluster, *, selected: Callable[[Plan], Plan], retry_failed: bool
) -> tuple[Plan, tuple[StoredRun, ...]]:
    """Let a job make the selected runs that are missing in `folder`; those and all their results.

    The job runs this very command on its first node. Where one still waits or works for the folder it is
    followed, and none is submitted. Ctrl-C ends the command and not the job. UserError where Slurm refuses
    the job; InfrastructureError where it ends before all runs have a result.
    """
    again = shlex.join(["dlperf", *sys.argv[1:]])
    before, fruitless = None, 0
    while True:
        with submitting(folder):
            job = living_job(folder)
            _require_no_arrays(folder)
            if job is not None:
                say(f"job {job.number}, submitted at {job.submitted_at}, makes these runs; following it")
            else:
                with results_folder(folder):
                    plan = selected(freeze(whole, folder))
                    mend_run_folders(plan, results=folder, say=say)
                    left = len(pending_runs(plan, results=folder, retry_failed=retry_failed))
                if left == 0:
                    return plan, stored_runs(plan, results=folder)
                fruitless = fruitless + 1 if before is not None and left >= before else 0
                if fruitless == MOST_FRUITLESS:
                    raise InfrastructureError(f"the last {fruitless} jobs made no run; `{again}` tries again")
                before = left
                make_shared_environments(plan, cluster)
                job = submit_job(cluster, name=plan.sweep, results=folder, command=this_command())
                say(f"job {job.number} submitted; its output: {folder / job.log}")
        state = _followed(job, folder, again=again)
        plan = selected(freeze(whole, folder))
        stored = stored_runs(plan, results=folder)
        # Runs that lost their node have a result, and are made again all the same.
        left = len(pending_runs(plan, results=folder, retry_failed=False))
        if left == 0 or (state.ended_by_itself and len(stored) == len(plan.runs)):
            return plan, stored
        if cluster.slurm is None or not cluster.slurm.continue_ or not state.may_go_on:
            raise InfrastructureError(
                f"job {job.number} ended with {plural(left, 'run')} to make: {state}; its output: "
                f"{folder / job.log}; completed runs are kept, and the same command makes the others: {again}"
            )
        say(f"a follow-up job makes what is left: {plural(left, 'run')}")


def _require_no_arrays(folder: Path) -> None:
    """Raise UserError where jobs of cells may still make runs of the folder."""
    jobs = open_arrays(folder)
    if jobs and any(state.is_alive for state in task_states(read_lock(folder / LOCK_NAME), results=folder)):
        numbers = " ".join(job.number for job in jobs)
        raise UserError(
            f"jobs {numbers} of 'allocate: per_cell' make runs of {folder}; wait for their end, or "
            f"scancel {numbers}"
        )


def make_shared_environments(plan: Plan, cluster: Cluster) -> None:
    """Make on this machine, which has a network, what the nodes will use; what fails is said by the job."""
    if cluster.nodes[0].environments == "make":
        return
    adapters = load_adapters()
    require_adapters(plan, adapters)
    for case in {environment_name(case): case for case in plan.runnable}.values():
        spec, python = specification(case, adapter=adapters[case.framework], plan=plan)
        if python is None:
            with suppress(EnvironmentUnavailable):
                ensure(spec, report=say)


def _followed(job: SubmittedJob, folder: Path, *, again: str) -> JobState:
    try:
        return follow(job, results=folder, say=say, show=lambda line: say(f"  {line}"))
    except KeyboardInterrupt:
        say(f"job {job.number} goes on; follow it again: {again}; end it: scancel {job.number}")
        click.get_current_context().exit(EXIT_INTERRUPTED)
