"""What a published data set holds beside its tables: limits, single runs, superseded figures, machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.markdown import Column, Markdown, Table, fill
from dlperf.report.numbers import factor, percent, rate
from dlperf.report.published_tables import DASH, count, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.results.published import Published, PublishedData, Superseded

_CHANGE = 2  # a change takes two values


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
            cells += [sampled, count(classes)]
        for other in names[1:]:
            both = names[0] in row and other in row
            cells.append(classes_ratio(row[names[0]][1], row[other][1]) if both else DASH)
        body.append(tuple(cells))
    return Table(columns=numbers(headings), rows=tuple(body))


def classes_ratio(over: int, under: int) -> str:
    """Of two numbers of classes, which are round: three decimals."""
    return f"{over / under:.3f}"


def repeats_table(data: PublishedData, *, labels: Mapping[str, str]) -> Table:
    """The single runs that the source printed, and what it printed below them."""
    runs = sorted({number for one in data.repeats for number in one.repeats}, key=int)
    headings = ["median", "mean", "printed median", "printed average", "printed speedup", "whole"]
    columns = (
        *_place_columns(),
        *numbers([f"run {number}" for number in runs]),
        *numbers(headings),
        Column(heading="source"),
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
        moved = change(one)
        values = ", ".join(
            f"{rate(value.samples_per_sec) or DASH} ({value.since}, {value.commit})" for value in one.values
        )
        rows.append(
            (
                labels[one.framework],
                f"{one.network}_{one.dataset}" if one.network and one.dataset else "not said",
                *_place_cells(one.parallelism, one.sample_ratio, one.nodes, one.gpus_per_node),
                count(one.batch_size_per_device),
                values,
                DASH if moved is None else percent(moved, decimals=1),
                source_link(data, one.source_file),
            )
        )
    return Table(columns=columns, rows=tuple(rows))


def change(superseded: Superseded) -> float | None:
    """How far the last figure lies from the first, as a fraction of it; None without two figures."""
    known = [value.samples_per_sec for value in superseded.values if value.samples_per_sec is not None]
    return known[-1] / known[0] - 1 if len(known) >= _CHANGE else None


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
