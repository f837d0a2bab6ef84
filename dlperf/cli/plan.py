"""`dlperf plan`: what a sweep would run, shown and not run."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click

from dlperf.adapters.registry import load_adapters
from dlperf.cli.options import PATH, SWEEP, SweepChoice, default_folder, format_option
from dlperf.cli.terminal import echo, fold, print_json, say, table, wrapped, write_data
from dlperf.plan.case import Case, bytes_text
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan, PlannedCase, PlanStatus
from dlperf.plan.sources import unknown_commit
from dlperf.report.comparison import Comparison, comparisons
from dlperf.report.text import plain_text
from dlperf.results.cases import planned_figures
from dlperf.results.store import read_results
from dlperf.running.commands import commands_text
from dlperf.running.run_folder import stored_runs
from dlperf.wording import plural

Row = dict[str, Any]

_EPILOG = """\b
Examples:
  dlperf plan sweeps/r100_emore.yaml
  dlperf plan r100_emore --only framework=mxnet -k 'parallelism==partial_fc and nodes==1'
  dlperf plan quickstart -P batch_size_per_device=4,8 -S measure.repeats=5 --order
  dlperf plan quickstart --commands

SWEEP is a path, the name of a file in ./sweeps, or a sweep that ships with dlperf."""


@click.command(epilog=_EPILOG)
@SWEEP
@format_option("text", "json", "csv")
@click.option("--order", is_flag=True, help="List the runs in their order.")
@click.option("--commands", is_flag=True, help="Print the command line and environment of every process.")
@click.option("--results", type=PATH, help="Results to estimate run times from.  [default: results/SWEEP]")
def command(*, chosen: SweepChoice, form: str, order: bool, commands: bool, results: Path | None) -> None:
    """Show the cases of SWEEP: which would run, which would not, and why. Nothing is run."""
    if commands and (order or form != "text"):
        raise click.UsageError("--commands cannot be combined with --order or --format")
    plan = chosen.selected(chosen.plan())
    folder = results or default_folder(plan)
    warn(plan)
    if commands:
        text = commands_text(plan, adapters=load_adapters(), results=folder, cluster=chosen.cluster)
        write_data(text)
    elif order and form != "json":
        _print_order(plan, form=form)
    elif form == "text":
        echo(*plan_lines(plan, folder, cluster=chosen.cluster))
    else:
        rows = plan_rows(plan, seconds=known_seconds(folder))
        if form == "json":
            print_json(_content(plan, rows))
        else:
            _print_csv([row | {"options": json.dumps(row["options"])} for row in rows])


_WEIGHT_BYTES = 4  # every engine keeps float32 weights, in mixed precision too


def _classifier_beyond_memory(case: Case, plan: Plan) -> tuple[int, int] | None:
    """The bytes of a device's classifier and of its memory, where the first are more; None too if unknown."""
    memory = plan.machine.gpu_memory_bytes if case.device == "cuda" else case.memory_bytes
    shards = 1 if case.parallelism == "data" else case.topology.world_size
    needed = math.ceil(case.num_classes / shards) * case.workload.embedding_size * _WEIGHT_BYTES
    return (needed, memory) if memory is not None and needed > memory else None


def warn(plan: Plan) -> None:
    """Say what cannot fit, which cases a report could not show in one table, and which sources are new.

    Own loops and original programs, and other data, stand in several tables on purpose.
    """
    adapters = load_adapters()
    for name, source in {item.case.framework: item.case.source for item in plan.cases}.items():
        note = None if source is None or name not in adapters else unknown_commit(source, adapters[name])
        if note is not None:
            say(f"note: {name}: {note}")
    too_large = [(case, *need) for case in plan.runnable if (need := _classifier_beyond_memory(case, plan))]
    if too_large:
        case, needed, memory = max(too_large, key=lambda one: one[1] / one[2])
        more = f" (and {plural(len(too_large) - 1, 'other case')})" if len(too_large) > 1 else ""
        say(
            f"warning: {case.case_id}{more} cannot fit: the weights of its classifier alone are "
            f"{needed / 2**30:.4g} GiB per device, which has {memory / 2**30:.4g} GiB"
        )
    tables: dict[tuple[object, ...], list[Comparison]] = {}
    for one in comparisons(planned_figures(plan), titles={}):
        case = one.sample
        data = None if case.data is None else (case.data.index_sha256, case.data.read)
        key = (case.workload.experiment, case.parallelism, case.source is not None, data)
        tables.setdefault(key, []).append(one)
    for (experiment, parallelism, *_), several in tables.items():
        if len(several) > 1:
            values = " | ".join(", ".join(map(plain_text, one.apart)) for one in several)
            threads = {one.sample.threads_per_device for one in several}
            example = f", such as 'threads_per_device: {min(threads)}'" if len(threads) > 1 else ""
            say(
                f"warning: {experiment}, {parallelism}: a report shows these cases in {len(several)} tables, "
                f"without speedups or ratios between them ({values}); "
                f"give all of them the same value in the sweep{example}"
            )


