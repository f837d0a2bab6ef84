"""`dlperf run`: train the cases of a sweep and store the results."""

import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dlperf.adapters.registry import load_adapters
from dlperf.cli import options
from dlperf.cli.plan import duration, known_seconds, node_hours, plan_lines, warn
from dlperf.cli.progress import QuietProgress, SweepProgress
from dlperf.cli.submitting import make_runs_in_job
from dlperf.cli.submitting_cells import make_runs_in_cell_jobs, show_cell_jobs
from dlperf.cli.terminal import (
    echo,
    fold,
    print_json,
    say,
    say_in_a_signal_handler,
    table,
    wrapped,
    write_data,
)
from dlperf.errors import InfrastructureError, UserError
from dlperf.limit.run import LimitRunner
from dlperf.plan.cluster import LAST_SECONDS, Cluster
from dlperf.plan.plan import Plan, PlannedRun, cell_of, freeze
from dlperf.report.columns import ratio_cell
from dlperf.report.numbers import mebibytes, rate, span
from dlperf.report.text import plain_text
from dlperf.results.cases import CaseFigures, case_figures, cell_name, devices_in_words, standings
from dlperf.results.schema import FAILED, MADE_AGAIN, Status
from dlperf.results.store import Results, StoredLimit, StoredRun, read_limits
from dlperf.running.commands import commands_text
from dlperf.running.launch import is_free, misspelt, replaced
from dlperf.running.run import Progress, Runner, mend_run_folders
from dlperf.running.run_folder import pending_runs, results_folder, stored_runs, whole_machine
from dlperf.running.scheduler import Scheduler, require_adapters
from dlperf.running.slurm import allocation, inside, this_command
from dlperf.running.slurm_job import job_script
from dlperf.running.supervision import SIGNALS, Interrupts
from dlperf.running.transports.base import Node, each
from dlperf.running.transports.local import LocalNode
from dlperf.wording import plural

_EPILOG = """\b
Examples:
  dlperf run quickstart
  dlperf run sweeps/r100_emore.yaml --dry-run
  dlperf run r100_emore --only framework=mxnet,pytorch -k 'nodes==1' --repeats 3
  dlperf run quickstart --retry-failed
  dlperf run r100_emore --cluster gpus --only nodes=1 --parallel-nodes 4

SWEEP is a path, the name of a file in ./sweeps, or a sweep that ships with dlperf.

The same command resumes: it repeats no run that has a result, and failed runs only with --retry-failed.
Ctrl-C stops the current run with all its processes and keeps completed runs.

On a cluster (`dlperf docs clusters`) a case takes whole nodes. A run that loses a node moves to others or
waits.

Exit codes: 0 every run is ok, 2 wrong input, 3 some cases failed or could not be started,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""


@click.command(epilog=_EPILOG)
@options.SWEEP
@options.results_option("results/SWEEP")
@click.option("--repeats", type=options.at_least(1), help="Runs per case.  [default: the sweep's]")
@click.option(
    "--memory", metavar="SIZE", help="Memory budget per CPU device, such as 2GiB.  [default: the sweep's]"
)
@options.DRY_RUN
@options.running_options(options.RETRY_FAILED, options.ON_NODES)
@options.JSON
@click.pass_context
def command(
    ctx: click.Context,
    *,
    chosen: options.SweepChoice,
    results: Path | None,
    repeats: int | None,
    memory: str | None,
    dry_run: bool,
    run_options: options.RunOptions,
    as_json: bool,
) -> None:
    """Train the cases of SWEEP one after the other and store every run in the results folder."""
    more = [f"measure.repeats={repeats}"] if repeats is not None else []
    more += [f"memory={memory}"] if memory is not None else []
    if chosen.cluster is None and run_options.parallel_nodes > 1:
        raise click.UsageError("--parallel-nodes needs --cluster")
    whole = chosen.plan(*more)
    folder = results or options.default_folder(whole)
    if dry_run:
        show(chosen.selected(whole), folder, chosen.cluster, run_options)
        return
    chosen.selected(whole)  # a selection that is wrong ends here, before anything is written
    port = run_options.port
    if port is not None and chosen.cluster is None and not is_free(port):
        raise UserError(f"--port: {port} is in use on this machine; without --port a free one is chosen")
    cluster, selected = chosen.cluster, chosen.selected
    ctx.exit(run_sweep(whole, folder, cluster, run_options, selected=selected, as_json=as_json))


def show(plan: Plan, folder: Path, cluster: Cluster | None, run_options: options.RunOptions) -> None:
    """Print the plan, and the processes of each case's first run."""
    mend_run_folders(plan, results=folder, say=say, dry_run=True)
    warn(plan)
    echo(*plan_lines(plan, folder, cluster=cluster), "")
    if cluster is not None and cluster.slurm is not None and not inside():
        if cluster.allocate == "per_cell":
            show_cell_jobs(plan, folder, cluster, run_options)
            return
        if cluster.slurm.time is not None:
            limit, count = cluster.slurm.time, len(cluster.nodes)
            taken = f"{plural(count, 'node')} for at most {duration(limit)}: {node_hours(count * limit)}"
            echo(f"the job takes {taken}", "")
        write_data(job_script(cluster, name=plan.sweep, results=folder, command=this_command()))
        return
    write_data(commands_text(plan, adapters=load_adapters(), results=folder, cluster=cluster))


