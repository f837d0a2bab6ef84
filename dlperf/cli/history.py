"""`dlperf history`: one case over versions or dates, and where it changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import click
from rich.table import Table
from rich.text import Text

from dlperf.cli.tables import rendered
from dlperf.compare.history import FEWEST_POINTS, By, History, histories
from dlperf.compare.output import change, value
from dlperf.compare.sets import MEASURED, ResultSet, read_baseline, result_set_of
from dlperf.errors import UserError
from dlperf.files import write_atomically
from dlperf.plan.documents import unknown
from dlperf.results.query import load

_EPILOG = """\b
Examples:
  dlperf history mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf history mxnet results/ --by version --chart mxnet.svg
  dlperf history mxnet baselines/*.json --metric peak_memory_bytes

CASE is a case's id, its content hash or a part of an id; all versions of that case are shown. DIR is a
results folder, the folder of one sweep, or a baseline's file (default: results)."""


@click.command(epilog=_EPILOG)
@click.argument("case", metavar="CASE")
@click.argument("sources", nargs=-1, metavar="[DIR]...")
@click.option("--by", type=click.Choice(["date", "version"]), default="date", show_default=True)
@click.option("--metric", "metric_name", default="samples_per_sec", show_default=True)
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw a chart into this .png or .svg file.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    *, case: str, sources: tuple[str, ...], by: str, metric_name: str, chart: Path | None, form: str
) -> None:
    """Show CASE in every session under DIR, with the sessions from which on it is faster or slower."""
    metrics = {metric.name: metric for metric in MEASURED}
    if metric_name not in metrics:
        raise UserError(f"--metric: {unknown('metric', metric_name, metrics)}")
    if chart is not None and chart.suffix not in {".png", ".svg"}:
        raise UserError(f"--chart {chart}: the file name must end in .png or .svg")
    order = cast("By", by)
    sides = [_side(source) for source in sources or ("results",)]
    found = histories(sides, case, metric=metrics[metric_name], by=order)
    if chart is not None:
        _draw(found, chart, order)
    click.echo(_as_json(found) if form == "json" else "\n\n".join("\n".join(_lines(one)) for one in found))


def _side(source: str) -> ResultSet:

    path = Path(source)
    return read_baseline(path) if path.is_file() else result_set_of(load([path], strict=False), label=source)


def _draw(found: tuple[History, ...], path: Path, by: By) -> None:
    from dlperf.compare.history_chart import history_chart

    for number, one in enumerate(found):
        target = path if number == 0 else path.with_stem(f"{path.stem}-{number + 1}")
        made = history_chart(one, by=by)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, made.png if path.suffix == ".png" else made.svg)
        click.echo(str(target), err=True)


def _as_json(found: tuple[History, ...]) -> str:

    content = [
        {
            "case": one.title,
            "hardware": one.hardware,
            "metric": one.metric.name,
            "unit": one.metric.unit,
            "points": [asdict(point) for point in one.points],
            "gaps": [asdict(gap) for gap in one.gaps],
        }
        for one in found
    ]
    return json.dumps(content, indent=2, ensure_ascii=False)


def _lines(one: History) -> Iterator[str]:

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "when (UTC)",
        "version",
        one.metric.title,
        "smallest",
        "largest",
        "runs",
        "change",
        "from",
    ):
        table.add_column(heading, justify="left" if heading in {"when (UTC)", "version", "from"} else "right")
    for point in one.points:
        figures = (value(one.metric, each) for each in (point.median, point.minimum, point.maximum))
        cells = (point.day or "not known", point.version, *figures, str(point.runs), change(point.change))
        table.add_row(*map(Text, (*cells, point.source)))
    yield f"{one.title} on {one.hardware}"
    yield ""
    yield rendered(table).rstrip()
    for gap in one.gaps:
        yield f"no figure in {gap.source}, {gap.version}: {gap.why}"
    if len(one.points) < FEWEST_POINTS:
        yield f"changes are only looked for in {FEWEST_POINTS} or more sessions"
