"""What a table says, in a sentence or two: computed, never typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.report.notes import FEWEST_RUNS_FOR_A_VERDICT
from dlperf.report.numbers import factor
from dlperf.report.ratio import interval_of_ratio
from dlperf.report.text import plural, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlperf.report.comparison import Arm, Comparison, Row
    from dlperf.report.text import Inline, Text
    from dlperf.results.cases import CaseFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The two best of a row; `clear` when their runs tell them apart, `judged` when both have enough runs."""

    first: Arm
    margin: float
    judged: bool
    clear: bool


def findings(comparison: Comparison) -> tuple[Text, ...]:
    """Who is fastest in how many of the rows with several figures, and in how many that cannot be told."""
    if comparison.published:
        return ()  # one number per case names no winner
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
    judged = min(len(winner.good), len(second.good)) >= FEWEST_RUNS_FOR_A_VERDICT
    return Contest(
        first=arm, margin=best / next_best, judged=judged, clear=judged and _told_apart(winner, second)
    )


def _told_apart(winner: CaseFigures, second: CaseFigures) -> bool:
    interval = interval_of_ratio(winner, second)
    return interval is not None and interval.low > 1


def _sentences(comparison: Comparison, contests: list[Contest]) -> Iterator[Text]:
    rows = plural(len(contests), "row")
    clear = [contest for contest in contests if contest.clear]
    winners = [contest.first for contest in clear]
    for arm in sorted(set(winners), key=lambda arm: (-winners.count(arm), arm)):
        margins = sorted(contest.margin for contest in clear if contest.first == arm)
        ahead: Inline = factor(margins[0])
        if factor(margins[-1]) != ahead:
            ahead = say("{low} to {high}", low=ahead, high=factor(margins[-1]))
        yield say(
            "{framework} is the fastest in {won} of {rows}, {ahead} times the next",
            framework=comparison.label(arm),
            won=winners.count(arm),
            rows=rows,
            ahead=ahead,
        )
    alike = sum(contest.judged and not contest.clear for contest in contests)
    if alike:
        yield say("In {count} of {rows} the runs do not tell the fastest two apart", count=alike, rows=rows)
    few = sum(not contest.judged for contest in contests)
    if few:
        yield say(
            "In {count} of {rows} no framework is called the fastest: each of the fastest "
            "two would need {fewest} good runs",
            count=few,
            rows=rows,
            fewest=FEWEST_RUNS_FOR_A_VERDICT,
        )
