"""`dlperf show`: one case with its runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from dlperf.cli.selection import load_results
from dlperf.layout import LOGS_FOLDER, launch_files
from dlperf.report.numbers import giga, iterations, mebibytes, or_not_known, percent, rate, span
from dlperf.report.text import plain_text
from dlperf.results.cases import CaseFigures
from dlperf.results.extract import steadiness_line
from dlperf.results.query import Loaded, find_case
from dlperf.results.store import StoredRun

_EPILOG = """\b
Examples:
  dlperf show mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf show 242a22271c50 results/quickstart
  dlperf show oneflow results/quickstart
  dlperf show 242a22271c50 --json | jq '.[0].runs[].result.figures.samples_per_sec'"""


@click.command(epilog=_EPILOG)
@click.argument("case", metavar="CASE")
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one entry per sweep that has the case.")
def command(*, case: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Show one case: its runs, figures, environment, commands, and where the logs are.

    CASE is a case's id, its content hash (the id's last 12 digits) or a part of the id that no other case
    has. DIR is a results folder, the folder of one sweep or published:NAME (default: results).
    """
    loaded = load_results(folders)
    found = find_case(loaded.all_figures, case)
    if as_json:
        click.echo(_as_json(loaded, found))
        return
    for place, figure in enumerate(found):
        if place:
            click.echo()
        for line in _lines(figure):
            click.echo(line)


def _as_json(loaded: Loaded, found: Sequence[CaseFigures]) -> str:
    """The row that `dlperf results` has of the case, the case whole, and its runs as they are stored."""
    from dlperf.results.tables import LISTED, records

    wanted = {id(figure) for figure in found}
    rows = records(loaded.cases[[column.name for column in LISTED]])
    entries = [
        {
            "figures": row,
            "case": figure.case.model_dump(mode="json"),
            "runs": [_stored(run) for run in figure.runs],
        }
        for figure, row in zip(loaded.all_figures, rows, strict=True)
        if id(figure) in wanted
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False)


def _stored(run: StoredRun) -> dict[str, object]:
    return {
        "folder": str(run.folder),
        "result": run.result.model_dump(mode="json", exclude={"case"}),
        "environment": None if run.environment is None else run.environment.model_dump(mode="json"),
    }


def _lines(figure: CaseFigures) -> Iterator[str]:
    yield figure.case.case_id
    yield from _section("", _facts(figure))
    yield from _section("figures", _figures(figure))
    for run in figure.runs:
        yield from _section(f"run {run.result.repeat}", _run(run))
    if figure.runs:
        yield from _section("software", sorted(_software(figure.runs[0])))
        yield from _section("command", _commands(figure.runs[0]))


def _section(title: str, facts: Iterable[tuple[str, object]]) -> Iterator[str]:
    shown = [(name, value) for name, value in facts if value not in {None, ""}]
    if not shown:
        return
    if title:
        yield ""
        yield title
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        yield f"  {name:<{width}}  {value}"


def _facts(figure: CaseFigures) -> Iterator[tuple[str, object]]:

    case = figure.case
    work = case.workload
    yield "framework", f"{case.framework} {case.version}"
    data = f"{work.dataset} ({figure.data or 'data not known'})"
    yield "experiment", f"{work.experiment}: {work.network}, head {work.head}, {work.loss.kind}, {data}"
    yield "parallelism", case.parallelism
    yield "sample ratio", case.sample_ratio
    yield "topology", f"{case.topology} (world size {case.topology.world_size}, {case.device})"
    yield "batch size", f"{case.batch_size_per_device} per device, {case.global_batch_size} in total"
    yield "classes", case.num_classes
    yield "precision", case.precision
    yield "threads per device", plain_text(or_not_known(figure.threads_per_device))
    yield "iterations", plain_text(iterations(case.measure.warmup_iterations, figure.measured_iterations))
    yield "seed", plain_text(or_not_known(figure.seed))
    yield "options", ", ".join(f"{name}={value}" for name, value in sorted(case.options.items()))
    yield "hardware", figure.hardware
    yield "results", figure.sweep


def _figures(figure: CaseFigures) -> Iterator[tuple[str, object]]:

    yield "status", figure.status.value
    yield "reason", figure.reason
    yield "evidence", figure.evidence
    summary = figure.summary
    if summary is None:
        return
    if summary.runs == 1 and not figure.runs:
        yield "samples/s", f"{rate(summary.median)} (as published; its runs were not printed)"
        return
    yield "samples/s", f"{rate(summary.median)} (median of {summary.runs})"
    yield "min to max", span(summary.minimum, summary.maximum)
    yield "CV", percent(summary.cv)
    interval = summary.interval
    shown = span(interval.low, interval.high) if interval else "none: needs at least 2 good runs"
    yield "95 % interval", shown
    if figure.step_seconds_median is not None:
        yield "step", f"median {rate(figure.step_seconds_median)} s, p95 {rate(figure.step_seconds_p95)} s"
    if figure.model_flops_per_second is not None:
        yield "model FLOP/s", f"{giga(figure.model_flops_per_second)} G"
    if figure.matmul_flops_per_second is not None:
        yield (
            "matmul FLOP/s",
            f"{giga(figure.matmul_flops_per_second)} G (one device, measured by this engine)",
        )


def _run(run: StoredRun) -> Iterator[tuple[str, object]]:

    result = run.result
    yield "status", result.status.value
    if result.figures is not None:
        figures = result.figures
        yield "samples/s", rate(figures.samples_per_sec)
        yield "steps", f"{figures.accepted_steps} accepted, {figures.dropped_steps} not counted"
        yield "loss", f"{rate(figures.loss_first)} -> {rate(figures.loss_last) or 'not finite'}"
        if figures.peak_memory_bytes is not None:
            yield "peak memory", f"{mebibytes(figures.peak_memory_bytes)} MiB (the largest rank)"
    if result.steadiness is not None:
        yield "steady state", steadiness_line(result.steadiness)
    yield "reason", result.reason
    yield "evidence", result.evidence
    yield "started", result.started_at
    yield "took", f"{result.seconds:.1f} s" if result.seconds is not None else None
    yield "nodes", ", ".join(result.nodes)
    if result.imported is not None:
        yield (
            "imported from",
            f"{result.imported.source} ({result.imported.dialect}, {result.imported.method})",
        )
    yield "logs", run.folder / LOGS_FOLDER


def _software(run: StoredRun) -> Iterator[tuple[str, object]]:
    yield from run.result.engine.facts.items()
    environment = run.environment
    if environment is None:
        return
    yield "dlperf", environment.dlperf_version
    yield "dlperf commit", environment.git_commit
    for node in environment.nodes:
        yield (
            f"node {node.host}",
            ", ".join(part for part in (node.hardware, node.system, node.kernel) if part),
        )


def _commands(run: StoredRun) -> Iterator[tuple[str, object]]:
    """The command of each rank, from the launch files that the supervisors were given."""
    for path in launch_files(run.folder):
        try:
            ranks = json.loads(path.read_bytes())["ranks"]
            for rank in ranks:
                yield f"rank {rank['rank']}", shlex.join(map(str, rank["argv"]))
        except (OSError, ValueError, KeyError, TypeError):
            yield path.name, "damaged: not the JSON of a launch file"
