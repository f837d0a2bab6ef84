"""`dlperf results`, `show` and `explain`: what is stored of cases and their runs."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.cli import options
from dlperf.cli.terminal import echo, fold, print_json, table, wrapped, write_data, write_file
from dlperf.errors import UserError
from dlperf.files import read_regular
from dlperf.layout import LOGS_FOLDER, launch_files
from dlperf.logs.events import OTHER, TRAIN, WARMUP, Step
from dlperf.plan.case import DataSet, Source
from dlperf.report.comparison import has_choices
from dlperf.report.numbers import factor, giga, iterations, mebibytes, or_not_known, percent, rate, span
from dlperf.report.text import plain_text
from dlperf.results.cases import CaseFigures
from dlperf.results.extract import PAUSE, UNSTEADY, extract, steadiness_line
from dlperf.results.interference import interference_line
from dlperf.results.query import find_case
from dlperf.results.schema import METHOD_2021, PEAKS, Imported, Node, RunResult
from dlperf.results.store import StoredRun
from dlperf.results.straggler import rank_times_line
from dlperf.results.telemetry import telemetry_line
from dlperf.running.program import program_commands, program_of
from dlperf.statistics.basic import FEWEST_RUNS_FOR_INTERVAL
from dlperf.wording import plural

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
    lines = _lines(loaded.all_figures, records(listed)) if form == "table" else ()
    data = "".join(f"{line}\n" for line in lines).encode() if lines else encoded(listed, form)
    if out is not None:
        write_file(out, data)
    elif lines:
        echo(*lines)
    else:
        write_data(data.decode())
    ctx.exit(EXIT_SOME_MISSING if loaded.results.skipped else 0)


_HEADINGS = (
    "framework", "sweep", "hardware", "experiment", "parallelism", "loop", "data", "topology", "batch",
    "classes", "precision", "threads", "status", "samples/s", "min to max", "CV", "95 % interval", "runs ok",
    "speedup", "reason",
)  # fmt: skip
_WORDS = {
    "framework", "sweep", "hardware", "experiment", "parallelism", "loop", "data", "topology", "precision",
    "status", "reason",
}  # fmt: skip
# Above the table where every case has the same value.
_FOLDABLE = {
    "experiment", "parallelism", "loop", "data", "topology", "batch", "classes", "precision", "threads",
    "reason",
}  # fmt: skip


def _lines(figures: Sequence[CaseFigures], rows: list[Record]) -> tuple[str, ...]:
    """One line per case: what it is, and its figure or why there is none; `rows` are those of the figures."""
    sweeps = _sweep_names({figure.sweep for figure in figures})
    chosen = has_choices(figure.case for figure in figures)
    machines = {figure.sweep: set[str]() for figure in figures}
    for figure in figures:
        machines[figure.sweep].add(figure.hardware)
    lines = [
        _cells(
            figure,
            row,
            sweep=sweeps[figure.sweep],
            hardware=figure.hardware if len(machines[figure.sweep]) > 1 else "",
            chosen=chosen,
        )
        for figure, row in zip(figures, rows, strict=True)
    ]
    same, headings, cells = fold(_HEADINGS, lines, _FOLDABLE)
    above = (wrapped(f"every case: {same}"), "") if same else ()
    return *above, table(headings, cells, right=set(headings) - _WORDS)


def _sweep_names(sweeps: Collection[Path]) -> dict[Path, str]:
    """Their folders, as short as tells them apart, such as `again-2` of a gate; empty where there is one."""
    if len(sweeps) == 1:
        return dict.fromkeys(sweeps, "")
    names = Counter(sweep.name for sweep in sweeps)
    return {sweep: sweep.name if names[sweep.name] == 1 else str(sweep) for sweep in sweeps}


def _cells(figure: CaseFigures, row: Record, *, sweep: str, hardware: str, chosen: bool) -> tuple[str, ...]:
    """`chosen`: loop and data have columns."""

    def number(name: str) -> float | None:
        value = row[name]
        return value if isinstance(value, int | float) else None

    ratio = row["sample_ratio"]
    return (
        " ".join((figure.case.framework, figure.case.version, *_told_apart(figure))),
        sweep,
        hardware,
        str(row["experiment"]),
        str(row["parallelism"]) + (f" {ratio:g}" if isinstance(ratio, float) else ""),
        (figure.loop or "?") if chosen else "",
        (figure.data or "?") if chosen else "",
        str(row["topology"]),
        figure.size("batch_size_per_device"),
        figure.size("num_classes"),
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


def _told_apart(figure: CaseFigures) -> Iterator[str]:
    """What tells published figures of one framework apart."""
    if figure.published is not None:
        yield from map(str, figure.case.options.values())


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
  dlperf show 242a22271c50 --telemetry
  dlperf show 242a22271c50 --telemetry --run 2 --out telemetry.svg

{options.CASE_HELP}"""


