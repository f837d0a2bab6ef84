"""`dlperf report`: the comparison as a document that people read, and the data behind it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dlperf.cli.options import FILE, NOISE_PROFILE, PATH, Choice, names_of, without_garbage_collection
from dlperf.cli.terminal import echo, say, write_data, write_file
from dlperf.errors import UserError
from dlperf.report.columns import View
from dlperf.report.document import Document, Language, Request, build_report
from dlperf.report.measurement import measurement_page
from dlperf.report.render import draw_charts, render, write_report
from dlperf.report.verify import verify
from dlperf.results.cases import ROW_FIELDS
from dlperf.results.measurement import is_measurement, read_measurement
from dlperf.results.noise_profile import default_noise_profile
from dlperf.results.outliers import judge_equals
from dlperf.wording import plural

EXIT_DIFFERENT = 1
EXIT_SOME_MISSING = 3
_FORMS = {".md": "md", ".html": "html", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
_DATA = ("csv", "json", "parquet")

_EPILOG = f"""\b
Examples:
  dlperf report results/quickstart --out report.md
  dlperf report results/quickstart --out report.html
  dlperf report results/monday results/friday --out both.md
  dlperf report results/quickstart published:insightface_v100_2021 --out beside.html
  dlperf report results/mine --against published:arcface_torch_2022 --out report.md
  dlperf report results --columns efficiency,memory --group-by num_classes
  dlperf report results --baseline pytorch --price-per-device-hour 2.5 --out report.md
  dlperf report --verify report.md
  dlperf report published:insightface_v100_2021 --lang zh --out report.zh.md

\b
Columns: samples_per_sec speedup efficiency ratio spread cv interval waiting interference noise_floor
runs failed step step_p95 gflops share loss memory cost.
Fields to group by: {" ".join(ROW_FIELDS)}.