def run_sweep(
    whole: Plan,
    folder: Path,
    cluster: Cluster | None,
    run_options: options.RunOptions,
    *,
    selected: Callable[[Plan], Plan] = lambda plan: plan,
    as_json: bool,
) -> int:
    """Make the selected runs of a plan that are missing in `folder`, print the summary; the exit code.

    Raises as `make_runs`.
    """
    for name, prefix in misspelt(os.environ).items():
        say(f"warning: the variable {name} is read by no engine; did you mean {prefix}...?")
    for name, value in replaced(os.environ, whole.runnable).items():
        say(
            f"warning: {name}={os.environ[name]} of your environment is replaced by {value} in ranks; the "
            "option tf32 of a framework decides"
        )
    plan, stored = make_runs(whole, folder, cluster, run_options, selected=selected)
    cases = {item.case_id for item in plan.cases}
    limits = [limit for limit in read_limits(folder) if limit.record.case.case_id in cases]
    if as_json:
        print_json(summary_content(plan, stored, folder, limits))
    else:
        echo(*_summary(plan, stored, folder, limits))
    good = all(item.result.status is Status.OK for item in stored)
    return EXIT_OK if good and stored and len(stored) == len(plan.runs) else EXIT_SOME_FAILED


def _summary(
    plan: Plan, stored: Sequence[StoredRun], folder: Path, limits: Sequence[StoredLimit]
) -> Iterator[str]:
    """What became of a sweep: counts, limits, failures, the next command."""
    counts = Counter(item.result.status for item in stored)
    parts = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    yield wrapped(f"{plan.sweep}: {len(stored)} of {plural(len(plan.runs), 'run')}: {parts or 'none'}")
    again = shlex.join(["dlperf", *(word for word in sys.argv[1:] if word != "--retry-failed")])
    left_out = Counter(item.status for item in plan.cases if item.reason is not None)
    if left_out:
        known_before = ", ".join(f"{count} {status}" for status, count in left_out.items())
        yield f"cases not planned: {known_before} (why: {again} --dry-run)"
    if limits:
        yield from ("", _limits_table(limits))
    bad = [item for item in stored if item.result.status is not Status.OK]
    if bad:
        yield from ("", *_failures(bad))
    figures = _figures(plan, stored, folder)
    if any(figure.summary for figure in figures):
        yield from ("", *_answer(plan, figures), "")
    yield from _verdicts(figures)
    statuses = {item.result.status for item in bad}
    if Status.DISTURBED in statuses:
        waits = any(word.startswith("--wait-for-quiet") for word in sys.argv)
        command = again if waits else f"{again} --wait-for-quiet 10m"
        yield f"Disturbed runs have no figure. To repeat them on a quiet machine: {command}"
    if statuses & (FAILED - MADE_AGAIN):
        yield f"To retry once the cause is fixed: {again} --retry-failed"
    if stored:
        yield ""
        yield f"Next: {shlex.join(['dlperf', 'report', str(folder), '--out', 'report.md'])}"


