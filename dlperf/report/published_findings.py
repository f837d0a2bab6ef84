"""What a published data set says: ratios, scaling and limits, computed from its figures and never typed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from dlperf.report.markdown import Column, Table
from dlperf.report.numbers import factor, percent, plural, rate
from dlperf.report.published_annex import change, classes_ratio
from dlperf.report.published_tables import (
    DASH,
    PARALLELISMS,
    Grid,
    ratio,
    topology_key,
    topology_name,
)
from dlperf.report.referee import MARGIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dlperf.results.published import PublishedCase, PublishedData

# Scaling breaks where more devices bring less than this share of what they would bring if each did its part.
BREAK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The first step to more devices at which a series stops scaling."""

    label: str
    grid: Grid
    fewer: PublishedCase
    more: PublishedCase
    gain: float  # share of the added devices' throughput that arrived


def conclusions(data: PublishedData, grids: Sequence[Grid], *, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences, each from the figures alone."""
    return (
        *_ratios(grids, labels),
        *_scaling(grids, labels),
        *_limits(data, labels),
        *_sessions(data, labels),
    )


def _pairs(grids: Sequence[Grid], first: str, other: str) -> Iterator[tuple[float, Grid, PublishedCase]]:
    for grid in grids:
        for row in grid.cells.values():
            times = ratio(row.get(first), row.get(other))
            if times is not None:
                yield times, grid, row[first]


def _ratios(grids: Sequence[Grid], labels: Mapping[str, str]) -> Iterator[str]:
    first, *others = labels
    for other in others:
        pairs = sorted(_pairs(grids, first, other), key=lambda pair: pair[0])
        if not pairs:
            continue
        ahead = sum(times > 1 for times, _, _ in pairs)
        low, high = pairs[0], pairs[-1]
        yield (
            f"{labels[first]} / {labels[other]} in samples/s: {factor(low[0])} ({_place(low)}) to "
            f"{factor(high[0])} ({_place(high)}); {labels[first]} is the faster in {ahead} of "
            f"{plural(len(pairs), 'pair')} of figures"
        )
        for single, words in ((True, "one device"), (False, "several devices")):
            some = [pair[0] for pair in pairs if (topology_key(pair[2])[0] == 1) == single]
            if some:
                yield f"On {words} the ratio is {factor(some[0])} to {factor(some[-1])}"


def _place(pair: tuple[float, Grid, PublishedCase]) -> str:
    _, grid, case = pair
    return f"{grid.experiment}, {PARALLELISMS[grid.parallelism]}, {grid.variant}, {topology_name(case)}"


def series(grid: Grid, framework: str) -> list[PublishedCase]:
    """The measured cases of a framework in a table, from few to many devices."""
    cases = (row.get(framework) for row in grid.cells.values())
    return [case for case in cases if case is not None and case.samples_per_sec is not None]


def breaks(grids: Sequence[Grid], labels: Mapping[str, str]) -> tuple[Break, ...]:
    """Where each series of the tables stops scaling, where it does."""
    found = (
        _break(grid, series(grid, name), label=label) for name, label in labels.items() for grid in grids
    )
    return tuple(one for one in found if one is not None)


def _break(grid: Grid, cases: Sequence[PublishedCase], *, label: str) -> Break | None:
    for fewer, more in pairwise(cases):
        added = topology_key(more)[0] / topology_key(fewer)[0] - 1
        gain = ((more.samples_per_sec or 0.0) / (fewer.samples_per_sec or 1.0) - 1) / added
        if gain < BREAK:
            return Break(label=label, grid=grid, fewer=fewer, more=more, gain=gain)
    return None


def _scaling(grids: Sequence[Grid], labels: Mapping[str, str]) -> Iterator[str]:
    broken = breaks(grids, labels)
    for name, label in labels.items():
        known = [cases for grid in grids if len(cases := series(grid, name)) > 1]
        if not known:
            continue
        most = [cases[-1] for cases in known]
        shares = sorted(
            (case.samples_per_sec or 0.0) / (cases[0].samples_per_sec or 1.0) / topology_key(case)[0]
            for case, cases in zip(most, known, strict=True)
        )
        count = sum(one.label == label for one in broken)
        yield (
            f"{label} reaches {percent(shares[0], decimals=0)} to {percent(shares[-1], decimals=0)} of the "
            f"ideal speedup on its most devices; its scaling breaks in {count} of {len(known)} series"
        )


def breaks_table(grids: Sequence[Grid], labels: Mapping[str, str]) -> Table | None:
    """Every series that stops scaling, and where; None where all scale."""
    headings = ("framework", "workload", "parallelism", "series", "from, samples/s", "to, samples/s")
    columns = (
        *(Column(heading=heading) for heading in headings),
        Column(heading="share of the added devices", numbers=True),
    )
    rows = tuple(
        (
            one.label,
            one.grid.experiment,
            PARALLELISMS[one.grid.parallelism],
            one.grid.variant,
            f"{topology_name(one.fewer)}, {rate(one.fewer.samples_per_sec)}",
            f"{topology_name(one.more)}, {rate(one.more.samples_per_sec)}",
            percent(one.gain, decimals=0),
        )
        for one in breaks(grids, labels)
    )
    return Table(columns=columns, rows=rows) if rows else None


def ratios_table(grids: Sequence[Grid], labels: Mapping[str, str]) -> Table | None:
    """The range of the ratio under each workload and parallelism; None with one framework."""
    first, *others = labels
    rows: dict[tuple[str, str, str], list[float]] = {}
    for other in others:
        for times, grid, _ in _pairs(grids, first, other):
            sampled = f" {grid.sample_ratio:g}" if grid.sample_ratio is not None else ""
            place = (
                grid.experiment,
                PARALLELISMS[grid.parallelism] + sampled,
                f"{labels[first]} / {labels[other]}",
            )
            rows.setdefault(place, []).append(times)
    columns = (
        Column(heading="workload"),
        Column(heading="parallelism"),
        Column(heading="ratio of"),
        Column(heading="smallest", numbers=True),
        Column(heading="largest", numbers=True),
        Column(heading="pairs", numbers=True),
    )
    body = tuple(
        (*place, factor(min(found)) or DASH, factor(max(found)) or DASH, str(len(found)))
        for place, found in rows.items()
    )
    return Table(columns=columns, rows=body) if body else None


def _limits(data: PublishedData, labels: Mapping[str, str]) -> Iterator[str]:
    first, *others = labels
    most: dict[str, dict[str, int]] = {}
    for one in data.max_num_classes:
        most.setdefault(f"{one.nodes}n{one.gpus_per_node}g", {})[one.framework] = one.num_classes
    for other in others:
        times = [
            f"{classes_ratio(row[first], row[other])} on {topology}"
            for topology, row in most.items()
            if first in row and other in row
        ]
        if times:
            yield f"{labels[first]} / {labels[other]} in the most classes that train: {', '.join(times)}"


def _sessions(data: PublishedData, labels: Mapping[str, str]) -> Iterator[str]:
    """The same case has the same figure in two sessions; where that does not hold."""
    changes = [(moved, one) for one in data.superseded if (moved := change(one)) is not None]
    if not changes:
        return
    most, where = max(changes, key=lambda entry: abs(entry[0]))
    far = sum(abs(moved) > MARGIN for moved, _ in changes)
    batch = f", batch {where.batch_size_per_device}" if where.batch_size_per_device else ""
    sampled = f" {where.sample_ratio:g}" if where.sample_ratio is not None else ""
    yield (
        f"Of {plural(len(changes), 'figure')} that a later one superseded {far} moved by more than "
        f"{MARGIN:.0%}, the most by {percent(most, decimals=1)} ({labels[where.framework]}, "
        f"{PARALLELISMS[where.parallelism]}{sampled}, {topology_name(where)}{batch})"
    )
