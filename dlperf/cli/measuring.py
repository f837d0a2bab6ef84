"""`dlperf cluster measure` and `dlperf cluster history`: what nodes can do, and what happened to one."""

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlperf.cli import completing
from dlperf.cli.options import JSON, PATH, at_least
from dlperf.cli.terminal import echo, print_json, say, say_in_a_signal_handler, table, wrapped
from dlperf.compare.sets import BASELINES
from dlperf.errors import UserError
from dlperf.layout import MEASUREMENT_NAME, MEASUREMENTS_FOLDER
from dlperf.logs.events import Step
from dlperf.plan.case import Case, bytes_of
from dlperf.plan.cluster import Cluster, load_cluster
from dlperf.plan.documents import unknown
from dlperf.plan.machine import detect_machine
from dlperf.report.measurement import headline, measurement_tables
from dlperf.report.text import Table, plain_text
from dlperf.results.measurement import (
    ABILITIES,
    Measurement,
    is_measurement,
    measurements_below,
    read_machine_baseline,
    read_measurement,
)
from dlperf.results.node_history import node_history
from dlperf.results.outliers import Finding, Judgement, judge_change, judge_equals, judge_reference
from dlperf.results.schema import RunResult
from dlperf.results.store import read_results
from dlperf.wording import plural

if TYPE_CHECKING:
    from dlperf.running.transports.base import Node

EXIT_NAMED, EXIT_SOME_MISSING = 1, 3
_STARTS_SECONDS, _HEARTBEAT_SECONDS = 10, 60.0

_MEASURE_EPILOG = """\b
Examples:
  dlperf cluster measure gpus
  dlperf cluster measure gpus --against h100 --data /data/faces
  dlperf cluster measure --repeats 3
  dlperf report results/measurements/gpus/20261201-101500 --out gpus.md

CLUSTER is a path, or the name of a file in ./clusters; without it this machine is measured alone.

Exit codes: 0 nothing is named, 1 a device, node or link is, 2 wrong input, 3 a node was not measured, 5
infrastructure, 130 Ctrl-C."""


def margins_of(texts: Sequence[str]) -> dict[str, float]:
    """`METRIC=PERCENT` as fractions by metric; UserError for another one."""
    margins = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in ABILITIES:
            raise UserError(f"--margin: {unknown('metric', name, ABILITIES)}")
        try:
            percent = float(value.strip().removesuffix("%"))
        except ValueError:
            percent = -1.0
        if not 0 < percent < 100:  # noqa: PLR2004 - percent
            raise UserError(f"--margin {text}: write a percentage, such as --margin {name}=5%")
        margins[name] = percent / 100
    return margins


