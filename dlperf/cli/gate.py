"""`dlperf gate`: run, compare, run what looks worse again, and answer with an exit code."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from dlperf.cli import options
from dlperf.cli.compare import JUDGING, Judging
from dlperf.cli.run import make_runs, show
from dlperf.cli.terminal import say
from dlperf.compare.gate import (
    CONFIRMING_LOOKS,
    VersionComparison,
    confirm,
    suspects,
    undecided,
    version_comparisons,
)
from dlperf.compare.sets import ResultSet, read_result_set, result_set_of
from dlperf.compare.tests import Rule
from dlperf.compare.verdicts import CaseVerdict, Comparison, Settings, compare, of_several
from dlperf.errors import UserError
from dlperf.plan.cluster import Cluster
from dlperf.plan.plan import Plan
from dlperf.results.query import load
from dlperf.running.run_folder import pending_runs
from dlperf.statistics.basic import FEWEST_RUNS, LEVEL
from dlperf.wording import plural

_EPILOG = """\b
Examples:
  dlperf gate sweeps/versions_cpu.yaml --dry-run
  dlperf gate sweeps/versions_cpu.yaml
  dlperf gate sweeps/nightly.yaml --against nightly --write md=summary.md --write junit=gate.xml
  dlperf gate versions_cpu --baseline mxnet==1.9.1 --until-decided 20 --strict

The sweep lists two versions of a framework, which run in turns; the first is the baseline. With
--against the sweep is compared with a saved baseline or an older results folder.