def _figures(plan: Plan, stored: Sequence[StoredRun], folder: Path) -> list[CaseFigures]:
    """The figures of the plan's cases, in the report's order."""
    return list(case_figures(Results(runs=tuple(stored), skipped=(), sweeps=(folder,), plans={folder: plan})))


def _verdicts(figures: Sequence[CaseFigures]) -> Iterator[str]:
    """Who is the fastest of each row; rows of which the same is to be said share a line."""
    rows: dict[str, list[str]] = {}
    for figure, standing in standings(figures):
        name = f"{cell_name(figure.case)} on {devices_in_words(figure)}"
        rows.setdefault(standing.in_words(str), []).append(name)
    for words, names in rows.items():
        yield wrapped(f"{names[0] if len(names) == 1 else f'in each of {len(names)} rows'}: {words}")


_FIGURE_NUMBERS = ("batch", "classes", "runs ok", "samples/s", "min to max")


def _answer(plan: Plan, figures: Sequence[CaseFigures]) -> Iterator[str]:
    """A line per case that could run: its figure and spread, and its ratio to the first of its row."""
    first: dict[str, CaseFigures] = {}
    rows = []
    for figure in figures:
        case, summary = figure.case, figure.summary
        if figure.planned_runs == 0:
            continue
        baseline = first.setdefault(cell_of(case), figure)
        ratio = f"{case.sample_ratio:g}" if case.sample_ratio is not None else ""
        row = (
            f"{case.framework} {case.version}",
            case.workload.experiment,
            f"{case.parallelism} {ratio}".strip(),
            str(case.topology),
            figure.size("batch_size_per_device"),
            figure.size("num_classes"),
            case.precision,
            str(figure.status),
            f"{len(figure.good)} of {plan.repeats}",
            rate(summary.median) if summary else "",
            span(summary.minimum, summary.maximum) if summary else "",
            "" if figure is baseline else plain_text(ratio_cell(figure, baseline)),
        )
        rows.append(row)
    headings = (
        "framework", "experiment", "parallelism", "topology", "batch", "classes", "precision", "status",
        "runs ok", "samples/s", "min to max", "ratio to the first",
    )  # fmt: skip
    same, kept, cells = fold(headings, rows, headings[1:9])
    if same:
        yield from (wrapped(f"every case: {same}"), "")
    yield table(kept, cells, right=_FIGURE_NUMBERS)


def _failures(bad: Sequence[StoredRun]) -> Iterator[str]:
    """A block for the runs of one case that failed for the same reason, with the log that shows it."""
    groups: dict[tuple[str, str, str], list[StoredRun]] = {}
    for item in bad:
        result = item.result
        key = (result.case.case_id, str(result.status), result.reason or "")
        groups.setdefault(key, []).append(item)
    for (case_id, status, reason), items in groups.items():
        yield f"{case_id} {' '.join(f'r{item.result.repeat}' for item in items)}"
        yield f"  {status}: {reason}"
        if items[0].result.evidence:
            yield f"  {items[0].folder}/{items[0].result.evidence}"


_LIMIT_NUMBERS = ("limit", "probes", "by arithmetic (MiB)", "measured (MiB)")


def _limits_table(limits: Sequence[StoredLimit]) -> str:
    """One line per search: what was found, and the memory there by arithmetic and as measured."""
    rows = []
    for limit in limits:
        record = limit.record
        at = limit.probe_at(record.trains) if record.trains is not None else None
        cells = (
            record.case.case_id,
            str(record.trains) if record.status.value == "found" else "",
            str(len(record.probes)),
            mebibytes(record.model_bytes) if record.model else "",
            mebibytes(at.peak_anonymous_bytes or at.peak_device_bytes) if at is not None else "",
            record.reason,
        )
        rows.append(cells)
    return table(("case", *_LIMIT_NUMBERS, ""), rows, right=_LIMIT_NUMBERS)


