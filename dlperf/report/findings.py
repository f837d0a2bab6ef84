"""What a table says, in a sentence or two: computed, never typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.report.numbers import factor, plural
from dlperf.results.statistics import ratio_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.report.comparison import Arm, Comparison, Row
    from dlperf.results.figures import CaseFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The two best of a row; `clear` when their runs tell them apart."""

    first: Arm
    margin: float
    clear: bool


def findings(comparison: Comparison) -> tuple[str, ...]:
    """Who is fastest in how many of the rows with several figures, and in how many that cannot be told."""
    contests = [contest for row in comparison.rows if (contest := _contest(comparison, row))]
    return tuple(_sentences(comparison, contests))


def _contest(comparison: Comparison, row: Row) -> Contest | None:
    rated = [
        (figure.summary.median, arm, figure)
        for arm in comparison.arms
        if (figure := comparison.cases.get((row, arm))) is not None and figure.summary is not None
    ]
    if len(rated) < 2:  # noqa: PLR2004  a contest takes two
        return None
    rated.sort(key=lambda entry: (-entry[0], entry[1]))
    (best, arm, winner), (next_best, _, second) = rated[:2]
    return Contest(first=arm, margin=best / next_best, clear=_told_apart(winner, second))


def _told_apart(winner: CaseFigures, second: CaseFigures) -> bool:
    interval = ratio_interval(
        [run.samples_per_sec for run in winner.good], [run.samples_per_sec for run in second.good]
    )
    return interval is not None and interval.low > 1


def _sentences(comparison: Comparison, contests: list[Contest]) -> Iterator[str]:
    rows = plural(len(contests), "row")
    clear = [contest for contest in contests if contest.clear]
    winners = [contest.first for contest in clear]
    for arm in sorted(set(winners), key=lambda arm: (-winners.count(arm), arm)):
        margins = sorted(contest.margin for contest in clear if contest.first == arm)
        ahead = " to ".join(dict.fromkeys(map(factor, (margins[0], margins[-1]))))
        won = winners.count(arm)
        yield f"{comparison.label(arm)} is the fastest in {won} of {rows}, {ahead} times the next"
    if len(clear) < len(contests):
        yield f"In {len(contests) - len(clear)} of {rows} the runs do not tell the fastest two apart"
