"""What the referee flags, as a table under the one that it looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.text import Column, Table, joined, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dlperf.plan.case import Case
    from dlperf.report.referee import Flag
    from dlperf.report.text import Inline
    from dlperf.results.cases import CaseFigures


def flags_table(flags: Iterable[Flag], *, name: Callable[[CaseFigures], Inline]) -> Table | None:
    """The flags of a table, for under it, each case under its name; None where there is none."""
    rows = tuple((flag.law, name(flag.subject), flag.expected, flag.actual) for flag in flags)
    columns = (
        Column(heading=say("law")),
        Column(heading=say("case")),
        Column(heading=say("expected")),
        Column(heading=say("actual"), numbers=True),
    )
    caption = say("The referee, which changes no figure")
    return Table(caption=caption, columns=columns, rows=rows) if rows else None


def case_words(figure: CaseFigures, *, titles: Mapping[str, str]) -> Inline:
    """A case as people name it, in the order of a table's columns."""
    case = figure.case
    return joined(
        (
            f"{titles.get(case.framework, case.framework)} {case.version}",
            *cell_words(case, with_classes=not figure.published),
        )
    )


def cell_words(case: Case, *, with_classes: bool = True) -> tuple[Inline, ...]:
    """What a case is beside its framework and parallelism; of a number that is searched for, that it is."""
    parts: list[Inline] = [
        str(case.topology),
        say("batch {batch}", batch=case.size("batch_size_per_device")),
        *([say("{count} classes", count=case.size("num_classes"))] if with_classes else []),
        case.precision,
    ]
    if case.sample_ratio is not None:
        parts.append(say("sample ratio {ratio}", ratio=f"{case.sample_ratio:g}"))
    return tuple(parts)
