"""What a published data set holds beside its tables: limits, single runs, superseded figures, machines."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from dlperf.report.numbers import factor, percent, rate
from dlperf.report.published_tables import DASH, count, numbers
from dlperf.report.text import Column, Link, Table, joined, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.report.text import Inline
    from dlperf.results.published import Published
    from dlperf.results.published_data import PublishedData, Superseded

_CHANGE = 2  # a change takes two values


def limits_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """The most classes that trained: a row a topology, and the ratio of the frameworks."""
    names = [name for name in labels if any(one.framework == name for one in data.max_num_classes)]
    headings: list[Inline] = [
        "node_num",
        "gpu_num_per_node",
        "batch_size_per_device",
        "precision",
        say("parallelism"),
    ]
    headings += [f"{labels[name]} {what}" for name in names for what in ("sample_ratio", "num_classes")]
    headings += [f"{labels[names[0]]} / {labels[other]}" for other in names[1:]]
    rows: dict[tuple[str, ...], dict[str, tuple[Inline, int]]] = {}
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
        cells: list[Inline] = [*key]
        for name in names:
            has = row.get(name)
            cells += [has[0] if has else DASH, count(has[1] if has else None)]
        for other in names[1:]:
            both = names[0] in row and other in row
            cells.append(classes_ratio(row[names[0]][1], row[other][1]) if both else DASH)
        body.append(tuple(cells))
    caption = say("The most classes that train")
    return Table(caption=caption, columns=numbers(headings), rows=tuple(body))


def classes_ratio(over: int, under: int) -> str:
    """Of two numbers of classes, which are round: three decimals."""
    return f"{over / under:.3f}"


def repeats_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """The single runs that the source printed, and what it printed below them."""
    runs = sorted({number for one in data.repeats for number in one.repeats}, key=int)
    headings = (
        say("median"),
        say("mean"),
        say("printed median"),
        say("printed average"),
        say("printed speedup"),
        say("whole"),
    )
    columns = (
        *_place_columns(),
        *numbers(say("run {number}", number=number) for number in runs),
        *numbers(headings),
        Column(heading=say("source")),
    )
    rows = [
        (
            labels[one.framework],
            f"{one.network}_{one.dataset}",
            *_place_cells(one.parallelism, one.sample_ratio, one.nodes, one.gpus_per_node),
            str(one.batch_size_per_device),
            *(rate(one.repeats.get(number)) or DASH for number in runs),
            rate(one.median),
            rate(one.mean),
            rate(one.printed_median) or DASH,
            rate(one.printed_average) or DASH,
            factor(one.printed_speedup) or DASH,
            say("yes") if one.complete else say("no"),
            source_link(data, one.source_file),
        )
        for one in data.repeats
    ]
    return Table(caption=say("Single runs"), columns=columns, rows=tuple(rows))


def superseded_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """What stood in the source before, oldest first, and how far the last value lies from the first."""
    columns = (
        *_place_columns(),
        Column(heading=say("samples/s, since when")),
        Column(heading=say("last to first"), numbers=True),
        Column(heading=say("source")),
    )
    rows = []
    for one in data.superseded:
        moved = change(one)
        values = joined(
            say(
                "{rate} ({since}, {commit})",
                rate=rate(value.samples_per_sec) or DASH,
                since=value.since,
                commit=value.commit,
            )
            for value in one.values
        )
        rows.append(
            (
                labels[one.framework],
                f"{one.network}_{one.dataset}" if one.network and one.dataset else say("not said"),
                *_place_cells(one.parallelism, one.sample_ratio, one.nodes, one.gpus_per_node),
                count(one.batch_size_per_device),
                values,
                DASH if moved is None else percent(moved, decimals=1),
                source_link(data, one.source_file),
            )
        )
    return Table(caption=say("Superseded figures"), columns=columns, rows=tuple(rows))


def change(superseded: Superseded) -> float | None:
    """How far the last figure lies from the first, as a fraction of it; None without two figures."""
    known = [value.samples_per_sec for value in superseded.values if value.samples_per_sec is not None]
    return known[-1] / known[0] - 1 if len(known) >= _CHANGE else None


def facts_table(published: Published, *, labels: Mapping[str, str]) -> Table:
    """What the figures were measured on and with, as the source says."""
    data = published.data
    rows: list[tuple[Inline, ...]] = [
        (say("hardware"), data.hardware),
        *((labels[name], text) for name, text in data.software.items()),
        (say("method"), data.method),
    ]
    columns = (Column(heading=say("what")), Column(heading=say("as published")))
    caption = say("Hardware, software, method")
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def source_link(data: PublishedData, path: str) -> Link:
    """A file of the source, at the commit that the data was read from."""
    return Link(path, f"https://github.com/{data.repository}/blob/{data.commit}/{quote(path)}")


def _place_columns() -> Sequence[Column]:
    return (
        Column(heading=say("framework")),
        Column(heading=say("workload")),
        Column(heading=say("parallelism")),
        Column(heading=say("topology")),
        Column(heading=say("batch"), numbers=True),
    )


def _place_cells(
    parallelism: str, sample_ratio: float | None, nodes: int, gpus_per_node: int
) -> tuple[str, str]:
    ratio = f" {sample_ratio:g}" if sample_ratio is not None else ""
    return parallelism + ratio, f"{nodes}n{gpus_per_node}g"
