"""`dlperf doctor`: what is wrong with this machine, before a sweep finds out."""

from __future__ import annotations

from pathlib import Path

import click

EXIT_BAD = 5

_EPILOG = """\b
Examples:
  dlperf doctor
  dlperf doctor --results /data/results --json

Exit codes: 0 also with warnings, 5 where nothing could run."""


@click.command(epilog=_EPILOG)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where results will go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, *, results: Path, as_json: bool) -> None:
    """Check cores, load, memory, disk, control groups, clocks, GPUs and tools of this machine."""
    import json
    from dataclasses import asdict

    from dlperf.running.health import Level, findings

    found = []
    for finding in findings(results):
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.level:<8} {finding.check}: {finding.text}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    ctx.exit(EXIT_BAD if any(finding.level is Level.BAD for finding in found) else 0)
