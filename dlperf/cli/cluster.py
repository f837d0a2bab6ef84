"""`dlperf cluster`: check the nodes of a cluster, and remove what dlperf left on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import click
from rich.table import Table
from rich.text import Text

from dlperf.cli.tables import rendered
from dlperf.errors import UserError
from dlperf.plan.cluster import load_cluster
from dlperf.plan.documents import unknown
from dlperf.running.cluster import Checkup, check_nodes, reached
from dlperf.running.health import Level
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.ssh_session import Refusal

EXIT_BAD = 5

_CHECK_EPILOG = """\b
Examples:
  dlperf cluster check gpus
  dlperf cluster check clusters/gpus.yaml --json

CLUSTER is a path, or the name of a file in ./clusters.

Exit codes: 0 ok, perhaps with warnings; 2 wrong input; 5 something would break a sweep."""

_CLEAN_EPILOG = """\b
Examples:
  dlperf cluster clean gpus
  dlperf cluster clean gpus --node gpu3 --everything

Ends only processes that a run of dlperf started, and removes only files in the working folder. Leaves a node
alone while a dlperf measures there.

Exit codes: 0 all nodes are clean, 2 wrong input, 5 a node could not be reached or is in use."""


_EPILOG = """\b
Examples:
  dlperf cluster check gpus
  dlperf cluster clean gpus"""


@click.group(epilog=_EPILOG)
def command() -> None:
    """Check the nodes of a cluster, and remove what dlperf left on them."""


@command.command("check", epilog=_CHECK_EPILOG)
@click.argument("cluster")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def check(ctx: click.Context, *, cluster: str, as_json: bool) -> None:
    """Check connection, clock, disk, cores, GPUs, environments and links of every node of CLUSTER."""
    loaded = load_cluster(cluster)
    with reached(loaded, say=lambda text: click.echo(text, err=True)) as nodes:
        checkups = check_nodes(nodes, loaded.nodes)
    if as_json:
        click.echo(json.dumps([checkup.as_json() for checkup in checkups], indent=2))
    else:
        click.echo(_text(checkups), nl=False)
    ctx.exit(EXIT_BAD if any(checkup.is_bad for checkup in checkups) else 0)


@command.command("clean", epilog=_CLEAN_EPILOG)
@click.argument("cluster")
@click.option("--node", "names", multiple=True, metavar="NAME", help="Only this node. Repeatable.")
@click.option(
    "--everything", is_flag=True, help="Remove environments and code too; the next sweep makes them again."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.pass_context
def clean(
    ctx: click.Context, *, cluster: str, names: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """End what runs of dlperf left on the nodes of CLUSTER and remove their folders."""
    loaded = load_cluster(cluster)
    known = [node.name for node in loaded.nodes]
    for name in names:
        if name not in known:
            raise UserError(f"--node: {unknown('node', name, known)}")
    chosen = tuple(node for node in loaded.nodes if not names or node.name in names)
    results: list[dict[str, object]] = []
    with reached(replace(loaded, nodes=chosen), say=lambda text: click.echo(text, err=True)) as nodes:
        for node in nodes:
            try:
                # Environments are many files, maybe on a slow disk; a node that is lost is noticed anyway.
                done = node.ask("clean", everything=everything, limit_seconds=None)
            except (NodeLost, Refusal) as error:
                results.append({"node": node.name, "error": str(error), "killed": [], "removed": []})
                click.echo(f"{node.name}: {error}", err=True)
                continue
            results.append({"node": node.name, "error": None, **done})
            if not as_json:
                pids = f" ({' '.join(map(str, done['killed']))})" if done["killed"] else ""
                ended = f"{_count(done['killed'], 'process', 'processes')} ended{pids}"
                click.echo(f"{node.name}: {ended}, {_count(done['removed'], 'folder', 'folders')} removed")
    if as_json:
        click.echo(json.dumps(results, indent=2))
    ctx.exit(EXIT_BAD if any(result["error"] for result in results) else 0)


def _count(items: Sequence[object], singular: str, plural: str) -> str:
    return f"{len(items)} {singular if len(items) == 1 else plural}"


def _text(checkups: Sequence[Checkup]) -> str:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "ssh", "round trip", "clock", "Python", "cores", "disk free", "link", "GPUs", ""):
        table.add_column(heading)
    for checkup in checkups:
        warned = any(finding.level is Level.WARNING for finding in checkup.findings)
        verdict = "bad" if checkup.is_bad else ("warning" if warned else "ok")
        cells = (
            checkup.node,
            checkup.place,
            _with_unit(checkup.round_trip_ms, "ms"),
            _with_unit(checkup.clock_seconds, "s"),
            checkup.python or "",
            str(checkup.cores or ""),
            "" if checkup.free_bytes is None else f"{checkup.free_bytes / 2**30:.1f} GiB",
            _with_unit(checkup.link_gbit, "Gbit/s"),
            ", ".join(checkup.gpus) or ("" if checkup.python is None else "none"),
            verdict,
        )
        table.add_row(*map(Text, cells))
    lines = [
        f"{finding.level:<8} {checkup.node}: {finding.check}: {finding.text}"
        for checkup in checkups
        for finding in checkup.findings
        if finding.level is not Level.OK
    ]
    return rendered(table) + "".join(f"{line}\n" for line in ["", *lines] if lines)


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g} {unit}"