def summary_content(
    plan: Plan, stored: Sequence[StoredRun], folder: Path, limits: Sequence[StoredLimit]
) -> dict[str, Any]:
    """The summary for programs."""
    runs = [
        {
            "case_id": item.result.case.case_id,
            "repeat": item.result.repeat,
            **item.result.model_dump(mode="json", include={"status", "reason", "evidence", "seconds"}),
            "samples_per_sec": item.result.figures.samples_per_sec if item.result.figures else None,
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
        "rows": [
            {"row": cell_name(figure.case), "fastest": standing.winner, "why": standing.in_words(str)}
            for figure, standing in standings(_figures(plan, stored, folder))
        ],
    }
    return content | ({"limits": [_limit_content(limit) for limit in limits]} if limits else {})


def _limit_content(limit: StoredLimit) -> dict[str, Any]:
    record = limit.record
    kept = {"status", "reason", "trains", "fails", "guess", "model_bytes", "probes"}
    return {
        "case_id": record.case.case_id,
        "axis": record.case.search.axis if record.case.search is not None else None,
        **record.model_dump(mode="json", include=kept),
        "folder": str(limit.folder),
    }


EXIT_OK, EXIT_SOME_FAILED = 0, 3
_QUIET_POLL_SECONDS = 2.0
_LOST_NODES_SECONDS = 600.0


def make_runs(
    whole: Plan,
    folder: Path,
    cluster: Cluster | None,
    run_options: options.RunOptions,
    *,
    selected: Callable[[Plan], Plan] = lambda plan: plan,
) -> tuple[Plan, tuple[StoredRun, ...]]:
    """Freeze the plan in `folder` and make the selected runs that are missing; those and all their results.

    A signal ends the command, with completed runs stored and no process left. DlperfError where the
    input is wrong, or the infrastructure failed.
    """
    if cluster is not None and cluster.slurm is not None and not inside():
        if cluster.allocate == "per_cell":
            return make_runs_in_cell_jobs(whole, folder, cluster, run_options, selected=selected)
        retry_failed = run_options.retry_failed
        return make_runs_in_job(whole, folder, cluster, selected=selected, retry_failed=retry_failed)
    with interruptible_runs(folder) as interrupts, results_folder(folder):
        plan = selected(freeze(whole, folder))
        reasons = Counter((item.status, item.reason) for item in plan.cases if item.reason is not None)
        for (status, reason), count in reasons.items():
            say(f"{plural(count, 'case')} {status}: {reason}")
        make_missing_runs(plan, folder, cluster, run_options, interrupts=interrupts)
    return plan, stored_runs(plan, results=folder)


@contextmanager
def interruptible_runs(folder: Path) -> Iterator[Interrupts]:
    """Signals end the runs in the block, and then the command."""
    # Slurm sends SIGUSR1 before the end of a job.
    signals = (*SIGNALS, signal.SIGUSR1) if inside() else SIGNALS
    interrupts = Interrupts(say=say_in_a_signal_handler, signals=signals)
    with options.interruptible(folder), interrupts.handled():
        yield interrupts


def make_missing_runs(
    plan: Plan,
    folder: Path,
    cluster: Cluster | None,
    run_options: options.RunOptions,
    *,
    interrupts: Interrupts,
) -> None:
    """Make the runs of a plan that are missing in a folder that the caller has locked for them."""
    mend_run_folders(plan, results=folder, say=say)
    runs = pending_runs(plan, results=folder, retry_failed=run_options.retry_failed)
    if runs:
        _make(plan, runs, folder, cluster, run_options, interrupts=interrupts)


def _make(
    plan: Plan,
    runs: Sequence[PlannedRun],
    folder: Path,
    cluster: Cluster | None,
    run_options: options.RunOptions,
    *,
    interrupts: Interrupts,
) -> None:
    adapters = load_adapters()
    require_adapters(plan, adapters)
    console = Console(stderr=True)
    shows_bar = console.is_terminal and not console.is_dumb_terminal
    parallel = run_options.parallel_nodes > 1
    progress = (QuietProgress if run_options.quiet else SweepProgress)(
        known_seconds=known_seconds(folder),
        cases=[run.case_id for run in runs],
        parallel=parallel,
        console=console if shows_bar and not parallel and not run_options.quiet else None,
    )
    with ExitStack() as held:
        limit = run_options.wait_for_nodes_seconds
        ends_at = allocation().ends_at if cluster is not None and cluster.slurm is not None else None
        nodes = _nodes(cluster, held, wait=not run_options.no_wait, limit=limit, say=progress.message)

        def scheduler_of(plan: Plan, folder: Path, progress: Progress) -> Scheduler:
            return Scheduler(
                plan=plan,
                results=folder,
                adapters=adapters,
                progress=progress,
                nodes=nodes,
                wait_for_nodes_seconds=_LOST_NODES_SECONDS if limit is None else limit,
                parallel_nodes=run_options.parallel_nodes,
                ends_at=None if ends_at is None else ends_at - LAST_SECONDS,
                known_seconds=known_seconds(folder),
            )

        limit_seconds = run_options.wait_for_quiet_seconds
        quiet = _Quiet(nodes=nodes, plan=plan, limit_seconds=limit_seconds, say=progress.message)
        quiet.say_if_busy()
        scheduler = scheduler_of(plan, folder, progress)
        scheduler.prepare(runs)
        if cluster is None:
            held.enter_context(whole_machine(wait=not run_options.no_wait, say=progress.message))
        quiet.wait()
        runner = Runner(limits=plan.limits, interrupts=interrupts, progress=progress, port=run_options.port)
        held.callback(progress.finished)
        if any(case.search is not None for case in plan.runnable):
            search = LimitRunner(
                plan=plan,
                results=folder,
                scheduler=scheduler_of,
                runner=runner,
                retry_failed=run_options.retry_failed,
            )
            search.run(runs)
        else:
            progress.planned(total=len(plan.runs), done=len(plan.runs) - len(runs))
            scheduler.run(runs, runner=runner)


def _nodes(
    cluster: Cluster | None,
    held: ExitStack,
    *,
    wait: bool,
    limit: float | None,
    say: Callable[[str], None],
) -> Sequence[Node]:
    """The nodes of the cluster, or this machine, for as long as `held` is open."""
    if cluster is None:
        return [LocalNode(report=say, in_use=held)]
    from dlperf.running.cluster import held as held_nodes  # paramiko takes its time

    return held.enter_context(held_nodes(cluster, wait=wait, say=say, limit_seconds=limit))


@dataclass(frozen=True, kw_only=True)
class _Quiet:
    """Looks whether other work keeps the nodes busy, so that it would disturb the runs of a plan."""

    nodes: Sequence[Node]
    plan: Plan
    limit_seconds: float
    say: Callable[[str], None]

    def say_if_busy(self) -> None:
        """Say which nodes are busy, and with what; takes a second."""
        busy = self._busy()
        start = "" if self.limit_seconds else "; starting anyway: --wait-for-quiet 10m would wait"
        if busy:
            self.say(f"{busy}; runs that it disturbs are marked and have no figure{start}")

    def wait(self) -> None:
        """Wait until no node is busy, or the limit has passed."""
        deadline = time.monotonic() + self.limit_seconds
        busy = self._busy() if self.limit_seconds else ""
        if not busy:
            return
        self.say(f"waiting up to {duration(self.limit_seconds)} for the other work to end")
        while busy and time.monotonic() < deadline:
            time.sleep(_QUIET_POLL_SECONDS)
            busy = self._busy() or self._busy()  # a pause of a second is not quiet yet
        self.say(f"{busy}; starting anyway" if busy else "quiet now; starting")

    def _busy(self) -> str:
        most = min((case.measure.max_interference for case in self.plan.runnable), default=1.0)
        if most == 1:  # no run is ever disturbed
            return ""

        def look(node: Node) -> str:
            with suppress(InfrastructureError):  # a lost node runs nothing
                busy = node.busy()
                if busy.exceeds(most):
                    return f"{node.name if node.remote else 'this machine'} is busy with other work: {busy}"
            return ""

        return "; ".join(filter(None, each([node for node in self.nodes if node.trouble is None], look)))
