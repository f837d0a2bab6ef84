"""`dlperf run`: train the cases of a sweep and store the results."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
from rich.table import Table
from rich.text import Text

from dlperf.adapters.registry import load_adapters
from dlperf.cli.plan import known_seconds, plan_text
from dlperf.cli.progress import progress_for_terminal
from dlperf.cli.selection import SweepChoice, default_folder, interruptible, sweep_options
from dlperf.cli.tables import limits_json, limits_table, rendered
from dlperf.errors import UserError
from dlperf.limit.run import LimitRunner
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan, PlannedRun, freeze
from dlperf.plan.sweep import seconds_of
from dlperf.results.limits import StoredLimit, read_limits
from dlperf.results.schema import Status
from dlperf.results.store import StoredRun
from dlperf.running.commands import commands_text
from dlperf.running.launch import is_free, misspelt
from dlperf.running.run import Progress, Runner
from dlperf.running.run_folder import (
    pending_runs,
    results_folder,
    stored_runs,
    whole_machine,
)
from dlperf.running.scheduler import Scheduler, require_adapters
from dlperf.running.supervision import Interrupts
from dlperf.running.transports.base import Node
from dlperf.running.transports.local import LocalNode

_EPILOG = """\b
Examples:
  dlperf run quickstart
  dlperf run sweeps/r100_emore.yaml --dry-run
  dlperf run r100_emore --only framework=mxnet,pytorch -k 'nodes==1' --repeats 3
  dlperf run quickstart --retry-failed
  dlperf run r100_emore --cluster gpus --only nodes=1 --parallel-nodes 4

SWEEP is a path, the name of a file in ./sweeps, or a sweep that ships with dlperf.

The same command resumes: runs with a result are not repeated, failed ones only with --retry-failed. Ctrl-C
stops the current run with all its processes and keeps completed runs.

On a cluster (docs/clusters.md) a case takes whole nodes; runs that lost one move to others, or wait.

Exit codes: 0 every run is ok, 2 wrong input, 3 some cases failed or could not be started,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""


@click.command(epilog=_EPILOG)
@sweep_options
@click.option(
    "--results", type=click.Path(path_type=Path), help="Where results go.  [default: results/SWEEP]"
)
@click.option("--repeats", type=click.IntRange(min=1), help="Runs per case.  [default: the sweep's]")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory budget per CPU device, such as 2GiB.  [default: the sweep's]",
)
@click.option("--retry-failed", is_flag=True, help="Repeat failed runs.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the command of every process; run nothing.")
@click.option("--no-wait", is_flag=True, help="Fail at once if another dlperf is measuring there.")
@click.option(
    "--port",
    type=click.IntRange(1024, 65535),
    help="Port on which the ranks of a case connect.  [default: a free port per run]",
)
@click.option(
    "--parallel-nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Single-node cases run in parallel, each on its own node of the cluster.",
)
@click.option(
    "--wait-for-nodes",
    "wait_for_nodes_seconds",
    metavar="DURATION",
    default="10m",
    show_default=True,
    callback=lambda _ctx, _option, value: _seconds(value),
    help="How long runs wait for lost nodes of the cluster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    chosen: SweepChoice,
    results: Path | None,
    repeats: int | None,
    memory: str | None,
    retry_failed: bool,
    dry_run: bool,
    no_wait: bool,
    port: int | None,
    parallel_nodes: int,
    wait_for_nodes_seconds: float,
    as_json: bool,
) -> None:
    """Train the cases of SWEEP, one after the other, and store every run under the results folder."""
    more = [f"measure.repeats={repeats}"] if repeats is not None else []
    more += [f"memory={memory}"] if memory is not None else []
    whole = chosen.plan(*more)
    folder = results or default_folder(whole)
    if dry_run:
        show(chosen.selected(whole), folder, chosen.cluster)
        return
    chosen.selected(whole)  # a selection that is wrong ends here, before anything is written
    warn_of_misspelt_variables()
    if port is not None and chosen.cluster is None:
        _must_be_free(port)
    if chosen.cluster is None and parallel_nodes > 1:
        raise click.UsageError("--parallel-nodes needs --cluster")

    with interruptible(folder):
        code = run_sweep(
            whole,
            folder,
            selected=chosen.selected,
            run_options=RunOptions(
                cluster=chosen.cluster,
                retry_failed=retry_failed,
                wait=not no_wait,
                port=port,
                wait_for_nodes_seconds=wait_for_nodes_seconds,
                parallel_nodes=parallel_nodes,
            ),
            as_json=as_json,
            again=shlex.join(["dlperf", *(word for word in sys.argv[1:] if word != "--retry-failed")]),
        )
    ctx.exit(code)


