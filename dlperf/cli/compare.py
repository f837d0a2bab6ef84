"""`dlperf compare`: did it become slower?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.cli.compare_options import judging_options

if TYPE_CHECKING:
    from dlperf.cli.compare_options import Judging

_EPILOG = """\b
Examples:
  dlperf compare results/monday results/friday
  dlperf compare framework=mxnet==1.9.0 framework=mxnet==1.9.1 --in results/versions_cpu
  dlperf compare nightly results/today --format md
  dlperf compare nightly results/today --write junit=compare.xml --write md=summary.md

A side is a results folder, a baseline that `dlperf baseline save` made (its name or its file),
published:NAME, or key=value, which selects cases of the folder that --in names.

Exit codes: 0 no regression, 1 regression, 2 wrong input, 3 cases missing or not comparable,
4 (with --strict) cases that could not be told."""


@click.command(epilog=_EPILOG)
@click.argument("baseline")
@click.argument("candidate")
@click.option(
    "--in",
    "inside",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="The folder that key=value selects from.",
)
@judging_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    baseline: str,
    candidate: str,
    inside: Path,
    judging: Judging,
) -> None:
    """Compare CANDIDATE with BASELINE, case by case: slower, faster, the same, or not told."""
    from dlperf.compare.comparing import compare
    from dlperf.compare.sources import compared_fields, read_side

    settings = judging.settings(compared=compared_fields(baseline, candidate))
    sides = (read_side(text, inside=inside) for text in (baseline, candidate))
    ctx.exit(judging.answer(compare(*sides, settings=settings)))