def _print_order(plan: Plan, *, form: str) -> None:
    runs = [{"run": number, **run.model_dump()} for number, run in enumerate(plan.runs, 1)]
    if form == "csv":
        _print_csv(runs)
        return
    if not runs:
        say("none of these cases can run here; `dlperf plan` without --order says why")
    for run in runs:
        echo(f"{run['run']:>{len(str(len(runs)))}}  r{run['repeat']}  {run['case_id']}")


def _print_csv(rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["case_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_data(text.getvalue())


def _content(plan: Plan, rows: list[Row]) -> dict[str, Any]:
    return {
        "sweep": plan.sweep,
        "machine": plan.machine.model_dump(),
        "order": plan.order,
        "repeats": plan.repeats,
        "limits": plan.limits.model_dump(),
        "cases": rows,
        "runs": [run.model_dump() for run in plan.runs],
    }


def plan_rows(plan: Plan, *, seconds: Mapping[str, float]) -> list[Row]:
    """One flat row per case, in the plan's order.

    `seconds` holds what a run of a case took before, where that is known; `estimated_seconds` is that times
    the runs, else None.
    """
    runs = Counter(run.case_id for run in plan.runs)
    return [_row(item, runs=runs[item.case_id], seconds=seconds.get(item.case_id)) for item in plan.cases]


def _row(item: PlannedCase, *, runs: int, seconds: float | None) -> Row:
    case = item.case
    return {
        "framework": case.framework,
        "version": case.version,
        "experiment": case.workload.experiment,
        "parallelism": case.parallelism,
        "sample_ratio": case.sample_ratio,
        "topology": str(case.topology),
        "batch_size_per_device": case.size("batch_size_per_device"),
        "num_classes": case.size("num_classes"),
        "precision": case.precision,
        "device": case.device,
        "threads_per_device": case.threads_per_device,
        "memory": None if case.memory_bytes is None else bytes_text(case.memory_bytes),
        "data": "synthetic" if case.data is None else f"{case.data.name} {case.data.read}",
        "source": None if case.source is None else case.source.commit or case.source.content_hash,
        "options": case.options,
        "status": item.status.value,
        "reason": item.reason,
        "runs": runs,
        "estimated_seconds": seconds * runs if seconds is not None else None,
        "case_id": item.case_id,
    }


_COMMIT_DIGITS = 12
_NUMBERS = ("batch", "classes", "threads", "runs", "estimate")
# Above the table where every case has the same value.
_FOLDABLE = ("experiment", "parallelism", "classes", "precision", "device", "threads", "memory", "data")


def plan_lines(plan: Plan, results: Path, *, cluster: Cluster | None) -> list[str]:
    """The plan as a table with a summary above and below; `results`: where its runs are, or will be."""
    rows = plan_rows(plan, seconds=known_seconds(results))
    cells = list(map(_cells, rows))
    options = {(row["framework"], row_cells["options"]) for row, row_cells in zip(rows, cells, strict=True)}
    by_framework = dict(options)
    if len(by_framework) == len(options):
        cells = [row_cells | {"options": ""} for row_cells in cells]
    else:  # cases of a framework differ: a column says in what
        by_framework = {}
    if all(row["data"] == "synthetic" for row in rows):
        cells = [row_cells | {"data": ""} for row_cells in cells]
    same, headings, kept = fold(list(cells[0]), [list(row.values()) for row in cells], _FOLDABLE)
    counts = f"{plural(len(rows), 'case')}, {plural(len(plan.runs), 'run')}"
    return [
        wrapped(
            f"{plan.sweep}: {counts} ({plan.repeats} of each runnable case, {plan.order}) on {_where(plan)}"
        ),
        wrapped(f"every case: {same}"),
        *([wrapped(f"notes: {' '.join(plan.notes.split())}")] if plan.notes else []),
        *(wrapped(f"{name}: from {one.place}") for name, one in plan.origins.items()),
        *(wrapped(f"options of {name}: {text}") for name, text in sorted(by_framework.items()) if text),
        "",
        table(headings, kept, right=_NUMBERS),
        "",
        *map(wrapped, _summary(plan, rows, results, cluster)),
    ]


def _where(plan: Plan) -> str:
    if plan.cluster is None:
        return str(plan.machine)
    nodes = plural(len(plan.cluster.nodes), "node")
    return f"cluster {plan.cluster.name}: {nodes} with at least {plan.machine}"


def _cells(row: Row) -> dict[str, str]:
    ratio, seconds = row["sample_ratio"], row["estimated_seconds"]
    cells = {
        "framework": f"{row['framework']} {row['version']}",
        "experiment": row["experiment"],
        "parallelism": row["parallelism"] + (f" {ratio:g}" if ratio is not None else ""),
        "topology": row["topology"],
        "batch": row["batch_size_per_device"],
        "classes": row["num_classes"],
        "precision": row["precision"],
        "device": row["device"],
        "threads": row["threads_per_device"],
        "memory": row["memory"],
        "data": row["data"],
        "source": _short(row["source"]),
        "options": " ".join(f"{name}={value}" for name, value in row["options"].items()),
        "runs": row["runs"],
        "estimate": duration(seconds) if seconds is not None else None,
        "status": row["status"],
        "reason": row["reason"],
    }
    return {heading: "" if value is None else str(value) for heading, value in cells.items()}


def _short(commit: str | None) -> str | None:
    """The first digits, as git shows them; that files differ stays."""
    if commit is None:
        return None
    name, dirty, _ = commit.partition("-dirty")
    return name[:_COMMIT_DIGITS] + dirty


def _summary(plan: Plan, rows: list[Row], results: Path, cluster: Cluster | None) -> Iterator[str]:
    counts = Counter(item.status for item in plan.cases)
    yield ", ".join(f"{counts[status]} {status.value}" for status in PlanStatus if counts[status])
    done = Counter(run.result.case.case_id for run in stored_runs(plan, results=results))
    if done:
        yield f"{done.total()} of {plural(len(plan.runs), 'run')} are done ({results})"
    left = {row["case_id"]: row["runs"] - done[row["case_id"]] for row in rows}
    needed = {item.case_id: item.case.topology.nodes for item in plan.cases}
    estimates = {
        row["case_id"]: row["estimated_seconds"] / row["runs"] * left[row["case_id"]]
        for row in rows
        if row["estimated_seconds"] and left[row["case_id"]] > 0
    }
    if estimates:
        seconds = sum(estimates.values())
        own = sum(needed[case_id] * estimate for case_id, estimate in estimates.items())
        nodes = "" if cluster is None else f" ({_taken(cluster, seconds=seconds, node_seconds=own)})"
        waiting = plural(sum(count > 0 for count in left.values()), "case")
        yield f"about {duration(seconds)}{nodes} for the {len(estimates)} of {waiting} that ran before"


def _taken(cluster: Cluster, *, seconds: float, node_seconds: float) -> str:
    """What runs take that last `seconds` one after the other, on nodes that work for `node_seconds`."""
    held = node_hours(len(cluster.nodes) * seconds)
    return (
        held if cluster.slurm is None else f"{held} held, {node_hours(node_seconds)} by a job for each cell"
    )


def node_hours(node_seconds: float) -> str:
    """The time of nodes that are taken, whether they work or not."""
    return f"{node_seconds / 3600:.1f} node hours"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`: as exact as an estimate deserves."""
    if seconds < 100:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def known_seconds(results: Path) -> dict[str, float]:
    """Median seconds of a run for each case with results in a sweep's folder, else by `dlperf qualify`."""
    seconds: dict[str, list[float]] = {}
    for folder in (results, *results.parent.glob(f"{results.name}-qualify/session-*")):
        found: dict[str, list[float]] = {}
        for run in read_results(folder).runs if folder.is_dir() else ():
            if run.result.seconds is not None:
                found.setdefault(run.result.case.case_id, []).append(run.result.seconds)
        seconds = found | seconds
    return {case_id: median(values) for case_id, values in seconds.items()}
