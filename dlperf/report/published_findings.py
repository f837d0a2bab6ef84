"""What a published data set says: ratios, scaling and limits, computed from its figures and never typed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from dlperf.report.numbers import factor, percent, rate
from dlperf.report.published_annex import change, classes_ratio
from dlperf.report.published_tables import (
    DASH,
    PARALLELISMS,
    Grid,
    ratio,
    sampled_parallelism,
    topology_key,
    topology_name,
)
from dlperf.report.referee import MARGIN
from dlperf.report.text import Column, Table, joined, plural, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dlperf.report.text import Inline, Text
    from dlperf.results.published_data import PublishedCase, PublishedData

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


def conclusions(data: PublishedData, grids: Sequence[Grid], *, labels: Mapping[str, str]) -> tuple[Text, ...]:
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


def _ratios(grids: Sequence[Grid], labels: Mapping[str, str]) -> Iterator[Text]:
    first, *others = labels
    for other in others:
        pairs = sorted(_pairs(grids, first, other), key=lambda pair: pair[0])
        if not pairs:
            continue
        ahead = sum(times > 1 for times, _, _ in pairs)
        low, high = pairs[0], pairs[-1]
        yield say(
            "{first} / {other} in samples/s: {low} ({low_place}) to {high} ({high_place}); {first} is the "
            "faster in {ahead} of {pairs} of figures",
            first=labels[first],
            other=labels[other],
            low=factor(low[0]),
            low_place=_place(low),
            high=factor(high[0]),
            high_place=_place(high),
            ahead=ahead,
            pairs=plural(len(pairs), "pair"),
        )
        for single, words in ((True, say("one device")), (False, say("several devices"))):
            some = [pair[0] for pair in pairs if (topology_key(pair[2])[0] == 1) == single]
            if some:
                yield say(
                    "On {devices} the ratio is {low} to {high}",
                    devices=words,
                    low=factor(some[0]),
                    high=factor(some[-1]),
                )


def _place(pair: tuple[float, Grid, PublishedCase]) -> Inline:
    _, grid, case = pair
    return joined((grid.experiment, PARALLELISMS[grid.parallelism], grid.variant, topology_name(case)))


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


def _scaling(grids: Sequence[Grid], labels: Mapping[str, str]) -> Iterator[Text]:
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
        yield say(
            "{framework} reaches {low} to {high} of the ideal speedup on its most devices; its scaling "
            "breaks in {count} of {known} series",
            framework=label,
            low=percent(shares[0], decimals=0),
            high=percent(shares[-1], decimals=0),
            count=count,
            known=len(known),
        )


def breaks_table(grids: Sequence[Grid], labels: Mapping[str, str]) -> Table | None:
    """Every series that stops scaling, and where; None where all scale."""
    headings = (
        say("framework"),
        say("workload"),
        say("parallelism"),
        say("series"),
        say("from, samples/s"),
        say("to, samples/s"),
    )
    columns = (
        *(Column(heading=heading) for heading in headings),
        Column(heading=say("share of the added devices"), numbers=True),
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
    caption = say(
        "Where scaling breaks: the first step to more devices of which less than half arrives, that is of "
        "the samples/s that the added devices would bring if each did as much as those before"
    )
    return Table(caption=caption, columns=columns, rows=rows) if rows else None


def ratios_table(grids: Sequence[Grid], labels: Mapping[str, str]) -> Table | None:
    """The range of the ratio under each workload and parallelism; None with one framework."""
    first, *others = labels
    rows: dict[tuple[Inline, ...], list[float]] = {}
    for other in others:
        for times, grid, _ in _pairs(grids, first, other):
            place = (
                grid.experiment,
                sampled_parallelism(grid.parallelism, grid.sample_ratio),
                f"{labels[first]} / {labels[other]}",
            )
            rows.setdefault(place, []).append(times)
    columns = (
        Column(heading=say("workload")),
        Column(heading=say("parallelism")),
        Column(heading=say("ratio of")),
        Column(heading=say("smallest"), numbers=True),
        Column(heading=say("largest"), numbers=True),
        Column(heading=say("pairs"), numbers=True),
    )
    body = tuple(
        (*place, factor(min(found)) or DASH, factor(max(found)) or DASH, str(len(found)))
        for place, found in rows.items()
    )
    caption = say(
        "Ratios of samples/s, over all topologies and batch sizes that both have (the largest batches are "
        "each framework's own)"
    )
    return Table(caption=caption, columns=columns, rows=body) if body else None


def _limits(data: PublishedData, labels: Mapping[str, str]) -> Iterator[Text]:
    first, *others = labels
    most: dict[str, dict[str, int]] = {}
    for one in data.max_num_classes:
        most.setdefault(f"{one.nodes}n{one.gpus_per_node}g", {})[one.framework] = one.num_classes
    for other in others:
        times = [
            say("{ratio} on {topology}", ratio=classes_ratio(row[first], row[other]), topology=topology)
            for topology, row in most.items()
            if first in row and other in row
        ]
        if times:
            yield say(
                "{first} / {other} in the most classes that train: {ratios}",
                first=labels[first],
                other=labels[other],
                ratios=joined(times),
            )


def _sessions(data: PublishedData, labels: Mapping[str, str]) -> Iterator[Text]:
    """The same case has the same figure in two sessions; where that does not hold."""
    changes = [(moved, one) for one in data.superseded if (moved := change(one)) is not None]
    if not changes:
        return
    most, where = max(changes, key=lambda entry: abs(entry[0]))
    far = sum(abs(moved) > MARGIN for moved, _ in changes)
    place: list[Inline] = [
        labels[where.framework],
        sampled_parallelism(where.parallelism, where.sample_ratio),
        topology_name(where),
    ]
    if where.batch_size_per_device:
        place.append(say("batch {batch}", batch=where.batch_size_per_device))
    yield say(
        "Of {figures} that a later one superseded {far} moved by more than {margin}, the most by {most} "
        "({place})",
        figures=plural(len(changes), "figure"),
        far=far,
        margin=percent(MARGIN, decimals=0),
        most=percent(most, decimals=1),
        place=joined(place),
    )
