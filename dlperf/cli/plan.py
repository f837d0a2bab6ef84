"""`dlperf plan`: what a sweep would run, shown and not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlperf.cli.selection import default_folder, sweep_options

if TYPE_CHECKING:
    from dlperf.cli.selection import SweepChoice
    from dlperf.plan.cluster import Cluster
    from dlperf.plan.plan import Plan

_EPILOG = """\b
Examples:
  dlperf plan sweeps/r100_emore.yaml
  dlperf plan r100_emore --only framework=mxnet -k 'parallelism==partial_fc and nodes==1'
  dlperf plan quickstart -P batch_size_per_device=4,8 -S measure.repeats=5 --order
  dlperf plan quickstart --commands

SWEEP is a path, or the name of a file in ./sweeps or of a sweep that ships with dlperf."""


@click.command(epilog=_EPILOG)
@sweep_options
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", show_default=True
)
@click.option("--order", is_flag=True, help="List the runs in the order in which they are made.")
@click.option("--commands", is_flag=True, help="Print the command line and environment of every process.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Where earlier results tell how long a run takes.  [default: results/SWEEP]",
)
def command(
    *,
    chosen: SweepChoice,
    form: str,
    order: bool,
    commands: bool,
    results: Path | None,
) -> None:
    """Show the cases of SWEEP, what would run and what would not and why. Nothing is run."""
    if commands and (order or form != "text"):
        raise click.UsageError("--commands is a view of its own; leave out --order and --format")
    plan = chosen.selected(chosen.plan())
    folder = results or default_folder(plan)
    if commands:
        text = _commands(plan, folder, chosen.cluster)
    else:
        text = _listing(plan, form=form, order=order, folder=folder)
    click.echo(text, nl=False)


def _commands(plan: Plan, folder: Path, cluster: Cluster | None) -> str:
    from dlperf.adapters.registry import load_adapters
    from dlperf.running.commands import commands_text

    return commands_text(plan, adapters=load_adapters(), results=folder, cluster=cluster)


def _listing(plan: Plan, *, form: str, order: bool, folder: Path) -> str:
    from dlperf.cli import plan_view as view

    if form == "csv":
        runs = [{"run": number, **run.model_dump()} for number, run in enumerate(plan.runs, 1)]
        return _as_csv(runs if order else view.plan_rows(plan, seconds=view.known_seconds(folder)))
    if form == "json":
        return _as_json(plan, view.plan_rows(plan, seconds=view.known_seconds(folder)))
    if order and not plan.runs:
        click.echo("none of these cases can run here; leave out --order to see why", err=True)
    return view.order_text(plan) if order else view.plan_text(plan, seconds=view.known_seconds(folder))


def _as_csv(rows: list[dict[str, Any]]) -> str:
    import csv
    import io
    import json

    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["case_id"], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(row | ({"options": json.dumps(row["options"])} if "options" in row else {}))
    return text.getvalue()


def _as_json(plan: Plan, rows: list[dict[str, Any]]) -> str:
    import json

    content = {
        "sweep": plan.sweep,
        "machine": plan.machine.model_dump(),
        "order": plan.order,
        "repeats": plan.repeats,
        "limits": plan.limits.model_dump(),
        "cases": rows,
        "runs": [run.model_dump() for run in plan.runs],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
