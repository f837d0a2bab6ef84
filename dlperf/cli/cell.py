"""`dlperf cell`: what a job of Slurm runs for one cell of a frozen plan."""

from pathlib import Path

import click

from dlperf.cli import options
from dlperf.cli.run import EXIT_OK, EXIT_SOME_FAILED, interruptible_runs, make_missing_runs
from dlperf.errors import UserError
from dlperf.layout import LOCK_NAME
from dlperf.plan.plan import cell_digest, read_lock
from dlperf.results.schema import Status
from dlperf.running.run_folder import cell_of_results, stored_runs

_EPILOG = """\b
Example:
  dlperf cell results/r100_emore CASE CASE --cluster gpus

Exit codes: 0 every run is ok, 2 wrong input, 3 some cases failed or could not be started,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""


@click.command(epilog=_EPILOG)
@click.argument("folder", metavar="DIR", type=options.PATH)
@click.argument("cases", metavar="CASE...", nargs=-1, required=True)
@options.CLUSTER
@click.option("--repeats", type=options.at_least(1), help="Runs per case.  [default: the plan's]")
@options.running_options(options.RETRY_FAILED, options.ON_NODES)
@click.pass_context
def command(
    ctx: click.Context,
    *,
    folder: Path,
    cases: tuple[str, ...],
    cluster_name: str | None,
    repeats: int | None,
    run_options: options.RunOptions,
) -> None:
    """Make the runs of some cases of one cell that are missing in DIR, by the plan that is frozen there.

    Others may make the runs of other cells at the same time.
    """
    frozen = read_lock(folder / LOCK_NAME)
    plan = frozen.repeated(repeats or frozen.repeats).narrowed(frozenset(cases))
    unknown = set(cases) - {case.case_id for case in plan.runnable}
    digests = {cell_digest(case) for case in plan.runnable}
    if unknown or len(digests) != 1:
        wrong = f"has no runs of {min(unknown)}" if unknown else "does not compare these cases in one cell"
        raise UserError(f"{folder / LOCK_NAME}: the plan {wrong}")
    cluster = options.cluster_of(cluster_name)
    if cluster is not None:
        cluster = cluster.of_nodes(plan.runnable[0].topology.nodes)
    with interruptible_runs(folder) as interrupts, cell_of_results(folder, *digests):
        make_missing_runs(plan, folder, cluster, run_options, interrupts=interrupts)
    stored = stored_runs(plan, results=folder)
    good = all(item.result.status is Status.OK for item in stored) and len(stored) == len(plan.runs)
    ctx.exit(EXIT_OK if good else EXIT_SOME_FAILED)
