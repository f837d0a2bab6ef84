"""`dlperf doctor`: what is wrong with this machine, before a sweep finds out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from dlperf.running.health import Level, check_machine

EXIT_BAD = 5

_EPILOG = """\b
Examples:
  dlperf doctor
  dlperf doctor --results /data/results --json

Exit codes: 0 ok or warnings, 5 no case could run."""


@click.command(epilog=_EPILOG)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder where results will go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, *, results: Path, as_json: bool) -> None:
    """Check cores, load, memory, disk, control groups, clocks, GPUs and tools of this machine."""
    issues = []
    for issue in check_machine(results):
        issues.append(issue)
        if not as_json:
            click.echo(f"{issue.level:<8} {issue.check}: {issue.text}")
    if as_json:
        click.echo(json.dumps([asdict(issue) for issue in issues], indent=2))
    ctx.exit(EXIT_BAD if any(issue.level is Level.BAD for issue in issues) else 0)
