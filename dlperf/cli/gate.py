"""`dlperf gate`: run, compare, run what looks worse again, and answer with an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlperf.cli.compare_options import judging_options
from dlperf.cli.selection import default_folder, sweep_options
from dlperf.errors import UserError

if TYPE_CHECKING:
    from dlperf.cli.compare_options import Judging
    from dlperf.cli.selection import SweepChoice
    from dlperf.plan.plan import Plan

_EPILOG = """\b
Examples:
  dlperf gate sweeps/versions_cpu.yaml
  dlperf gate sweeps/nightly.yaml --against nightly --write md=summary.md --write junit=gate.xml
  dlperf gate versions_cpu --baseline mxnet==1.9.1 --until-decided 20 --strict

The sweep lists two versions of a framework, which are run in turns; the first one is the baseline. With
--against the sweep is compared with a saved baseline or an older results folder.

Exit codes: 0 no regression, 1 regression, confirmed on fresh runs, 2 wrong input, 3 cases failed, missing or
not comparable, 4 (with --strict) cases that could not be told, 5 infrastructure, 130 Ctrl-C, 143 SIGTERM."""


@click.command(epilog=_EPILOG)
@sweep_options
@click.option(
    "--results", type=click.Path(path_type=Path), help="Where results go.  [default: results/SWEEP-gate]"
)
@click.option("--repeats", type=click.IntRange(min=4), help="Blocks of the first round.")
@click.option("--against", metavar="SIDE", help="Compare with this, as `dlperf compare` takes it.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME==VERSION",
    help="The version to compare with, where it is not the first that the sweep lists. Repeatable.",
)
@click.option(
    "--until-decided",
    type=click.IntRange(min=4),
    metavar="N",
    help="Run cases that could not be told again, up to N runs each.",
)
@click.option("--no-wait", is_flag=True, help="Fail at once where another dlperf measures on this machine.")
@judging_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    chosen: SweepChoice,
    results: Path | None,
    repeats: int | None,
    against: str | None,
    baselines: tuple[str, ...],
    until_decided: int | None,
    no_wait: bool,
    judging: Judging,
) -> None:
    """Run SWEEP and say whether something became slower.

    What looks worse is run again, and judged on those runs alone. Starting again goes on where it ended.
    """
    from dlperf.compare.arms import arms_of
    from dlperf.compare.contrast import FEWEST_RUNS
    from dlperf.compare.sources import read_side

    def plan(count: int | None) -> Plan:
        counted = () if count is None else (f"measure.repeats={count}",)
        return chosen.selected(chosen.plan(*counted, "order=interleaved"))

    settings = judging.settings()
    first, sweep = plan(repeats), chosen.sweep
    if first.repeats < FEWEST_RUNS:
        raise UserError(
            f"{sweep}: {first.repeats} repeats; a verdict takes {FEWEST_RUNS} at least: --repeats 5"
        )
    if not first.runnable:
        raise UserError(f"{sweep}: nothing can run here; `dlperf plan {sweep}` says why")
    folder = results or default_folder(first, suffix="-gate")
    baseline = read_side(against, inside=folder) if against is not None else None
    arms = () if against is not None else arms_of(first.runnable, sweep=first.sweep, baselines=baselines)

    from dlperf.cli.gate_rounds import Gate
    from dlperf.cli.run_sweep import quiet_manner
    from dlperf.running.interrupts import Interrupted

    gate = Gate(
        plan=plan,
        folder=folder,
        settings=settings,
        against=baseline,
        arms=arms,
        manner=quiet_manner(chosen.cluster, wait=not no_wait),
    )
    try:
        findings = gate.judged(repeats=first.repeats, until_decided=until_decided)
    except Interrupted as interrupted:
        click.echo(
            f"stopped; what is done is kept in {folder}, and starting again goes on from there", err=True
        )
        ctx.exit(interrupted.exit_code)
    ctx.exit(judging.answer(findings))
