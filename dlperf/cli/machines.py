"""`dlperf doctor` and `dlperf cluster`: what is wrong with this machine, or with the nodes of a cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli import completing
from dlperf.cli.measuring import history, measure
from dlperf.cli.options import JSON, PATH, require_known
from dlperf.cli.terminal import echo, print_json, say, table
from dlperf.plan.cluster import load_cluster
from dlperf.running.condition import check_alike, check_condition, this_condition
from dlperf.running.health import HealthIssue, Level, check_machine
from dlperf.running.transports.base import NodeLost
from dlperf.running.transports.session import Refusal
from dlperf.wording import plural

if TYPE_CHECKING:
    from dlperf.running.cluster import Checkup  # loads paramiko, which `dlperf doctor` does without

EXIT_BAD = 5

_DOCTOR_EPILOG = """\b
Examples:
  dlperf doctor
  dlperf doctor --results /data/results --json

Exit codes: 0 no check is bad (ok, unknown or warnings), 5 no case could run."""


@click.command(epilog=_DOCTOR_EPILOG)
@click.option("--results", type=PATH, default=Path("results"), help="Folder where results will go.")
@JSON
@click.pass_context
def doctor(ctx: click.Context, *, results: Path, as_json: bool) -> None:
    """Check cores, load, memory, disks, limits, clocks, GPUs and tools of this machine."""
    issues = []
    for issue in chain(check_machine(results, adapters=load_adapters()), _conditions()):
        issues.append(issue)
        if not as_json:
            echo(f"{issue.level:<8} {issue.check}: {issue.text}")
    if as_json:
        print_json([asdict(issue) for issue in issues])
    ctx.exit(EXIT_BAD if any(issue.level is Level.BAD for issue in issues) else 0)


def _conditions() -> Iterator[HealthIssue]:
    condition = this_condition()
    yield from check_condition(condition)
    yield from (issue for _, issue in check_alike({"": condition}))


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

_CLUSTER_EPILOG = """\b
Examples:
  dlperf cluster check gpus
  dlperf cluster measure gpus
  dlperf cluster history gpu3
  dlperf cluster clean gpus"""


@click.group(epilog=_CLUSTER_EPILOG)
def cluster() -> None:
    """Check and measure the nodes of a cluster, and remove what dlperf left on them."""


cluster.add_command(measure)
cluster.add_command(history)


@cluster.command("check", short_help="Check every node.", epilog=_CHECK_EPILOG)
@click.argument("name", metavar="CLUSTER", shell_complete=completing.files("cluster"))
@JSON
@click.pass_context
def check(ctx: click.Context, *, name: str, as_json: bool) -> None:
    """Check connection, clock, disk, limits, GPUs, environments and links of every node of CLUSTER."""
    from dlperf.running.cluster import check_nodes, reached

    chosen = load_cluster(name)
    with reached(chosen, say=say) as nodes:
        checkups = check_nodes(nodes, chosen.nodes, adapters=load_adapters())
    if as_json:
        print_json([asdict(checkup) for checkup in checkups])
    else:
        echo(*_lines(checkups))
    ctx.exit(EXIT_BAD if any(checkup.is_bad for checkup in checkups) else 0)


@cluster.command("clean", short_help="Remove what dlperf left on the nodes.", epilog=_CLEAN_EPILOG)
@click.argument("name", metavar="CLUSTER", shell_complete=completing.files("cluster"))
@click.option("--node", "names", multiple=True, metavar="NAME", help="Only this node. Repeatable.")
@click.option(
    "--everything",
    is_flag=True,
    help="Remove environments, code and sources too; the next sweep creates them again.",
)
@JSON
@click.pass_context
def clean(ctx: click.Context, *, name: str, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """End what runs of dlperf left on the nodes of CLUSTER and remove their folders."""
    from dlperf.running.cluster import reached

    chosen = load_cluster(name)
    require_known("--node", "node", names, [node.name for node in chosen.nodes])
    wanted = tuple(node for node in chosen.nodes if not names or node.name in names)
    results: list[dict[str, object]] = []
    with reached(replace(chosen, nodes=wanted), say=say) as nodes:
        for node in nodes:
            try:
                # Environments are many files, maybe on a slow disk; a node that is lost is noticed anyway.
                done = node.ask("clean", everything=everything, limit_seconds=None)
            except (NodeLost, Refusal) as error:
                results.append({"node": node.name, "error": str(error), "killed": [], "removed": []})
                say(f"{node.name}: {error}")
                continue
            results.append({"node": node.name, "error": None, **done})
            if not as_json:
                pids = f" ({' '.join(map(str, done['killed']))})" if done["killed"] else ""
                ended = f"{plural(len(done['killed']), 'process', 'processes')} ended{pids}"
                echo(f"{node.name}: {ended}, {plural(len(done['removed']), 'folder')} removed")
    if as_json:
        print_json(results)
    ctx.exit(EXIT_BAD if any(result["error"] for result in results) else 0)


def _lines(checkups: "Sequence[Checkup]") -> Iterator[str]:
    headings = ("node", "ssh", "round trip", "clock", "Python", "cores", "disk free", "link", "GPUs", "")
    yield table(headings, map(_cells, checkups))
    lines = [
        f"{finding.level:<8} {checkup.node}: {finding.check}: {finding.text}"
        for checkup in checkups
        for finding in checkup.findings
        if finding.level is not Level.OK
    ]
    yield from ["", *lines] if lines else []


def _cells(checkup: "Checkup") -> tuple[str, ...]:
    warned = any(finding.level is Level.WARNING for finding in checkup.findings)
    return (
        checkup.node,
        checkup.place,
        _with_unit(checkup.round_trip_ms, "ms"),
        _with_unit(checkup.clock_seconds, "s"),
        checkup.python or "",
        str(checkup.cores or ""),
        "" if checkup.free_bytes is None else f"{checkup.free_bytes / 2**30:.1f} GiB",
        _with_unit(checkup.link_gbit, "Gbit/s"),
        ", ".join(checkup.gpus) or ("" if checkup.python is None else "none"),
        "bad" if checkup.is_bad else ("warning" if warned else "ok"),
    )


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g} {unit}"