@click.command("measure", short_help="Measure devices, disks and links.", epilog=_MEASURE_EPILOG)
@click.argument("name", required=False, metavar="[CLUSTER]", shell_complete=completing.files("cluster"))
@click.option("--repeats", type=at_least(1), default=5, help="How often everything is measured, in turns.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05, max=60),
    default=1.0,
    help="Seconds of each measurement in each repeat.",
)
@click.option(
    "--parallel-nodes",
    type=at_least(1),
    help="Nodes that measure at the same time; 1 where they share a machine or a disk.  [default: all]",
)
@click.option("--data", metavar="PATH", help="Also read files of this folder on every node.")
@click.option("--disk", metavar="SIZE", default="256MiB", help="Size of the file that is written and read.")
@click.option("--python", type=PATH, help="Interpreter with PyTorch on the nodes.  [default: dlperf's own]")
@click.option("--against", metavar="NAME", help="Also compare with this baseline of good machines.")
@click.option(
    "--margin",
    "margins",
    multiple=True,
    metavar="METRIC=PERCENT",
    help="Smallest difference that counts, such as disk_read=40%. Repeatable.",
)
@click.option("--no-wait", is_flag=True, help="Fail at once if another dlperf is measuring there.")
@click.option(
    "--results",
    type=PATH,
    help="Folder of this measurement.  [default: results/measurements/CLUSTER/TIME]",
)
@JSON
@click.pass_context
def measure(
    ctx: click.Context,
    *,
    name: str | None,
    repeats: int,
    seconds: float,
    parallel_nodes: int | None,
    data: str | None,
    disk: str,
    python: Path | None,
    against: str | None,
    margins: tuple[str, ...],
    no_wait: bool,
    results: Path | None,
    as_json: bool,
) -> None:
    """Measure every node of CLUSTER and every link between them, and name what is worse than its equals.

    Takes minutes: matrix rate and memory of each device, the disk, and latency and bandwidth of each pair of
    nodes by the transport that ranks use.
    """
    from dlperf.running.measuring import Task, measure_nodes
    from dlperf.running.supervision import Interrupted, Interrupts

    cluster = None if name is None else load_cluster(name)
    chosen_margins = margins_of(margins)
    reference = None if against is None else read_machine_baseline(_baseline_path(against))
    file_bytes = _size(disk)
    started = datetime.now(UTC)
    title = socket.gethostname() if cluster is None else cluster.name
    folder = results or Path("results") / MEASUREMENTS_FOLDER / title / f"{started:%Y%m%d-%H%M%S}"
    if (folder / MEASUREMENT_NAME).exists():
        raise UserError(f"{folder}: holds a measurement already; choose another folder with --results DIR")
    interrupts = Interrupts(say=say_in_a_signal_handler)
    try:
        with interrupts.handled(), ExitStack() as held:
            nodes, lost = _nodes(cluster, held, wait=not no_wait)
            machine = detect_machine() if cluster is None else cluster.weakest
            task = Task(
                repeats=repeats,
                seconds=seconds,
                parallel_nodes=min(parallel_nodes or len(nodes), len(nodes)),
                devices=max(1, len(machine.gpus)),
                file_bytes=file_bytes,
                data=data,
            )
            expected = _STARTS_SECONDS + task.expected_seconds(len(nodes), device=machine.device)
            say(f"measuring {plural(len(nodes), 'node')}: about {expected:.0f} s")
            measurement = measure_nodes(
                nodes,
                task,
                folder,
                cluster=title,
                device=machine.device,
                threads=machine.cores,
                python=python,
                lost=lost,
                interrupts=interrupts,
                progress=_Progress(),
            )
    except Interrupted as interrupted:
        say("stopped; nothing was measured to the end")
        ctx.exit(interrupted.exit_code)
    judgement = judge_equals(measurement, chosen_margins)
    if reference is not None:
        judgement += judge_reference(measurement, reference, chosen_margins)
    if as_json:
        print_json(_content(measurement, judgement) | {"folder": str(folder)})
    else:
        echo(*_lines(measurement, judgement), "", f"Next: dlperf report {folder} --out report.md")
    ctx.exit(EXIT_NAMED if judgement.findings else EXIT_SOME_MISSING if judgement.missing else 0)


def _nodes(
    cluster: Cluster | None, held: ExitStack, *, wait: bool
) -> tuple["Sequence[Node]", dict[str, str]]:
    """The nodes that can be measured, for as long as `held` is open, and why the others cannot."""
    if cluster is None:
        from dlperf.running.run_folder import whole_machine
        from dlperf.running.transports.local import LocalNode

        held.enter_context(whole_machine(wait=wait, say=say))
        return [LocalNode(report=say, in_use=held)], {}
    from dlperf.running.cluster import held as held_nodes  # paramiko takes its time

    nodes = held.enter_context(held_nodes(cluster, wait=wait, say=say))
    lost = {node.name: node.trouble for node in nodes if node.trouble is not None}
    for name, why in lost.items():
        say(f"{name} is not measured: {why}")
    return [node for node in nodes if node.trouble is None], lost


def _size(text: str) -> int:
    try:
        return int(bytes_of(text))
    except ValueError as error:
        raise UserError(f"--disk: {error}") from None


def _baseline_path(name: str) -> Path:
    path = Path(name)
    return path if path.is_file() else BASELINES / f"{name}.json"


