"""`dlperf history`: one case over versions or dates, and where it changed."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import click

from dlperf.cli import completing
from dlperf.cli.options import FILE, Choice, format_option, require_known
from dlperf.cli.terminal import echo, print_json, say, table, write_file
from dlperf.compare.history import FEWEST_POINTS, By, History, histories, history_chart
from dlperf.compare.output import change, value
from dlperf.compare.sets import MEASURED, ResultSet, read_baseline, result_set_of
from dlperf.errors import UserError
from dlperf.results.query import load

_EPILOG = """\b
Examples:
  dlperf history mxnet-1.9.1_y1_data_1n1g_b4_c100_fp32-242a22271c50
  dlperf history mxnet results/ --by version --chart mxnet.svg
  dlperf history mxnet baselines/*.json --metric peak_anonymous_bytes

CASE is a case's id, its content hash or a part of an id; all versions of that case are shown. DIR is a
results folder, the folder of one sweep, or a baseline's file (default: results)."""


@click.command(epilog=_EPILOG)
@click.argument("case", metavar="CASE", shell_complete=completing.cases)
@click.argument("sources", nargs=-1, metavar="[DIR]...")
@click.option("--by", type=Choice(["date", "version"]), default="date", help="Order of the sessions.")
@click.option(
    "--metric",
    "metric_name",
    metavar="METRIC",
    default="samples_per_sec",
    help="Metric to show, such as step_seconds_p95 or peak_anonymous_bytes.",
)
@click.option("--chart", type=FILE, help="Draw a chart into this .png or .svg file.")
@format_option("text", "json")
def command(
    *, case: str, sources: tuple[str, ...], by: str, metric_name: str, chart: Path | None, form: str
) -> None:
    """Show CASE in every session under DIR, and the sessions in which it became faster or slower."""
    metrics = {metric.name: metric for metric in MEASURED}
    require_known("--metric", "metric", [metric_name], metrics)
    if chart is not None and chart.suffix not in {".png", ".svg"}:
        raise UserError(f"--chart {chart}: the file name must end in .png or .svg")
    order = cast("By", by)
    sides = [_side(source) for source in sources or ("results",)]
    found = histories(sides, case, metric=metrics[metric_name], by=order)
    if chart is not None:
        _draw(found, chart, order)
    if form == "json":
        print_json([_content(one) for one in found])
    else:
        for number, one in enumerate(found):
            echo(*[""] * (number > 0), *_lines(one))


def _side(source: str) -> ResultSet:
    path = Path(source)
    return read_baseline(path) if path.is_file() else result_set_of(load([path], strict=False), label=source)


def _draw(found: tuple[History, ...], path: Path, by: By) -> None:
    for number, one in enumerate(found):
        target = path if number == 0 else path.with_stem(f"{path.stem}-{number + 1}")
        write_file(target, history_chart(one, by=by)[path.suffix])
        say(str(target))


def _content(one: History) -> dict[str, object]:
    return {
        "case": one.title,
        "hardware": one.hardware,
        "metric": one.metric.name,
        "unit": one.metric.unit,
        "points": [asdict(point) for point in one.points],
        "gaps": [asdict(gap) for gap in one.gaps],
    }


def _lines(one: History) -> Iterator[str]:
    numbers = (one.metric.title, "smallest", "largest", "runs", "change")
    rows = []
    for point in one.points:
        figures = (value(one.metric, each) for each in (point.median, point.minimum, point.maximum))
        cells = (point.day or "not known", point.version, *figures, str(point.runs), change(point.change))
        rows.append((*cells, point.source))
    yield f"{one.title} on {one.hardware}"
    yield ""
    yield table(("when (UTC)", "version", *numbers, "from"), rows, right=numbers)
    for gap in one.gaps:
        yield f"no figure in {gap.source}, {gap.version}: {gap.why}"
    if len(one.points) < FEWEST_POINTS:
        yield f"changes are detected from {FEWEST_POINTS} sessions on"
