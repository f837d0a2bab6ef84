"""`dlperf run`: train the cases of a sweep and store the results."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.cli.selection import default_folder, sweep_options

if TYPE_CHECKING:
    from dlperf.cli.selection import SweepChoice
    from dlperf.plan.cluster import Cluster
    from dlperf.plan.plan import Plan

_EPILOG = """\b
Examples:
  dlperf run quickstart
  dlperf run sweeps/r100_emore.yaml --dry-run
  dlperf run r100_emore --only framework=mxnet,pytorch -k 'nodes==1' --repeats 3
  dlperf run quickstart --retry-failed
  dlperf run r100_emore --cluster gpus --only nodes=1 --parallel-nodes 4

SWEEP is a path, or the name of a file in ./sweeps or of a sweep that ships with dlperf.

Starting again goes on where it ended: runs with a result are not made again, failed ones only with
--retry-failed. Ctrl-C stops the current run and all its processes and keeps what is done.

On a cluster (docs/clusters.md) a case takes whole nodes, and runs that lost one go to others, or wait.

Exit codes: 0 every run is ok, 2 wrong input, 3 some cases failed or could not be started,
5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""


@click.command(epilog=_EPILOG)
@sweep_options
@click.option(
    "--results", type=click.Path(path_type=Path), help="Where results go.  [default: results/SWEEP]"
)
@click.option(
    "--repeats", type=click.IntRange(min=1), help="Runs of each case, in place of the sweep's number."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="What each device of the CPU may take, such as 2GiB, in place of the sweep's `memory`.",
)
@click.option("--retry-failed", is_flag=True, help="Make failed runs again.")
@click.option("--dry-run", is_flag=True, help="Show the plan and every process, and run nothing.")
@click.option("--no-wait", is_flag=True, help="Fail at once where another dlperf measures there.")
@click.option(
    "--port",
    type=click.IntRange(1024, 65535),
    help="Port where the ranks of a case meet.  [default: a free one, chosen for each run]",
)
@click.option(
    "--parallel-nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many cases of one node each run at once, each on a node of the cluster.",
)
@click.option(
    "--wait-for-nodes",
    metavar="DURATION",
    default="10m",
    show_default=True,
    callback=lambda _ctx, _option, value: _seconds(value),
    help="How long runs wait for nodes of the cluster that were lost.",
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
    wait_for_nodes: float,
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
        raise click.UsageError("--parallel-nodes goes with --cluster")

    from dlperf.cli.run_sweep import Manner, run_sweep
    from dlperf.running.interrupts import Interrupted

    try:
        code = run_sweep(
            whole,
            folder,
            selected=chosen.selected,
            manner=Manner(
                cluster=chosen.cluster,
                retry_failed=retry_failed,
                wait=not no_wait,
                port=port,
                patience_seconds=wait_for_nodes,
                side_by_side=parallel_nodes,
            ),
            as_json=as_json,
            again=shlex.join(["dlperf", *(word for word in sys.argv[1:] if word != "--retry-failed")]),
        )
    except Interrupted as interrupted:
        click.echo(
            f"stopped; what is done is kept in {folder}, and starting again goes on from there", err=True
        )
        code = interrupted.exit_code
    ctx.exit(code)


def _seconds(value: str) -> float:
    from dlperf.plan.fields import seconds_of

    try:
        return float(seconds_of(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def show(plan: Plan, folder: Path, cluster: Cluster | None) -> None:
    """Print the plan, and the processes of each case's first run."""
    from dlperf.adapters.registry import load_adapters
    from dlperf.cli.plan_view import known_seconds, plan_text
    from dlperf.running.commands import commands_text

    click.echo(plan_text(plan, seconds=known_seconds(folder)))
    click.echo(commands_text(plan, adapters=load_adapters(), results=folder, cluster=cluster), nl=False)


def warn_of_misspelt_variables() -> None:
    """Name variables of the environment that look like an engine's and reach none."""
    from dlperf.running.variables import misspelt

    for name, prefix in misspelt(os.environ).items():
        click.echo(f"warning: the variable {name} reaches no engine; did you mean {prefix}...?", err=True)


def _must_be_free(port: int) -> None:
    from dlperf.errors import UserError
    from dlperf.running.places import is_free

    if not is_free(port):
        raise UserError(f"--port: {port} is taken on this machine; leave it out, and a free one is chosen")