@click.command(epilog=_SHOW_EPILOG)
@options.CASE
@options.JSON
@click.option("--telemetry", is_flag=True, help="A chart of what nodes and devices did during each run.")
@click.option("--run", "repeat", type=click.IntRange(min=1), help="With --telemetry: of this run alone.")
@click.option(
    "-o", "--out", type=options.FILE, help="With --telemetry: write the chart of one run as .svg or .png."
)
def show(
    *,
    case: str,
    folders: tuple[Path, ...],
    as_json: bool,
    telemetry: bool,
    repeat: int | None,
    out: Path | None,
) -> None:
    """Show one case: its runs, figures, environment, commands, and where the logs are."""
    if not telemetry and (repeat is not None or out is not None):
        raise UserError("--run and --out go with --telemetry")
    loaded = options.load_results(folders)
    found = find_case(loaded.all_figures, case)
    if telemetry:
        from dlperf.cli.telemetry import show_telemetry

        show_telemetry(found, repeat=repeat, out=out)
        return
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
        yield from (_section("software", facts) for facts in [sorted(_of_software(run))] if facts)
        yield from (_section("command", facts, whole=True) for facts in [[*_of_commands(run)]] if facts)


def _section(title: str, facts: Iterable[tuple[str, object]], *, whole: bool = False) -> str:
    """Facts under a title; a `whole` one is left to the terminal's own wrapping, so that it can be copied."""
    shown = [(name, value) for name, value in facts if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    lines = [f"  {name:<{width}}  {value}" for name, value in shown]
    return "\n".join([title, *(lines if whole else (wrapped(line, indent=width + 4) for line in lines))])


_NO_INTERVAL = f"none: needs at least {FEWEST_RUNS_FOR_INTERVAL} good runs"


def _of_case(figure: CaseFigures) -> Iterator[tuple[str, object]]:
    case = figure.case
    work = case.workload
    yield "framework", f"{case.framework} {case.version}"
    data = work.dataset if case.data is not None else f"{work.dataset} ({figure.data or 'data not known'})"
    yield "experiment", f"{work.experiment}: {work.network}, head {work.head}, {work.loss.kind}, {data}"
    yield "data", _data_line(case.data)
    yield "loop", _source_line(case.source)
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


def _data_line(data: DataSet | None) -> str:
    if data is None:
        return ""
    counts = f"{plural(data.images, 'image')} of {plural(data.classes, 'class', 'classes')}"
    return f"{data.path} ({data.read}; {counts}; {' and '.join(data.forms)}; index {data.index_sha256})"


def _source_line(source: Source | None) -> str:
    if source is None:
        return ""
    commit = source.commit or "not known"
    return f"original program (files {source.content_hash}, commit {commit}); own loop: {source.engine}"


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
        for name, size in figures.peaks.items():
            yield PEAKS[name], f"{mebibytes(size)} MiB (the largest rank)"
        yield "peak memory not measured", result.peak_unknown
    if result.steadiness is not None:
        yield "steady state", steadiness_line(result.steadiness)
    yield "interference", interference_line(result)
    if result.rank_times is not None:
        yield "straggler", rank_times_line(result.rank_times)
    if result.telemetry is not None:
        yield "telemetry", telemetry_line(result.telemetry)
        yield "telemetry lacks", "; ".join(result.telemetry.missing)
    yield "data", _reading_line(result)
    yield "reason", result.reason
    yield "evidence", result.evidence
    yield "started", result.started_at
    yield "took", f"{result.seconds:.1f} s" if result.seconds is not None else None
    yield "nodes", ", ".join(result.nodes)
    imported = result.imported
    if imported is not None:
        yield "imported from", f"{imported.source} ({imported.dialect}, {imported.method})"
    yield "logs", run.folder / LOGS_FOLDER


def _reading_line(result: RunResult) -> str:
    """`5.1 % of the time waiting for it, 88.12 MiB/s read, 100 % resident, ext4`."""
    reading = result.reading
    if reading is None:
        return ""
    speed, resident = reading.bytes_per_second, reading.resident_share
    parts = (
        "" if reading.wait_share is None else f"{percent(reading.wait_share)} of the time waiting for it",
        "" if speed is None else f"{rate(speed / 2**20)} MiB/s read",
        "" if resident is None else f"{percent(resident, decimals=0)} resident before the run",
        reading.form or "",
        reading.file_system or "",
    )
    return ", ".join(part for part in parts if part)


def _of_software(run: StoredRun) -> Iterator[tuple[str, object]]:
    yield from run.result.engine.facts.items()
    environment = run.environment
    if environment is None:
        return
    yield "dlperf", environment.dlperf_version
    yield "dlperf commit", environment.git_commit
    yield from map(_node, environment.nodes)


def _node(node: Node) -> tuple[str, str]:
    facts = (node.hardware, node.system, node.kernel)
    return f"node {node.host}", ", ".join(part for part in facts if part)


def _of_commands(run: StoredRun) -> Iterator[tuple[str, object]]:
    """The command of each rank, from the launch files that the supervisors were given."""
    for path in launch_files(run.folder):
        try:
            content = json.loads(read_regular(path))
            for rank in content["ranks"]:
                yield f"rank {rank['rank']}", shlex.join(map(str, rank["argv"]))
            program = program_of(content)
            if program is not None:
                yield from (("program", command) for command in program_commands(program))
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
    sections = [section for figure in figures for section in _explanation(figure)]
    if form == "json":
        print_json([{"title": title, "facts": facts} for title, facts in sections])
    else:
        echo("\n\n".join(_section(title, facts) for title, facts in sections))


_KINDS = {
    WARMUP: "warm-up",
    OTHER: "outside the method's window",
    UNSTEADY: "before the steady state",
    PAUSE: "a pause",
}
_FORMULA_2021 = "mean of rates, rounded to 2 decimals"
# Twice made from the same log, a figure is the same to the last bit; another dlperf may round another way.
_SAME = 1e-9


def _explanation(figure: CaseFigures) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles with facts: of the case, then of each run, with its environment where that differs from before.

    What cannot be read any more is said, not raised.
    """
    yield figure.case.case_id, _known(_how_of_case(figure))
    before: list[tuple[str, str]] = []
    for run in figure.runs:
        environment = list(_environment(run))
        facts = [*_known(_how_of_run(run)), *(environment if environment != before else ())]
        yield f"run {run.result.repeat}", facts
        before = environment


def _known(facts: Iterable[tuple[str, str | None]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in facts if value]


def _how_of_case(figure: CaseFigures) -> Iterator[tuple[str, str | None]]:
    yield "results", str(figure.sweep)
    yield "hardware", figure.hardware
    yield "status", figure.status.value
    yield "reason", figure.reason
    yield "evidence", figure.evidence
    summary = figure.summary
    if summary is None:
        return
    rates = [run.samples_per_sec for run in figure.good]
    if rates:
        listed = ", ".join(f"{rate:.2f}" for rate in rates)
        median = f"{summary.median:.2f} samples/s"
        yield "figure", f"median of {plural(len(rates), 'run')} ({listed}) = {median}"
    else:
        yield "figure", f"{summary.median:.2f} samples/s, as published"
    failed = (f"run {run.result.repeat}: {run.result.status.value}" for run in figure.failed)
    yield "not counted", ", ".join(failed)


def _how_of_run(run: StoredRun) -> Iterator[tuple[str, str | None]]:
    result = run.result
    yield "folder", str(run.folder)
    yield "status", result.status.value
    yield "reason", result.reason
    yield "evidence", result.evidence
    if result.imported is not None:
        yield from _origin(result.imported)
        yield "method", result.method
    yield from _original(run)
    if result.not_known:
        yield "not known", f"{', '.join(result.not_known)}: the case holds placeholders"
    try:
        yield from _window(run)
    except (UserError, OSError) as error:
        yield "log", f"cannot be read again: {error}"


def _original(run: StoredRun) -> Iterator[tuple[str, str]]:
    """The original program of a run: its commands, and which of its files were changed."""
    for path in launch_files(run.folder):
        try:
            program = program_of(json.loads(read_regular(path)))
        except (OSError, ValueError, RecursionError):
            yield path.name, "damaged: not the JSON of a launch file"
            continue
        if program is not None:
            yield from (("program", command) for command in program_commands(program))
            changed = sorted({*(edit.file for edit in program.edits), *program.files})
            yield "changed", f"{', '.join(changed) or 'nothing'} (logs/rank0.log shows it as a diff)"


def _origin(imported: Imported) -> Iterator[tuple[str, str]]:
    where = f", lines {imported.lines[0]} to {imported.lines[1]}" if imported.lines else ""
    yield "imported from", f"{imported.source}, run {imported.run + 1}{where}, sha256 {imported.sha256}"
    yield "original", imported.log
    yield "dialect", imported.dialect


def _window(run: StoredRun) -> Iterator[tuple[str, str]]:
    """The steps and the arithmetic, made again from the log."""
    extracted = extract(run.folder)
    yield "log", "logs/rank0.log"
    used = [step for step in extracted.steps if step.kind == TRAIN]
    yield "rule", extracted.rule
    yield "used", _span(used) if used else "no record"
    for kind, steps in groupby(extracted.steps, lambda step: step.kind):
        if kind != TRAIN:
            yield "left out", f"{_span(list(steps))}: {_KINDS.get(kind, kind)}"
    if extracted.result.figures is not None:
        rate = extracted.result.figures.samples_per_sec
        if extracted.result.method == METHOD_2021:
            yield "formula", f"{_FORMULA_2021}, of {len(used)} rates = {rate:.2f} samples/s"
        else:
            samples, seconds = sum(step.samples for step in used), math.fsum(step.seconds for step in used)
            yield "formula", f"samples / seconds = {samples} / {seconds:.6f} = {rate:.4f} samples/s"
    yield from _difference(run.result, extracted.result)


def _span(steps: Sequence[Step]) -> str:
    """`100 records: steps 20 to 119, lines 35 to 134`."""
    first, last = steps[0], steps[-1]
    if len(steps) == 1:
        return f"1 record: step {first.step}, line {first.line}"
    return f"{len(steps)} records: steps {first.step} to {last.step}, lines {first.line} to {last.line}"


def _difference(stored: RunResult, again: RunResult) -> Iterator[tuple[str, str]]:
    """Whether the log still gives what result.json says."""
    if stored.status is not again.status:
        yield "changed", f"result.json says {stored.status.value}, the log now gives {again.status.value}"
    elif stored.figures is not None and again.figures is not None:
        then, now = stored.figures.samples_per_sec, again.figures.samples_per_sec
        if not math.isclose(then, now, rel_tol=_SAME):
            yield "changed", f"result.json says {then:.4f} samples/s, the log now gives {now:.4f}"


def _environment(run: StoredRun) -> Iterator[tuple[str, str]]:
    facts = run.result.engine.facts
    if facts:
        yield "engine", ", ".join(f"{name} {value}" for name, value in facts.items())
    if run.environment is None:
        yield "environment", "not known"
        return
    yield from map(_node, run.environment.nodes)
    # environment.json has all: PATH is long, and the port is another in each run.
    variables = sorted(run.environment.variables.keys() - {"PATH", "DLPERF_MASTER_PORT"})
    if variables:
        yield "variables", " ".join(f"{name}={run.environment.variables[name]}" for name in variables)