def _seconds(value: str) -> float:

    try:
        return float(seconds_of(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def show(plan: Plan, folder: Path, cluster: Cluster | None) -> None:
    """Print the plan, and the processes of each case's first run."""
    click.echo(plan_text(plan, seconds=known_seconds(folder)))
    click.echo(commands_text(plan, adapters=load_adapters(), results=folder, cluster=cluster), nl=False)


def warn_of_misspelt_variables() -> None:
    """Name variables of the environment that look like an engine's and reach none."""
    for name, prefix in misspelt(os.environ).items():
        click.echo(f"warning: the variable {name} is read by no engine; did you mean {prefix}...?", err=True)


def _must_be_free(port: int) -> None:

    if not is_free(port):
        raise UserError(f"--port: {port} is in use on this machine; without --port a free one is chosen")


def summary_text(
    plan: Plan,
    stored: Sequence[StoredRun],
    folder: Path,
    limits: Sequence[StoredLimit],
    *,
    again: str,
) -> str:
    """What became of a sweep: counts, limits, failures, the next command. `again` is the one that ran it."""
    counts = Counter(item.result.status for item in stored)
    parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
    lines = [f"{plan.sweep}: {len(stored)} of {len(plan.runs)} runs: {', '.join(parts) or 'none'}"]
    left_out = Counter(item.status for item in plan.cases if item.reason is not None)
    if left_out:
        known_before = ", ".join(f"{count} {status}" for status, count in left_out.items())
        lines.append(f"cases not planned: {known_before} (why: {again} --dry-run)")
    if limits:
        lines += ["", rendered(limits_table(limits)).rstrip()]
    bad = [item for item in stored if item.result.status is not Status.OK]
    if bad:
        lines += ["", rendered(_failures(bad)).rstrip()]
        if any(item.result.status is not Status.NOT_MEASURED for item in bad):
            lines.append(f"To retry once the cause is fixed: {again} --retry-failed")
    if stored:
        next_command = shlex.join(["dlperf", "report", str(folder), "--out", "report.md"])
        lines += ["", f"Next: {next_command}"]
    return "\n".join(lines) + "\n"


def _failures(bad: Sequence[StoredRun]) -> Table:
    """Runs of one case that failed for the same reason stand on one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "runs", "status", "reason", "evidence"):
        table.add_column(heading)
    groups: dict[tuple[str, str, str], list[StoredRun]] = {}
    for item in bad:
        result = item.result
        key = (result.case.case_id, str(result.status), result.reason or "")
        groups.setdefault(key, []).append(item)
    for (case_id, status, reason), items in groups.items():
        runs = " ".join(f"r{item.result.repeat}" for item in items)
        table.add_row(*map(Text, (case_id, runs, status, reason, _evidence(items[0]))))
    return table


def _evidence(item: StoredRun) -> str:
    return f"{item.folder}/{item.result.evidence}" if item.result.evidence else ""


def summary_json(plan: Plan, stored: Sequence[StoredRun], folder: Path, limits: Sequence[StoredLimit]) -> str:
    """The same as JSON."""
    runs: list[dict[str, Any]] = [
        {
            "case_id": item.result.case.case_id,
            "repeat": item.result.repeat,
            "status": item.result.status,
            "reason": item.result.reason,
            "evidence": item.result.evidence,
            "samples_per_sec": item.result.figures.samples_per_sec if item.result.figures else None,
            "seconds": item.result.seconds,
            "folder": str(item.folder),
        }
        for item in stored
    ]
    content = {
        "sweep": plan.sweep,
        "results": str(folder),
        "planned_runs": len(plan.runs),
        "counts": Counter(item.result.status for item in stored),
        "runs": runs,
        **({"limits": limits_json(limits)} if limits else {}),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


EXIT_OK, EXIT_SOME_FAILED = 0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where and how the runs are made.

    Attributes:
        cluster: its nodes; None for this machine.
        retry_failed: make failed runs again.
        wait: wait for another dlperf that measures there.
        port: where the ranks of a case meet; None for a free one each run.
        wait_for_nodes_seconds: how long runs wait for nodes that were lost.
        parallel_nodes: how many single-node runs go on at a time.
    """

    cluster: Cluster | None
    retry_failed: bool = False
    wait: bool
    port: int | None = None
    wait_for_nodes_seconds: float = 0.0
    parallel_nodes: int = 1

    @classmethod
    def for_comparison(cls, cluster: Cluster | None, *, wait: bool) -> Self:
        """One run at a time and no retries, for runs that are compared."""
        return cls(cluster=cluster, wait=wait)


def run_sweep(
    whole: Plan,
    folder: Path,
    *,
    selected: Callable[[Plan], Plan],
    run_options: RunOptions,
    as_json: bool,
    again: str,
) -> int:
    """Freeze the plan in `folder`, make the selected runs that are missing, print the summary; the exit code.

    `again` is the command that does this once more, for the summary.

    Raises:
        Interrupted: a signal; what is done is stored and nothing is left running.
        DlperfError: wrong input, or the infrastructure failed.
    """
    plan, stored = make_runs(whole, folder, selected=selected, run_options=run_options)
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
    run_options: RunOptions,
) -> tuple[Plan, tuple[StoredRun, ...]]:
    """Freeze the plan in `folder` and make the selected runs that are missing; those and all their results.

    Raises as `run_sweep`.
    """
    interrupts = Interrupts(say=_say)
    with interrupts.handled(), results_folder(folder):
        plan = selected(freeze(whole, folder))
        _say_what_is_left_out(plan)
        runs = pending_runs(plan, results=folder, retry_failed=run_options.retry_failed)
        if runs:
            _make(plan, runs, folder, run_options=run_options, interrupts=interrupts)
    return plan, stored_runs(plan, results=folder)


def _make(
    plan: Plan,
    runs: Sequence[PlannedRun],
    folder: Path,
    *,
    run_options: RunOptions,
    interrupts: Interrupts,
) -> None:
    """Make the runs where and how they are to be made."""
    adapters = load_adapters()
    require_adapters(plan, adapters)
    progress = progress_for_terminal(
        known_seconds=known_seconds(folder),
        cases=[run.case_id for run in runs],
        parallel_nodes=run_options.parallel_nodes,
    )
    with _nodes(run_options.cluster, wait=run_options.wait, say=progress.message) as nodes:

        def scheduler_of(plan: Plan, folder: Path, progress: Progress) -> Scheduler:
            return Scheduler(
                plan=plan,
                results=folder,
                adapters=adapters,
                progress=progress,
                nodes=nodes,
                wait_for_nodes_seconds=run_options.wait_for_nodes_seconds,
                parallel_nodes=run_options.parallel_nodes,
            )

        scheduler = scheduler_of(plan, folder, progress)
        scheduler.prepare(runs)
        with (
            nullcontext()
            if run_options.cluster
            else whole_machine(wait=run_options.wait, say=progress.message)
        ):
            runner = _runner(plan, interrupts, progress, port=run_options.port)
            try:
                if any(case.search is not None for case in plan.runnable):
                    limit_runner = LimitRunner(
                        plan=plan,
                        results=folder,
                        scheduler=scheduler_of,
                        runner=runner,
                        retry_failed=run_options.retry_failed,
                    )
                    limit_runner.run(runs)
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
