"""The course of `dlperf run`: locks, frozen plan, environments, runs, summary."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli.plan_view import known_seconds
from dlperf.cli.run_progress import progress_for_terminal
from dlperf.cli.run_summary import summary_json, summary_text
from dlperf.limit.course import LimitCourse
from dlperf.plan.lock import freeze
from dlperf.results.limits import read_limits
from dlperf.results.schema import Status
from dlperf.running.interrupts import Interrupts
from dlperf.running.locks import results_folder, whole_machine
from dlperf.running.runner import Runner
from dlperf.running.scheduler import Scheduler, must_fit
from dlperf.running.stored import pending_runs, stored_results
from dlperf.running.transports.local import LocalNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from dlperf.plan.cluster import Cluster
    from dlperf.plan.order import PlannedRun
    from dlperf.plan.plan import Plan
    from dlperf.running.progress import Progress
    from dlperf.running.stored import StoredResult
    from dlperf.running.transports.base import Node

EXIT_OK, EXIT_SOME_FAILED = 0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """Where and how the runs are made.

    Attributes:
        cluster: its nodes; None for this machine.
        retry_failed: make failed runs again.
        wait: wait for another dlperf that measures there.
        port: where the ranks of a case meet; None for a free one each run.
        patience_seconds: how long runs wait for nodes that were lost.
        side_by_side: how many runs of one node each go on at once.
    """

    cluster: Cluster | None
    retry_failed: bool
    wait: bool
    port: int | None
    patience_seconds: float
    side_by_side: int


def quiet_manner(cluster: Cluster | None, *, wait: bool) -> Manner:
    """One run at a time, and none made again: for runs that are to be compared."""
    return Manner(
        cluster=cluster, retry_failed=False, wait=wait, port=None, patience_seconds=0.0, side_by_side=1
    )


def run_sweep(
    whole: Plan,
    folder: Path,
    *,
    selected: Callable[[Plan], Plan],
    manner: Manner,
    as_json: bool,
    again: str,
) -> int:
    """Freeze the plan in `folder`, make the selected runs that are missing, print the summary; the exit code.

    `again` is the command that does this once more, for the summary.

    Raises:
        Interrupted: a signal; what is done is stored and nothing is left running.
        DlperfError: wrong input, or the infrastructure failed.
    """
    plan, stored = make_runs(whole, folder, selected=selected, manner=manner)
    cases = {item.case_id for item in plan.cases}
    limits = [limit for limit in read_limits(folder) if limit.record.case.case_id in cases]
    if as_json:
        click.echo(summary_json(plan, stored, folder, limits), nl=False)
    else:
        click.echo(summary_text(plan, stored, folder, limits, again=again), nl=False)
    good = all(item.result.status is Status.OK for item in stored)
    return EXIT_OK if good and stored and len(stored) == len(plan.runs) else EXIT_SOME_FAILED


def make_runs(
    whole: Plan,
    folder: Path,
    *,
    selected: Callable[[Plan], Plan],
    manner: Manner,
) -> tuple[Plan, tuple[StoredResult, ...]]:
    """Freeze the plan in `folder` and make the selected runs that are missing; those and all their results.

    Raises as `run_sweep`.
    """
    interrupts = Interrupts(say=_say)
    with interrupts.taken(), results_folder(folder):
        plan = selected(freeze(whole, folder))
        _say_what_is_left_out(plan)
        runs = pending_runs(plan, results=folder, retry_failed=manner.retry_failed)
        if runs:
            _make(plan, runs, folder, manner=manner, interrupts=interrupts)
    return plan, stored_results(plan, results=folder)


def _make(
    plan: Plan,
    runs: Sequence[PlannedRun],
    folder: Path,
    *,
    manner: Manner,
    interrupts: Interrupts,
) -> None:
    """Make the runs where and how they are to be made."""
    adapters = load_adapters()
    must_fit(plan, adapters)
    progress = progress_for_terminal(
        known_seconds=known_seconds(folder),
        cases=[run.case_id for run in runs],
        several=manner.side_by_side > 1,
    )
    with _nodes(manner.cluster, wait=manner.wait, say=progress.message) as nodes:

        def scheduler_of(plan: Plan, folder: Path, progress: Progress) -> Scheduler:
            return Scheduler(
                plan=plan,
                results=folder,
                adapters=adapters,
                progress=progress,
                nodes=nodes,
                patience_seconds=manner.patience_seconds,
                side_by_side=manner.side_by_side,
            )

        scheduler = scheduler_of(plan, folder, progress)
        scheduler.prepare(runs)
        with nullcontext() if manner.cluster else whole_machine(wait=manner.wait, say=progress.message):
            runner = _runner(plan, interrupts, progress, port=manner.port)
            try:
                if any(case.search is not None for case in plan.runnable):
                    course = LimitCourse(
                        plan=plan,
                        results=folder,
                        scheduler=scheduler_of,
                        runner=runner,
                        retry_failed=manner.retry_failed,
                    )
                    course.run(runs)
                else:
                    progress.planned(total=len(plan.runs), done=len(plan.runs) - len(runs))
                    scheduler.run(runs, runner=runner)
            finally:
                progress.finished()


@contextmanager
def _nodes(cluster: Cluster | None, *, wait: bool, say: Callable[[str], None]) -> Iterator[Sequence[Node]]:
    """The nodes of the cluster, held for this sweep; or this machine."""
    if cluster is None:
        with ExitStack() as in_use:
            yield [LocalNode(report=say, in_use=in_use)]
    else:
        from dlperf.running.cluster import held  # paramiko takes its time

        with held(cluster, wait=wait, say=say) as nodes:
            yield nodes


def _runner(plan: Plan, interrupts: Interrupts, progress: Progress, *, port: int | None) -> Runner:
    return Runner(limits=plan.limits, interrupts=interrupts, progress=progress, port=port)


def _say_what_is_left_out(plan: Plan) -> None:
    """One line for each reason why cases will not run, before any other does."""
    reasons = Counter((item.status, item.reason) for item in plan.cases if item.reason is not None)
    for (status, reason), count in reasons.items():
        click.echo(f"{count} case{'s' if count > 1 else ''} {status}: {reason}", err=True)


def _say(text: str) -> None:
    """Speak from a signal handler, which must not enter a write of sys.stderr that it interrupts."""
    os.write(2, f"\ndlperf: {text}\n".encode())
