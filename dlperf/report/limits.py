"""Limits: the largest batch and the most classes of each framework, and how each of them was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.plan.memory_size import bytes_text
from dlperf.report.evidence import link_to
from dlperf.report.flags import cell_words
from dlperf.report.numbers import mebibytes, rate
from dlperf.report.published_annex import classes_ratio
from dlperf.report.published_tables import DASH, PARALLELISMS
from dlperf.report.tables import status_word
from dlperf.report.text import Code, Column, Link, Table, joined, plural, say
from dlperf.results.limits import LimitStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dlperf.plan.case import Case, SearchedAxis
    from dlperf.report.text import Inline, Text
    from dlperf.results.limits import LimitRecord, MemoryPart, StoredLimit

_CAPTIONS: dict[SearchedAxis, Text] = {
    "num_classes": say("The most classes that train"),
    "batch_size_per_device": say("The largest batch that trains"),
}
_OTHER: dict[SearchedAxis, SearchedAxis] = {
    "num_classes": "batch_size_per_device",
    "batch_size_per_device": "num_classes",
}


def limit_tables(
    limits: Sequence[StoredLimit], *, titles: Mapping[str, str], beside: Path
) -> tuple[Table, ...]:
    """A table an axis as in 2021, then how each limit was found, then every probe; none without a search.

    Args:
        limits: the searches.
        titles: frameworks as their makers write them, by name.
        beside: the folder of the report, from which the links to the probes start.
    """
    if not limits:
        return ()
    by_axis = (
        _axis_table(axis, [one.record for one in limits if _axis(one.record) == axis], titles=titles)
        for axis in _CAPTIONS
        if any(_axis(one.record) == axis for one in limits)
    )
    return (
        *by_axis,
        _search_table(limits, titles=titles),
        _probe_table(limits, titles=titles, beside=beside),
    )


def _axis(record: LimitRecord) -> SearchedAxis | None:
    return record.case.search.axis if record.case.search is not None else None


def _axis_table(axis: SearchedAxis, records: Sequence[LimitRecord], *, titles: Mapping[str, str]) -> Table:
    """Frameworks across, their ratios behind them: the form of the table that was published in 2021."""
    labels = list(dict.fromkeys(_label(one.case, titles) for one in records))
    rows: dict[tuple[Inline, ...], dict[str, LimitRecord]] = {}
    for record in records:
        rows.setdefault(_place(axis, record.case), {})[_label(record.case, titles)] = record
    headings = (
        Column(heading=say("workload")),
        Column(heading="node_num", numbers=True),
        Column(heading="device_num_per_node", numbers=True),
        Column(heading=_OTHER[axis], numbers=True),
        Column(heading="precision"),
        Column(heading=say("parallelism")),
        Column(heading=say("memory budget")),
    )
    columns = [*headings, *(Column(heading=f"{label} {axis}", numbers=True) for label in labels)]
    columns += [Column(heading=f"{labels[0]} / {label}", numbers=True) for label in labels[1:]]
    body = []
    for place, found in rows.items():
        cells = [*place, *(_limit_cell(found.get(label)) for label in labels)]
        cells += [_ratio(found.get(labels[0]), found.get(label)) for label in labels[1:]]
        body.append(tuple(cells))
    return Table(caption=_CAPTIONS[axis], columns=tuple(columns), rows=tuple(body))


def _label(case: Case, titles: Mapping[str, str]) -> str:
    return f"{titles.get(case.framework, case.framework)} {case.version}"


def _place(axis: SearchedAxis, case: Case) -> tuple[Inline, ...]:
    ratio = (f"{case.sample_ratio:g}",) if case.sample_ratio is not None else ()
    return (
        case.workload.experiment,
        str(case.topology.nodes),
        str(case.topology.devices_per_node),
        str(case.number(_OTHER[axis])),
        case.precision,
        joined((PARALLELISMS[case.parallelism], *ratio), " "),
        DASH if case.memory_bytes is None else bytes_text(case.memory_bytes),
    )


def _limit_cell(record: LimitRecord | None) -> Inline:
    if record is None:
        return DASH
    if record.status is LimitStatus.BEYOND_UPPER:
        return say("more than {value}", value=record.trains or 0)
    if record.status is LimitStatus.FOUND:
        return str(record.trains)
    return _STATUS[record.status]


_STATUS = {
    LimitStatus.SEARCHING: say("not finished"),
    LimitStatus.NOTHING_TRAINS: say("nothing trains"),
    LimitStatus.BROKEN: say("failed"),
}


# By the names of frameworks/common/memory.py.
_PARTS: dict[str, Inline] = {
    "network weights": say("network weights"),
    "network gradients": say("network gradients"),
    "network momentum": say("network momentum"),
    "activations": say("activations"),
    "images": say("images"),
    "classifier weights": say("classifier weights"),
    "classifier momentum": say("classifier momentum"),
    "classifier gradients": say("classifier gradients"),
    "sampled rows": say("sampled rows"),
    "logits": say("logits"),
}


def _ratio(over: LimitRecord | None, under: LimitRecord | None) -> Inline:
    found = [one.trains for one in (over, under) if one is not None and one.status is LimitStatus.FOUND]
    if len(found) < 2 or found[0] is None or found[1] is None:  # noqa: PLR2004  a ratio takes two
        return DASH
    return classes_ratio(found[0], found[1])


def _search_table(limits: Sequence[StoredLimit], *, titles: Mapping[str, str]) -> Table:
    """A row a case: what was found, and the memory there by arithmetic and as it was measured."""
    columns = (
        Column(heading=say("case")),
        Column(heading=say("found")),
        Column(heading=say("first guess"), numbers=True),
        Column(heading=say("tensors by arithmetic (MiB)"), numbers=True),
        Column(heading=say("largest part")),
        Column(heading=say("measured peak (MiB)"), numbers=True),
        Column(heading=say("budget held by")),
    )
    rows = []
    for limit in limits:
        record = limit.record
        at = limit.probe_at(record.trains) if record.trains is not None else None
        largest = max(record.model, key=lambda part: part.bytes, default=None)
        rows.append(
            (
                _words(record.case, titles),
                _found(record),
                DASH if record.guess is None else str(record.guess),
                mebibytes(record.model_bytes) if record.model else DASH,
                DASH if largest is None else _part_words(largest),
                (mebibytes(at.peak_memory_bytes) if at is not None else "") or DASH,
                (at.memory_held_by if at is not None else None) or DASH,
            )
        )
    return Table(caption=say("How each limit was found"), columns=columns, rows=tuple(rows))


def _part_words(part: MemoryPart) -> Inline:
    return say("{part}, {size} MiB", part=_PARTS.get(part.name, part.name), size=mebibytes(part.bytes))


def _found(record: LimitRecord) -> Inline:
    if record.status is LimitStatus.FOUND:
        return say(
            "limit found in {probes}; {trains} trains, {fails} does not",
            probes=plural(len(record.probes), "probe"),
            trains=record.trains or 0,
            fails=record.fails or 0,
        )
    return Code(record.reason)


def _words(case: Case, titles: Mapping[str, str]) -> Inline:
    return joined((_label(case, titles), PARALLELISMS[case.parallelism], *cell_words(case)))


def _probe_table(limits: Sequence[StoredLimit], *, titles: Mapping[str, str], beside: Path) -> Table:
    columns = (
        Column(heading=say("case")),
        Column(heading=say("probe"), numbers=True),
        Column(heading=say("value"), numbers=True),
        Column(heading=say("length")),
        Column(heading=say("outcome")),
        Column(heading=say("seconds"), numbers=True),
        Column(heading=say("measured peak (MiB)"), numbers=True),
    )
    return Table(caption=say("Probes"), columns=columns, rows=tuple(_probe_rows(limits, titles, beside)))


def _probe_rows(
    limits: Sequence[StoredLimit], titles: Mapping[str, str], beside: Path
) -> Iterator[tuple[Inline, ...]]:
    for limit in limits:
        for number, probe in enumerate(limit.record.probes, 1):
            folder = link_to(limit.folder / probe.folder, beside=beside) + "/"
            yield (
                _words(limit.record.case, titles),
                str(number),
                str(probe.value),
                Link(say("full") if probe.full else say("short"), folder),
                say("trains") if probe.status.value == "ok" else status_word(probe.status),
                rate(probe.seconds),
                mebibytes(probe.peak_memory_bytes) or DASH,
            )
