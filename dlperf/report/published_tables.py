"""The tables of a published data set as they were published: every figure at its place, none made again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dlperf.report.markdown import Column, Markdown, Table, fill
from dlperf.report.numbers import factor, percent, rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dlperf.plan.case import Parallelism
    from dlperf.results.published import Published, PublishedCase, PublishedData, Superseded

DASH = Markdown("-")  # in a cell it begins no list
_CHANGE = 2  # a change takes two values
PARALLELISMS = {"data": "data parallel", "model": "model parallel", "partial_fc": "Partial FC"}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One published table: topologies down, frameworks across."""

    experiment: str
    parallelism: Parallelism
    sample_ratio: float | None
    largest_batch: bool  # the largest that trained, so that it may differ between frameworks
    labels: Mapping[str, str]  # of frameworks, in the order of the columns
    cases: tuple[PublishedCase, ...]

    @cached_property
    def cells(self) -> dict[tuple[int, int], dict[str, PublishedCase]]:
        """By nodes and devices a node, from small to large; then by framework."""
        rows: dict[tuple[int, int], dict[str, PublishedCase]] = {}
        for case in sorted(self.cases, key=topology_key):
            rows.setdefault((case.nodes, case.gpus_per_node), {})[case.framework] = case
        return rows

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Those that stand in it, from left to right."""
        found = {case.framework for case in self.cases}
        return tuple(name for name in self.labels if name in found)

    @property
    def batches(self) -> frozenset[int | None]:
        """Those of its cases."""
        return frozenset(case.batch_size_per_device for case in self.cases)

    @property
    def variant(self) -> str:
        """What tells its series from those of the other tables of a section, in words."""
        ratio = f", ratio {self.sample_ratio:g}" if self.sample_ratio is not None else ""
        return ("max batch" if self.largest_batch else f"batch {min(filter(None, self.batches))}") + ratio

    @property
    def caption(self) -> str:
        """Its line above the table."""
        size = "max" if self.largest_batch else str(min(filter(None, self.batches)))
        ratio = f", sample_ratio = {self.sample_ratio:g}" if self.sample_ratio is not None else ""
        return f"batch_size_per_device = {size}{ratio}"


def topology_key(case: PublishedCase) -> tuple[int, int, int]:
    """By the number of devices."""
    return (case.nodes * case.gpus_per_node, case.nodes, case.gpus_per_node)


def topology_name(case: PublishedCase | Superseded) -> str:
    """Such as `2n8g`."""
    return f"{case.nodes}n{case.gpus_per_node}g"


def grids(data: PublishedData, *, labels: Mapping[str, str]) -> tuple[Grid, ...]:
    """Every case in exactly one table, the tables in the order of the cases."""
    groups: dict[tuple[str, Parallelism, float | None, bool], list[PublishedCase]] = {}
    for case in data.cases:
        key = (f"{case.network}_{case.dataset}", case.parallelism, case.sample_ratio, case.batch_is_max)
        groups.setdefault(key, []).append(case)
    return tuple(
        Grid(
            experiment=experiment,
            parallelism=parallelism,
            sample_ratio=ratio,
            largest_batch=largest,
            labels=labels,
            cases=tuple(cases),
        )
        for (experiment, parallelism, ratio, largest), cases in groups.items()
    )


def throughput_table(grid: Grid) -> Table:
    """The table as it was published, and the ratio of the first framework to each of the others."""
    names, alike = grid.frameworks, len(grid.batches) == 1
    first = names[0]
    headings = ["node_num", "gpu_num_per_node", *(["batch_size_per_device"] if alike else [])]
    for name in names:
        label = grid.labels[name]
        headings += [] if alike else [f"{label} batch_size_per_device"]
        headings += [f"{label} samples/s", f"{label} speedup"]
    headings += [f"{grid.labels[first]} / {grid.labels[other]}" for other in names[1:]]
    rows = []
    for (nodes, gpus), row in grid.cells.items():
        cells = [str(nodes), str(gpus), *([str(min(filter(None, grid.batches)))] if alike else [])]
        for name in names:
            case = row.get(name)
            cells += [] if alike else [_count(case.batch_size_per_device if case else None)]
            cells += [rate(case.samples_per_sec) or DASH if case else DASH]
            cells += [factor(case.speedup) or DASH if case else DASH]
        cells += [factor(ratio(row.get(first), row.get(other))) or DASH for other in names[1:]]
        rows.append(tuple(cells))
    return Table(columns=_numbers(headings), rows=tuple(rows))


def ratio(over: PublishedCase | None, under: PublishedCase | None) -> float | None:
    """Of two figures; None where one is missing."""
    if over is None or under is None or over.samples_per_sec is None or under.samples_per_sec is None:
        return None
    return over.samples_per_sec / under.samples_per_sec


def dashes(grid: Grid, *, units: Mapping[str, str]) -> Markdown | None:
    """Why a dash stands in the table, in the words of the source; None where none does."""
    missing = {
        field: [case for case in grid.cases if getattr(case, field) is None]
        for field in ("samples_per_sec", "batch_size_per_device")
    }
    if not missing["samples_per_sec"]:
        return None
    who = ", ".join(dict.fromkeys(grid.labels[case.framework] for case in missing["samples_per_sec"]))
    reasons = [
        f"{field} {units[field].partition('null = ')[2] or 'not given'}"
        for field, cases in missing.items()
        if cases
    ]
    return fill("`-` {who}: {reasons}.", who=who, reasons="; ".join(reasons))


def limits_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """The most classes that trained: a row a topology, and the ratio of the frameworks."""
    names = [name for name in labels if any(one.framework == name for one in data.max_num_classes)]
    headings = ["node_num", "gpu_num_per_node", "batch_size_per_device", "precision", "parallelism"]
    headings += [f"{labels[name]} {what}" for name in names for what in ("sample_ratio", "num_classes")]
    headings += [f"{labels[names[0]]} / {labels[other]}" for other in names[1:]]
    rows: dict[tuple[str, ...], dict[str, tuple[str, int]]] = {}
    for one in data.max_num_classes:
        ways = [word for word, so in (("model", one.model_parallel), ("partial_fc", one.partial_fc)) if so]
        key: tuple[str, ...] = (
            str(one.nodes),
            str(one.gpus_per_node),
            str(one.batch_size_per_device),
            one.precision,
            " + ".join(ways) or "data",
        )
        sampled = f"{one.sample_ratio:g}" if one.sample_ratio is not None else DASH
        rows.setdefault(key, {})[one.framework] = (sampled, one.num_classes)
    body = []
    for key, row in rows.items():
        cells = [*key]
        for name in names:
            sampled, classes = row.get(name, (DASH, None))
            cells += [sampled, _count(classes)]
        for other in names[1:]:
            both = names[0] in row and other in row
            cells.append(classes_ratio(row[names[0]][1], row[other][1]) if both else DASH)
        body.append(tuple(cells))
    return Table(columns=_numbers(headings), rows=tuple(body))


def classes_ratio(over: int, under: int) -> str:
    """Of two numbers of classes, which are round: three decimals."""
    return f"{over / under:.3f}"


def repeats_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """The single runs that the source printed, and what it printed below them."""
    numbers = sorted({number for one in data.repeats for number in one.repeats}, key=int)
    headings = ["median", "mean", "printed median", "printed average", "printed speedup", "whole"]
    columns = (
        *_place_columns(),
        *_numbers([f"run {number}" for number in numbers]),
        *_numbers(headings),
        Column(heading="source"),
    )
    rows = [
        (
            labels[one.framework],
            f"{one.network}_{one.dataset}",
            *_place_cells(one.parallelism, one.sample_ratio, one.nodes, one.gpus_per_node),
            str(one.batch_size_per_device),
            *(rate(one.repeats.get(number)) or DASH for number in numbers),
            rate(one.median),
            rate(one.mean),
            rate(one.printed_median) or DASH,
            rate(one.printed_average) or DASH,
            factor(one.printed_speedup) or DASH,
            "yes" if one.complete else "no",
            source_link(data, one.source_file),
        )
        for one in data.repeats
    ]
    return Table(columns=columns, rows=tuple(rows))


def superseded_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """What stood in the source before, oldest first, and how far the last value lies from the first."""
    columns = (
        *_place_columns(),
        Column(heading="samples/s, since when"),
        Column(heading="last to first", numbers=True),
        Column(heading="source"),
    )
    rows = []
    for one in data.superseded:
        known = [value.samples_per_sec for value in one.values if value.samples_per_sec is not None]
        change = percent(known[-1] / known[0] - 1, decimals=1) if len(known) >= _CHANGE else DASH
        values = ", ".join(
            f"{rate(value.samples_per_sec) or DASH} ({value.since}, {value.commit})" for value in one.values
        )
        rows.append(
            (
                labels[one.framework],
                f"{one.network}_{one.dataset}" if one.network and one.dataset else "not said",
                *_place_cells(one.parallelism, one.sample_ratio, one.nodes, one.gpus_per_node),
                _count(one.batch_size_per_device),
                values,
                change,
                source_link(data, one.source_file),
            )
        )
    return Table(columns=columns, rows=tuple(rows))


def facts_table(published: Published, *, labels: Mapping[str, str]) -> Table:
    """What the figures were measured on and with, as the source says."""
    data = published.data
    rows = [
        ("hardware", data.hardware),
        *((labels[name], text) for name, text in data.software.items()),
        ("method", data.method),
    ]
    return Table(columns=(Column(heading="what"), Column(heading="as published")), rows=tuple(rows))


def source_link(data: PublishedData, path: str) -> Markdown:
    """A file of the source, at the commit that the data was read from."""
    url = f"https://github.com/{data.repository}/blob/{data.commit}/{path}"
    return fill("[{path}]({url})", path=path, url=url)


def _count(value: int | None) -> str:
    return DASH if value is None else str(value)


def _numbers(headings: Iterable[str]) -> tuple[Column, ...]:
    return tuple(Column(heading=heading, numbers=True) for heading in headings)


def _place_columns() -> Sequence[Column]:
    return (
        Column(heading="framework"),
        Column(heading="workload"),
        Column(heading="parallelism"),
        Column(heading="topology"),
        Column(heading="batch", numbers=True),
    )


def _place_cells(
    parallelism: str, sample_ratio: float | None, nodes: int, gpus_per_node: int
) -> tuple[str, str]:
    ratio = f" {sample_ratio:g}" if sample_ratio is not None else ""
    return parallelism + ratio, f"{nodes}n{gpus_per_node}g"