Exit codes: 1 --verify found a difference, 2 no result at all, or with --strict something skipped or not
comparable, 3 the report is written, but some result files could not be read. A failed case is
part of the report, not an error."""


def _names_option(name: str, *, help: str) -> Callable[..., Any]:  # noqa: A002 - click's name
    return click.option(name, metavar="A,B", callback=lambda _ctx, _option, text: names_of(text), help=help)


@click.command(epilog=_EPILOG)
@click.argument("folders", nargs=-1, metavar="[RESULTS]...", type=PATH)
@click.option(
    "-o",
    "--out",
    type=FILE,
    help="Write the report to this file: Markdown with its charts in <name>_files/, or one HTML file.  "
    "[default: standard output]",
)
@click.option(
    "--format",
    "form",
    type=Choice([*_FORMS.values()]),
    help="Format of the report.  [default: by the suffix of --out, else md]",
)
@click.option(
    "--data",
    type=FILE,
    help="Also write the data behind the report, one row per case and per run, to a .csv, .json or .parquet "
    "file.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="published:NAME",
    help="Set each measured case beside the nearest of these published figures, and say in what they differ. "
    "Repeatable.",
)
@_names_option("--columns", help="Columns of the main table; the names are listed below.")
@click.option("--baseline", metavar="NAME", help="Framework or framework==version that ratios refer to.")
@_names_option("--group-by", help="Make one table per value of these fields.")
@click.option(
    "--price-per-device-hour",
    "price",
    metavar="PRICE",
    type=click.FloatRange(min=0, min_open=True),
    help="Price of a device per hour; adds a column with the cost per million samples.",
)
@click.option("--template", type=FILE, help="Your own jinja2 template for the report.")
@click.option("--lang", "language", type=Choice(["en", "zh"]), default="en", help="Language of the report.")
@click.option(
    "--align",
    "certificates",
    multiple=True,
    type=FILE,
    help="Certificate of `dlperf align`. Repeatable.  [default: align.json in the results]",
)
@NOISE_PROFILE
@click.option("--strict", is_flag=True, help="Treat unreadable results and mixed hardware as errors.")
@click.option(
    "--verify",
    "verified",
    type=FILE,
    help="Recompute this report from the raw logs and list what is new, gone, changed or edited.",
)
@click.pass_context
@without_garbage_collection()
def command(
    ctx: click.Context,
    /,
    *,
    folders: tuple[Path, ...],
    out: Path | None,
    form: str | None,
    data: Path | None,
    against: tuple[str, ...],
    columns: tuple[str, ...],
    baseline: str | None,
    group_by: tuple[str, ...],
    price: float | None,
    template: Path | None,
    language: Language,
    certificates: tuple[Path, ...],
    qualified: Path | None,
    strict: bool,
    verified: Path | None,
) -> None:
    """Write the comparison of the frameworks in RESULTS (default: results).

    RESULTS are results folders, folders of single sweeps, or published figures (published:NAME), or one
    measurement of nodes. Only cases
    that differ in nothing but the framework are compared; the others are in separate tables.
    """
    if verified is not None:
        sources = {name: ctx.get_parameter_source(name) for name in ctx.params if name != "verified"}
        if ParameterSource.COMMANDLINE in sources.values():
            raise UserError("--verify reads all it needs from the report; remove the other options")
        ctx.exit(_verify(verified))
    form = form or _form_of(out, "--out") or "md"
    if any(map(is_measurement, folders)):
        _write_measurement(folders, form, out, language)
        return
    data_form = _form_of(data, "--data")
    request = Request(
        paths=folders or (Path("results"),),
        against=against,
        form="html" if form == "html" else "md",
        language=language,
        certificates=certificates,
        qualification=qualified or default_noise_profile(),
        template=template,
        view=View(columns=columns, baseline=baseline, group_by=group_by, price_per_device_hour=price),
    )
    report = build_report(request, report_folder=out.parent if out else Path(), strict=strict)
    for skipped in report.skipped:
        say(f"dlperf: skipped {skipped}")
    if data is not None:
        _write_data(report, request, data, data_form or "")
    if form not in {"md", "html"}:
        _write_data(report, request, out, form)
    else:
        _write_text(report, request, out)
    for path in (data, out):
        if path is not None:
            (echo if out else say)(str(path))  # without --out standard output holds the report
    ctx.exit(EXIT_SOME_MISSING if report.skipped else 0)


def _write_measurement(folders: tuple[Path, ...], form: str, out: Path | None, language: Language) -> None:
    """The page of one measurement of nodes, judged anew."""
    if len(folders) > 1 or form != "md":
        raise UserError("a measurement of nodes is reported alone, as Markdown: dlperf report DIR --out X.md")
    measurement = read_measurement(folders[0])
    page = measurement_page(measurement, judge_equals(measurement), source=folders[0], language=language)
    if out is None:
        write_data(page)
        return
    write_file(out, page.encode())
    echo(str(out))


def _verify(path: Path) -> int:
    found = verify(path)
    for line in found.lines():
        echo(line)
    runs = plural(found.runs, "run") if found.runs else "published figures"
    differences = plural(len(found.differences), "difference") if found.differences else "no difference"
    echo(f"{path}: {plural(found.cases, 'case')} recomputed from {runs}: {differences}")
    return EXIT_DIFFERENT if found.differences else 0


def _form_of(path: Path | None, option: str) -> str | None:
    """The format that the suffix of a file names."""
    if path is None:
        return None
    known = _FORMS if option == "--out" else {name: form for name, form in _FORMS.items() if form in _DATA}
    form = known.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{option} {path}: the name must end in {', '.join(known)}, or give --format")
    return form


def _write_data(report: Document, request: Request, out: Path | None, form: str) -> None:
    from dlperf.results.tables import data_table, encoded

    price = request.view.price_per_device_hour
    content = encoded(data_table(report.figures, price_per_device_hour=price), form)
    if out is None:
        click.echo(content, nl=False)
        return
    write_file(out, content)


def _write_text(report: Document, request: Request, out: Path | None) -> None:
    if out is not None:
        write_report(report, request, out)
    elif request.form == "html":
        write_data(render(report, request, charts=draw_charts(report)))
    else:
        write_data(render(report, request))
