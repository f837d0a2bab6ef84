"""`dlperf results`, `show` and `explain`: what is stored of cases and their runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.cli import options
from dlperf.cli.terminal import echo, fold, print_json, table, write_data
from dlperf.files import read_regular, write_atomically
from dlperf.layout import LOGS_FOLDER, launch_files
from dlperf.report.numbers import factor, giga, iterations, mebibytes, or_not_known, percent, rate, span
from dlperf.report.text import plain_text
from dlperf.results.cases import CaseFigures
from dlperf.results.explanation import explain as explained
from dlperf.results.extract import steadiness_line
from dlperf.results.interference import interference_line
from dlperf.results.query import find_case
from dlperf.results.store import StoredRun
from dlperf.statistics.basic import FEWEST_RUNS_FOR_INTERVAL

if TYPE_CHECKING:
    from dlperf.results.tables import Record  # it loads pandas

EXIT_SOME_MISSING = 3

_RESULTS_EPILOG = """\b
Examples:
  dlperf results
  dlperf results results/quickstart --format json
  dlperf results results/quickstart --format csv -o quickstart.csv
  dlperf results published:insightface_v100_2021

Exit codes: 2 no result at all, 3 some result files could not be read; standard error names them."""


@click.command(epilog=_RESULTS_EPILOG)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=options.PATH)
@options.format_option("table", "json", "csv")
@click.option("-o", "--out", type=options.FILE, help="Write to this file instead of standard output.")
@click.option("--strict", is_flag=True, help="Treat a result file that cannot be read as an error.")
@click.pass_context
@options.without_garbage_collection()
def results(
    ctx: click.Context, *, folders: tuple[Path, ...], form: str, out: Path | None, strict: bool
) -> None:
    """List the cases under DIR (default: results).

    DIR is a results folder, the folder of one sweep or published:NAME.
    """
    from dlperf.results.tables import LISTED, encoded, records

    loaded = options.load_results(folders, strict=strict)
    listed = loaded.cases[[column.name for column in LISTED]]
    lines = _lines(records(listed)) if form == "table" else ()
    data = "".join(f"{line}\n" for line in lines).encode() if lines else encoded(listed, form)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, data)
    elif lines:
        echo(*lines)
    else:
        write_data(data.decode())
    ctx.exit(EXIT_SOME_MISSING if loaded.results.skipped else 0)


_HEADINGS = (
    "framework", "experiment", "parallelism", "topology", "batch", "classes", "precision", "threads",
    "status", "samples/s", "min to max", "CV", "95 % interval", "runs ok", "speedup", "reason",
)  # fmt: skip
_WORDS = {"framework", "experiment", "parallelism", "topology", "precision", "status", "reason"}
# Above the table where every case has the same value.
_FOLDABLE = {"experiment", "parallelism", "topology", "batch", "classes", "precision", "threads", "reason"}


def _lines(rows: list[Record]) -> tuple[str, ...]:
    """One line per case: what it is, and its figure or why there is none."""
    same, headings, cells = fold(_HEADINGS, list(map(_cells, rows)), _FOLDABLE)
    above = (f"every case: {same}", "") if same else ()
    return *above, table(headings, cells, right=set(headings) - _WORDS)


def _cells(row: Record) -> tuple[str, ...]:
    def number(name: str) -> float | None:
        value = row[name]
        return value if isinstance(value, int | float) else None

    ratio = row["sample_ratio"]
    return (
        f"{row['framework']} {row['version']}",
        str(row["experiment"]),
        str(row["parallelism"]) + (f" {ratio:g}" if isinstance(ratio, float) else ""),
        str(row["topology"]),
        str(row["batch_size_per_device"]),
        str(row["num_classes"]),
        str(row["precision"]),
        "?" if row["threads_per_device"] is None else str(row["threads_per_device"]),
        str(row["status"]),
        rate(number("samples_per_sec")),
        span(number("samples_per_sec_min"), number("samples_per_sec_max")),
        percent(number("cv")),
        span(number("interval_low"), number("interval_high")),
        _good_runs(row),
        factor(number("speedup")),
        str(row["reason"] or ""),
    )


def _good_runs(row: Record) -> str:
    """`3 of 5`, or `3` when all are good; empty where none was run."""
    good, failed = row["runs_ok"], row["runs_failed"]
    if not isinstance(good, int) or not isinstance(failed, int) or not good + failed:
        return ""
    return f"{good} of {good + failed}" if failed else str(good)


_SHOW_EPILOG = f"""\b
Examples:
  dlperf show mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf show 242a22271c50 results/quickstart
  dlperf show oneflow results/quickstart
  dlperf show 242a22271c50 --json | jq '.[0].runs[].result.figures.samples_per_sec'

