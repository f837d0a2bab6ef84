"""`dlperf results`: cases with their figures, as text, JSON or CSV."""

from __future__ import annotations

from pathlib import Path

import click

from dlperf.cli.selection import cycles_left_alone, load_results
from dlperf.cli.tables import case_table, rendered
from dlperf.files import write_atomically

EXIT_SOME_MISSING = 3

_EPILOG = """\b
Examples:
  dlperf results
  dlperf results results/quickstart --format json
  dlperf results results/quickstart --format csv -o quickstart.csv
  dlperf results published:insightface_v100_2021

Exit code 2: no result at all; 3: some result files could not be read; standard error names them."""


@click.command(epilog=_EPILOG)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of standard output.",
)
@click.option("--strict", is_flag=True, help="A result file that cannot be read is an error.")
@click.pass_context
@cycles_left_alone()
def command(
    ctx: click.Context, *, folders: tuple[Path, ...], form: str, out: Path | None, strict: bool
) -> None:
    """List the cases under DIR (default: results).

    DIR is a results folder, the folder of one sweep or published:NAME.
    """
    from dlperf.results.tables import LISTED, encoded, records

    loaded = load_results(folders, strict=strict)
    listed = loaded.cases[[column.name for column in LISTED]]
    text = rendered(case_table(records(listed))).encode() if form == "table" else encoded(listed, form)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text)
    ctx.exit(EXIT_SOME_MISSING if loaded.results.skipped else 0)
