"""The tables of a published data set as they were published: every figure at its place, none made again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dlperf.report.numbers import factor, rate
from dlperf.report.text import Column, Table, joined, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dlperf.plan.case import Parallelism
    from dlperf.report.text import Inline, Text
    from dlperf.results.published_data import PublishedCase, PublishedData, Superseded

DASH = say("-")  # ours, so that it stands as it is and is not escaped as if it began a list
PARALLELISMS = {
    "data": say("data parallel"),
    "model": say("model parallel"),
    "partial_fc": say("Partial FC"),
}


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
    def variant(self) -> Inline:
        """What tells its series from those of the other tables of a section, in words."""
        smallest = min(filter(None, self.batches))
        batch = say("max batch") if self.largest_batch else say("batch {batch}", batch=smallest)
        if self.sample_ratio is None:
            return batch
        return say("{batch}, ratio {ratio}", batch=batch, ratio=f"{self.sample_ratio:g}")

    @property
    def caption(self) -> str:
        """Its line above the table."""
        size = "max" if self.largest_batch else str(min(filter(None, self.batches)))
        ratio = f", sample_ratio = {self.sample_ratio:g}" if self.sample_ratio is not None else ""
        return f"batch_size_per_device = {size}{ratio}"


def sampled_parallelism(parallelism: str, sample_ratio: float | None) -> Inline:
    """Such as `Partial FC 0.1`."""
    words = PARALLELISMS[parallelism]
    return words if sample_ratio is None else joined((words, f"{sample_ratio:g}"), " ")


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
    headings: list[Inline] = ["node_num", "gpu_num_per_node", *(["batch_size_per_device"] if alike else [])]
    for name in names:
        label = grid.labels[name]
        headings += [] if alike else [f"{label} batch_size_per_device"]
        headings += [
            say("{framework} {column}", framework=label, column=column)
            for column in (say("samples/s"), say("speedup"))
        ]
    headings += [f"{grid.labels[first]} / {grid.labels[other]}" for other in names[1:]]
    rows = []
    for (nodes, gpus), row in grid.cells.items():
        cells: list[Inline] = [
            str(nodes),
            str(gpus),
            *([str(min(filter(None, grid.batches)))] if alike else []),
        ]
        for name in names:
            case = row.get(name)
            cells += [] if alike else [count(case.batch_size_per_device if case else None)]
            cells += [rate(case.samples_per_sec) or DASH if case else DASH]
            cells += [factor(case.speedup) or DASH if case else DASH]
        cells += [factor(ratio(row.get(first), row.get(other))) or DASH for other in names[1:]]
        rows.append(tuple(cells))
    return Table(caption=grid.caption, columns=numbers(headings), rows=tuple(rows))


def ratio(over: PublishedCase | None, under: PublishedCase | None) -> float | None:
    """Of two figures; None where one is missing."""
    if over is None or under is None or over.samples_per_sec is None or under.samples_per_sec is None:
        return None
    return over.samples_per_sec / under.samples_per_sec


def dashes(grid: Grid, *, units: Mapping[str, str]) -> Text | None:
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
    return say("`-` {who}: {reasons}.", who=who, reasons=joined(reasons, "; "))


def count(value: int | None) -> Inline:
    """A whole number, or a dash."""
    return DASH if value is None else str(value)


def numbers(headings: Iterable[Inline]) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(heading=heading, numbers=True) for heading in headings)