{options.CASE_HELP}"""


@click.command(epilog=_SHOW_EPILOG)
@options.CASE
@options.JSON
def show(*, case: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Show one case: its runs, figures, environment, commands, and where the logs are."""
    loaded = options.load_results(folders)
    found = find_case(loaded.all_figures, case)
    if not as_json:
        echo("\n\n".join(text for figure in found for text in _sections(figure)))
        return
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
    print_json(entries)


def _stored(run: StoredRun) -> dict[str, object]:
    return {
        "folder": str(run.folder),
        "result": run.result.model_dump(mode="json", exclude={"case"}),
        "environment": None if run.environment is None else run.environment.model_dump(mode="json"),
    }


def _sections(figure: CaseFigures) -> Iterator[str]:
    yield _section(figure.case.case_id, _of_case(figure))
    yield _section("figures", _of_figures(figure))
    for run in figure.runs:
        yield _section(f"run {run.result.repeat}", _of_run(run))
    for run in figure.runs[:1]:
        for title, facts in (("software", sorted(_of_software(run))), ("command", [*_of_commands(run)])):
            if facts:
                yield _section(title, facts)


def _section(title: str, facts: Iterable[tuple[str, object]]) -> str:
    shown = [(name, value) for name, value in facts if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in shown)])


_NO_INTERVAL = f"none: needs at least {FEWEST_RUNS_FOR_INTERVAL} good runs"


def _of_case(figure: CaseFigures) -> Iterator[tuple[str, object]]:
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


def _of_figures(figure: CaseFigures) -> Iterator[tuple[str, object]]:
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
    yield "95 % interval", span(interval.low, interval.high) if interval else _NO_INTERVAL
    if figure.step_seconds_median is not None:
        yield "step", f"median {rate(figure.step_seconds_median)} s, p95 {rate(figure.step_seconds_p95)} s"
    if figure.model_flops_per_second is not None:
        yield "model FLOP/s", f"{giga(figure.model_flops_per_second)} G"
    if figure.matmul_flops_per_second is not None:
        matmul = giga(figure.matmul_flops_per_second)
        yield "matmul FLOP/s", f"{matmul} G (one device, measured by this engine)"


def _of_run(run: StoredRun) -> Iterator[tuple[str, object]]:
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
    yield "interference", interference_line(result)
    yield "reason", result.reason
    yield "evidence", result.evidence
    yield "started", result.started_at
    yield "took", f"{result.seconds:.1f} s" if result.seconds is not None else None
    yield "nodes", ", ".join(result.nodes)
    imported = result.imported
    if imported is not None:
        yield "imported from", f"{imported.source} ({imported.dialect}, {imported.method})"
    yield "logs", run.folder / LOGS_FOLDER


def _of_software(run: StoredRun) -> Iterator[tuple[str, object]]:
    yield from run.result.engine.facts.items()
    environment = run.environment
    if environment is None:
        return
    yield "dlperf", environment.dlperf_version
    yield "dlperf commit", environment.git_commit
    for node in environment.nodes:
        facts = (node.hardware, node.system, node.kernel)
        yield f"node {node.host}", ", ".join(part for part in facts if part)


def _of_commands(run: StoredRun) -> Iterator[tuple[str, object]]:
    """The command of each rank, from the launch files that the supervisors were given."""
    for path in launch_files(run.folder):
        try:
            ranks = json.loads(read_regular(path))["ranks"]
            for rank in ranks:
                yield f"rank {rank['rank']}", shlex.join(map(str, rank["argv"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            yield path.name, "damaged: not the JSON of a launch file"


_EXPLAIN_EPILOG = f"""\b
Examples:
  dlperf explain mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf explain 242a22271c50 results/quickstart
  dlperf explain 242a22271c50 --format json

Everything is recomputed from the logs. Where a stored result differs, it is shown as changed.

{options.CASE_HELP}"""


@click.command(epilog=_EXPLAIN_EPILOG)
@options.CASE
@options.format_option("text", "json")
def explain(*, case: str, folders: tuple[Path, ...], form: str) -> None:
    """Show how CASE got its figure: log lines, window, steps left out, formula, environment, failure."""
    figures = find_case(options.load_results(folders).all_figures, case)
    sections = [section for figure in figures for section in explained(figure)]
    if form == "json":
        print_json([{"title": section.title, "facts": section.facts} for section in sections])
    else:
        echo("\n\n".join(_section(section.title, section.facts) for section in sections))
