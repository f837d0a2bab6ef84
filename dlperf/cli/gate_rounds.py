"""The course of `dlperf gate`: a first round, more runs where they are needed, the suspects once more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from dlperf.cli.run_sweep import Manner, make_runs
from dlperf.compare.comparing import compare
from dlperf.compare.confirming import CONFIRMING_LOOKS, confirm, suspects, undecided
from dlperf.compare.finding import Findings
from dlperf.compare.judging import LEVEL, Rule
from dlperf.compare.metrics import Verdict
from dlperf.compare.notes import of_several
from dlperf.compare.sources import side_of
from dlperf.report.numbers import plural
from dlperf.results.query import load
from dlperf.running.stored import pending_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from dlperf.compare.arms import Arms
    from dlperf.compare.finding import Finding
    from dlperf.compare.settings import Settings
    from dlperf.compare.side import Side
    from dlperf.plan.plan import Plan

FIRST, MORE, AGAIN = "first", "more", "again"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate in a folder of its own; each round is a sweep folder in it.

    `plan` makes the whole plan with a number of repeats. Either `against` is the baseline, or `arms` are the
    comparisons that the sweep itself holds.
    """

    plan: Callable[[int], Plan]
    folder: Path
    settings: Settings
    against: Side | None
    arms: Sequence[Arms]
    manner: Manner

    def judged(self, *, repeats: int, until_decided: int | None) -> Findings:
        """Run and judge; what was found stands on the last fresh runs.

        Raises:
            Interrupted: a signal; what is done is stored.
            DlperfError: wrong input, or the infrastructure failed.
        """
        most = 1 if until_decided is None else max(1, math.ceil(until_decided / repeats))
        rule = Rule(level=LEVEL / most)  # who looks several times is misled several times as often
        rounds = [FIRST]
        self._run(FIRST, repeats=repeats)
        looks = self._findings(rounds, rule)
        while len(rounds) < most:
            unclear = [row for look in looks for row in look.cases if _is_unclear(row)]
            if not unclear:
                break
            rounds.append(f"{MORE}-{len(rounds)}")
            _say(f"{plural(len(unclear), 'case')} undecided: look {len(rounds)} of at most {most}")
            self._run(rounds[-1], repeats=repeats, only=unclear)
            looks = self._findings(rounds, rule)
        return _together(self._confirmed(looks, repeats=repeats * len(rounds)))

    def _confirmed(self, looks: Sequence[Findings], *, repeats: int) -> list[Findings]:
        """The looks with their suspects run again; once more where these runs do not tell either."""
        doubtful = [row for look in looks for row in suspects(look)]
        confirmed, rounds = list(looks), list[str]()
        while doubtful and len(rounds) < CONFIRMING_LOOKS:
            rounds.append(AGAIN if not rounds else f"{AGAIN}-{len(rounds) + 1}")
            count = len({row.baseline.case.case_id for row in doubtful})
            _say(f"{plural(count, 'case')} worse at first sight: fresh runs, look {len(rounds)}")
            self._run(rounds[-1], repeats=repeats, only=doubtful)
            confirmed = [
                confirm(look, fresh=fresh, settings=self.settings) if suspects(look) else look
                for look, fresh in zip(looks, self._sides(rounds), strict=True)
            ]
            doubtful = [
                row for one, look in zip(confirmed, looks, strict=True) for row in undecided(one, look)
            ]
        return confirmed

    def _run(self, name: str, *, repeats: int, only: Iterable[Finding] | None = None) -> None:
        plan = self.plan(repeats)
        if only is not None:
            plan = plan.narrowed(_case_ids(only))
        folder = self.folder / name
        if not pending_runs(plan, results=folder, retry_failed=self.manner.retry_failed):
            _say(f"{folder}: its runs are made already, and are judged as they are")
        make_runs(
            plan,
            folder,
            selected=lambda frozen: frozen,
            manner=self.manner,
        )

    def _findings(self, rounds: Sequence[str], rule: Rule) -> list[Findings]:
        settings = replace(self.settings, rule=rule)
        return [
            compare(baseline, candidate, settings=settings) for baseline, candidate in self._sides(rounds)
        ]

    def _sides(self, rounds: Sequence[str]) -> tuple[tuple[Side, Side], ...]:
        loaded = load([self.folder / name for name in rounds], strict=False)
        side = side_of(loaded, label=self.folder.name).pooled()
        if self.against is not None:
            return ((self.against, side),)
        return tuple(arms.sides(side) for arms in self.arms)


def _is_unclear(row: Finding) -> bool:
    return row.verdict is Verdict.INCONCLUSIVE and row.judged is not None


def _case_ids(rows: Iterable[Finding]) -> frozenset[str]:
    """Both sides' cases: one of a baseline file is in no plan, and is passed over."""
    sides = (one for row in rows for one in (row.baseline, row.candidate))
    return frozenset(one.case.case_id for one in sides if one is not None)


def _together(parts: Sequence[Findings]) -> Findings:
    """The findings of several versions against one baseline."""
    if len(parts) == 1:
        return parts[0]
    return Findings(
        baseline=parts[0].baseline,
        candidate="; ".join(part.candidate for part in parts),
        rows=tuple(row for part in parts for row in part.rows),
        metric=parts[0].metric,
        new=tuple(one for part in parts for one in part.new),
        notes=of_several([part.notes for part in parts]),
    )


def _say(text: str) -> None:
    click.echo(text, err=True)