Exit codes: 0 no regression, 1 regression, confirmed on fresh runs, 2 wrong input, 3 cases failed, missing or
not comparable, 4 no case has a verdict or (with --strict) some have none, 5 infrastructure, 130 Ctrl-C,
143 SIGTERM."""


@click.command(epilog=_EPILOG)
@options.SWEEP
@options.results_option("results/SWEEP-gate")
@click.option(
    "--repeats", type=options.at_least(4), help="Runs per case in the first round.  [default: the sweep's]"
)
@click.option("--against", metavar="BASELINE", help="Baseline to compare with, as in `dlperf compare`.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME==VERSION",
    help="Version to compare with.  [default: the first that the sweep lists]  Repeatable.",
)
@click.option(
    "--until-decided", type=options.at_least(4), help="Run inconclusive cases again, up to N runs each."
)
@options.DRY_RUN
@options.running_options()
@JUDGING
@click.pass_context
def command(
    ctx: click.Context,
    *,
    chosen: options.SweepChoice,
    results: Path | None,
    repeats: int | None,
    against: str | None,
    baselines: tuple[str, ...],
    until_decided: int | None,
    dry_run: bool,
    run_options: options.RunOptions,
    judging: Judging,
) -> None:
    """Run SWEEP and say whether something became slower.

    Cases that look worse are run again and tested on the new runs alone. The same command resumes.
    """

    def plan(count: int | None) -> Plan:
        counted = () if count is None else (f"measure.repeats={count}",)
        return chosen.selected(chosen.plan(*counted, "order=interleaved"))

    settings = judging.settings()
    first, sweep = plan(repeats), chosen.sweep
    if first.repeats < FEWEST_RUNS:
        raise UserError(
            f"{sweep}: {plural(first.repeats, 'repeat')}; a verdict needs at least {FEWEST_RUNS}: --repeats 5"
        )
    if not first.runnable:
        raise UserError(f"{sweep}: no case can run here; `dlperf plan {sweep}` says why")
    folder = results or options.default_folder(first, suffix="-gate")
    baseline = read_result_set(against, inside=folder) if against is not None else None
    version_pairs = (
        ()
        if against is not None
        else version_comparisons(first.runnable, sweep=first.sweep, baselines=baselines)
    )
    if dry_run:
        show(first, folder / FIRST, chosen.cluster, run_options)
        return

    gate = Gate(
        plan=plan,
        folder=folder,
        settings=settings,
        against=baseline,
        version_pairs=version_pairs,
        cluster=chosen.cluster,
        run_options=run_options,
    )
    ctx.exit(judging.answer(gate.compare_rounds(repeats=first.repeats, until_decided=until_decided)))


# The folders of the rounds.
FIRST, MORE, AGAIN = "first", "more", "again"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate in a folder of its own; each round is a sweep folder in it.

    `plan` makes the whole plan with a number of repeats. Either `against` is the baseline, or
    `version_pairs` are the comparisons that the sweep itself holds.
    """

    plan: Callable[[int], Plan]
    folder: Path
    settings: Settings
    against: ResultSet | None
    version_pairs: Sequence[VersionComparison]
    cluster: Cluster | None
    run_options: options.RunOptions

    def compare_rounds(self, *, repeats: int, until_decided: int | None) -> Comparison:
        """Run and compare; verdicts stand on the last fresh runs.

        DlperfError where the input is wrong, or the infrastructure failed.
        """
        most = 1 if until_decided is None else max(1, math.ceil(until_decided / repeats))
        rule = Rule(level=LEVEL / most)  # who looks several times is misled several times as often
        rounds = [FIRST]
        self._run(FIRST, repeats=repeats)
        looks = self._findings(rounds, rule)
        while len(rounds) < most:
            unclear = [row for look in looks for row in look.cases if row.can_be_settled]
            if not unclear:
                break
            rounds.append(f"{MORE}-{len(rounds)}")
            count = plural(len(unclear), "case")
            say(f"{count} undecided; running again (round {len(rounds)} of at most {most})")
            self._run(rounds[-1], repeats=repeats, only=unclear)
            looks = self._findings(rounds, rule)
        return _together(self._confirmed(looks, repeats=repeats * len(rounds)))

    def _confirmed(self, looks: Sequence[Comparison], *, repeats: int) -> list[Comparison]:
        """The looks with their suspects run again; once more where these runs do not tell either."""
        doubtful = [row for look in looks for row in suspects(look)]
        confirmed, rounds = list(looks), list[str]()
        while doubtful and len(rounds) < CONFIRMING_LOOKS:
            rounds.append(AGAIN if not rounds else f"{AGAIN}-{len(rounds) + 1}")
            count = len({row.baseline.case.case_id for row in doubtful})
            look = plural(count, "case looks", "cases look")
            say(f"{look} worse; running again to confirm (round {len(rounds)})")
            self._run(rounds[-1], repeats=repeats, only=doubtful)
            confirmed = [
                confirm(look, fresh=fresh, settings=self.settings) if suspects(look) else look
                for look, fresh in zip(looks, self._sides(rounds), strict=True)
            ]
            doubtful = [
                row for one, look in zip(confirmed, looks, strict=True) for row in undecided(one, look)
            ]
        return confirmed

    def _run(self, name: str, *, repeats: int, only: Iterable[CaseVerdict] | None = None) -> None:
        plan = self.plan(repeats)
        if only is not None:
            plan = plan.narrowed(_case_ids(only))
        folder = self.folder / name
        if not pending_runs(plan, results=folder, retry_failed=self.run_options.retry_failed):
            say(f"{folder}: its runs are complete and are used as they are")
        make_runs(plan, folder, self.cluster, self.run_options)

    def _findings(self, rounds: Sequence[str], rule: Rule) -> list[Comparison]:
        settings = replace(self.settings, rule=rule)
        return [
            compare(baseline, candidate, settings=settings) for baseline, candidate in self._sides(rounds)
        ]

    def _sides(self, rounds: Sequence[str]) -> tuple[tuple[ResultSet, ResultSet], ...]:
        loaded = load([self.folder / name for name in rounds], strict=False)
        side = result_set_of(loaded, label=self.folder.name).pooled()
        if self.against is not None:
            return ((self.against, side),)
        return tuple(version_pairs.sides(side) for version_pairs in self.version_pairs)


def _case_ids(rows: Iterable[CaseVerdict]) -> frozenset[str]:
    """Both sides' cases: one of a baseline file is in no plan, and is passed over."""
    sides = (one for row in rows for one in (row.baseline, row.candidate))
    return frozenset(one.case.case_id for one in sides if one is not None)


def _together(parts: Sequence[Comparison]) -> Comparison:
    """The findings of several versions against one baseline."""
    if len(parts) == 1:
        return parts[0]
    return Comparison(
        baseline=parts[0].baseline,
        candidate="; ".join(part.candidate for part in parts),
        rows=tuple(row for part in parts for row in part.rows),
        metric=parts[0].metric,
        new=tuple(one for part in parts for one in part.new),
        notes=of_several([part.notes for part in parts]),
    )
