"""`dlperf report`: the comparison as a document that people read."""

from __future__ import annotations

from pathlib import Path

import click

EXIT_SOME_MISSING = 3

_EPILOG = """\b
Examples:
  dlperf report results/quickstart --out report.md
  dlperf report results/monday results/friday --out both.md
  dlperf report results/quickstart | less
  dlperf report published:insightface_v100_2021 --out report.md

Exit code 2: no result at all, or with --strict something skipped or not comparable; 3: the report is written,
but some result files could not be read. A case that failed is part of the report and no error here."""


@click.command(epilog=_EPILOG)
@click.argument("folders", nargs=-1, metavar="[RESULTS]...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report here, and its charts into <name>_files/ beside it. Without it the text goes to "
    "standard output, without charts.",
)
@click.option("--format", "form", type=click.Choice(["md"]), default="md", show_default=True)
@click.option(
    "--template", type=click.Path(path_type=Path, dir_okay=False), help="A jinja2 file of your own."
)
@click.option(
    "--align",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A certificate of `dlperf align`. Repeatable.  [default: align.json in the results' folders]",
)
@click.option("--strict", is_flag=True, help="Unreadable results and mixed hardware are errors.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    folders: tuple[Path, ...],
    out: Path | None,
    form: str,
    template: Path | None,
    certificates: tuple[Path, ...],
    strict: bool,
) -> None:
    """Write the comparison of the frameworks in RESULTS (default: results).

    RESULTS are results folders, the folders of single sweeps, or published figures (published:NAME). Cases
    are compared only where everything but the framework is the same; the others stand in tables of their
    own.
    """
    from dlperf.report.building import build_report
    from dlperf.report.render import markdown

    del form  # there is one
    report = build_report(folders or (Path("results"),), certificates=certificates, strict=strict)
    for skipped in report.skipped:
        click.echo(f"dlperf: skipped {skipped}", err=True)
    if out is None:
        click.echo(markdown(report, charts={}, template=template), nl=False)
    else:
        from dlperf.report.writing import write_report

        write_report(report, out, template=template)
        click.echo(str(out))
    ctx.exit(EXIT_SOME_MISSING if report.skipped else 0)
