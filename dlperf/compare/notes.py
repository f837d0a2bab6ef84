"""What a reader must know beside the verdicts of a comparison, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.compare.finding import Finding
    from dlperf.compare.settings import Settings
    from dlperf.compare.side import Side, SideCase


def notes_on(baseline: Side, candidate: Side, rows: Sequence[Finding], settings: Settings) -> Iterator[str]:
    """How the sides were run, what was allowed, what failed, and which expectations are idle."""
    yield from settings.notes
    yield from _apart(rows)
    yield from _pythons(rows)
    allowed = {one.guard for row in rows for one in row.differences if one.guard in settings.allow}
    for guard in sorted(allowed):
        yield f"{guard} differs and was allowed to (--allow {guard})"
    failed = sum(one.failed_runs for one in candidate.cases), sum(one.failed_runs for one in baseline.cases)
    if any(failed):
        yield f"failed runs are left out: {failed[1]} of the baseline, {failed[0]} of the candidate"
    yield from (one.over for one in settings.expected if one.is_over(settings.today))
    used = {id(row.expected) for row in rows}
    yield from (
        f"{_IDLE}: {one.case} ({one.reason}); remove it from the file"
        for one in settings.expected
        if id(one) not in used and not one.is_over(settings.today)
    )


_IDLE = "expected failure matches nothing"


def of_several(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The notes of several comparisons, each once; what one of them has a use for is not idle."""
    return tuple(
        note
        for note in dict.fromkeys(note for part in parts for note in part)
        if not note.startswith(_IDLE) or all(note in part for part in parts)
    )


def _apart(rows: Sequence[Finding]) -> Iterator[str]:
    """What it means that sides were not run in turns, and whether anybody knows how much that is."""
    tested = [row for row in rows if row.judged is not None]
    apart = [row for row in tested if row.judged is not None and not row.judged.contrast.blocked]
    if not apart:
        return
    some = "" if len(apart) == len(tested) else f" of {len(apart)} in {plural(len(tested), 'finding')}"
    yield (
        f"the sides{some} were not run in common blocks: a machine that changed in between looks like a "
        "change of the framework; `dlperf gate` runs both sides in turns"
    )
    known = [row.noise_floor.sessions for row in apart if row.noise_floor and row.noise_floor.sessions]
    if not known:
        yield (
            "how much this machine changes from one session to another was not measured; `dlperf qualify` on "
            "two days or more measures it"
        )
        return
    most = f"{min(known)} to {max(known)}" if min(known) < max(known) else str(known[0])
    yield (
        f"how much this machine changes from one session to another is known for {len(known)} of "
        f"{plural(len(apart), 'finding')}, from {most} sessions of A/A runs"
    )


def _pythons(rows: Sequence[Finding]) -> Iterator[str]:
    """Versions that ran on different Pythons, which are a part of what is compared then."""
    pairs = dict.fromkeys(
        (_runtime(row.baseline), _runtime(row.candidate))
        for row in rows
        if row.candidate is not None and _differ(row.baseline.python, row.candidate.python)
    )
    for before, after in pairs:
        yield f"different Pythons: {before}, {after}; what they change counts as the framework's change"


def _differ(before: str | None, after: str | None) -> bool:
    return before is not None and after is not None and before != after


def _runtime(one: SideCase) -> str:
    return f"{one.case.framework} {one.case.version} on {one.python}"