class _Progress:
    """Says once a minute that nodes are still measuring; none of a run's steps comes here."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()

    def message(self, text: str) -> None:
        """See Progress."""
        say(text)

    def planned(self, *, total: int, done: int) -> None:
        """See Progress."""

    def started(self, case: Case, *, repeat: int) -> None:
        """See Progress."""

    def stepped(self, step: Step) -> None:
        """See Progress."""

    def ticked(self) -> None:
        """See Progress."""
        if time.monotonic() - self._said > _HEARTBEAT_SECONDS:
            self._said = time.monotonic()
            say(f"measuring: {self._said - self._started:.0f} s")

    def ended(self, result: RunResult) -> None:
        """See Progress."""

    def finished(self) -> None:
        """See Progress."""


def _lines(measurement: Measurement, judgement: Judgement) -> Iterator[str]:
    for content in measurement_tables(measurement):
        if len(content.columns) > 1:
            yield from (plain_text(content.caption), _grid(content), "")
    yield from verdict_lines(judgement)
    yield headline(len(measurement.nodes) + len(measurement.lost), judgement)


def verdict_lines(judgement: Judgement) -> Iterator[str]:
    """One line per finding and per node that is missing, then what could not be judged."""
    for finding in (*judgement.findings, *judgement.missing):
        yield wrapped(str(finding), indent=2)
    for note in judgement.notes:
        yield wrapped(f"note: {note}", indent=2)


def _grid(content: Table) -> str:
    headings = [plain_text(column.heading) for column in content.columns]
    numbers = [plain_text(column.heading) for column in content.columns if column.numbers]
    return table(headings, [list(map(plain_text, row)) for row in content.rows], right=numbers)


def _content(measurement: Measurement, judgement: Judgement) -> dict[str, Any]:
    def contents(findings: Sequence[Finding]) -> list[dict[str, Any]]:
        return [asdict(one) | {"unit": str(one.unit), "text": str(one)} for one in findings]

    return {
        "findings": contents(judgement.findings),
        "missing": contents(judgement.missing),
        "tests": judgement.tests,
        "notes": judgement.notes,
        "measurement": measurement.model_dump(mode="json"),
    }


def changes(baseline: str, candidate: Path, margins: Sequence[str], *, form: str) -> int:
    """Print what is worse than in another measurement, or than in a baseline of machines; the exit code."""
    if form not in {"text", "json"}:
        raise UserError(f"--format {form}: measurements of nodes are compared as text or json")
    after, chosen = read_measurement(candidate), margins_of(margins)
    if is_measurement(Path(baseline)):
        judgement = judge_change(read_measurement(Path(baseline)), after, chosen)
    else:
        judgement = judge_reference(after, read_machine_baseline(_baseline_path(baseline)), chosen)
    if form == "json":
        print_json(_content(after, judgement))
    else:
        echo(*verdict_lines(judgement), headline(len(after.nodes), judgement))
    return EXIT_NAMED if judgement.findings else 0


_HISTORY_EPILOG = """\b
Examples:
  dlperf cluster history gpu3
  dlperf cluster history gpu3 results/monday results/measurements --json

NODE is a node's name in cluster files, or a host name. DIR is a results folder, the folder of a sweep or that
of a measurement (default: results).

Exit codes: 0 also where something went wrong on the node, 2 wrong input."""


@click.command("history", short_help="Show what happened to a node.", epilog=_HISTORY_EPILOG)
@click.argument("node", metavar="NODE")
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=PATH)
@JSON
def history(*, node: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Show how often NODE was lost, slow, out of memory or throttled in stored runs and measurements."""
    paths = folders or (Path("results"),)
    results = read_results(*paths)
    for skipped in results.skipped:
        say(f"dlperf: skipped {skipped}")
    files = sorted({file for path in paths for file in measurements_below(path)})
    measurements = [(file, read_measurement(file)) for file in files]
    found = node_history(node, results.runs, measurements)
    if not found.runs and not found.measurements:
        names = {name for run in results.runs for name in run.result.nodes}
        names |= {each.name for _, one in measurements for each in one.nodes}
        raise UserError(unknown("node", node, sorted(names)))
    if as_json:
        print_json(
            asdict(found) | {"incidents": [asdict(one) | {"path": str(one.path)} for one in found.incidents]}
        )
        return
    counted = f"{plural(found.runs, 'run')}, {plural(found.measurements, 'measurement')}"
    echo(f"{node}: {counted}")
    if not found.incidents:
        echo("nothing went wrong")
        return
    kinds = Counter(incident.what for incident in found.incidents)
    echo(
        "",
        table(
            ("what", "how often"),
            [(what, str(count)) for what, count in kinds.most_common()],
            right=("how often",),
        ),
    )
    rows = [
        ((one.at or "not known")[:16].replace("T", " "), one.what, one.evidence, str(one.path))
        for one in found.incidents
    ]
    echo("", table(("when (UTC)", "what", "evidence", "where"), rows))
