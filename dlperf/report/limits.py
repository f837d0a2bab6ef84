"""Limits: the largest batch and the most classes of each framework, frameworks side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dlperf.plan.case import SEARCHED_AXES, Case, SearchedAxis, bytes_text
from dlperf.report.comparison import PARALLELISMS, sampled_parallelism
from dlperf.report.numbers import DASH, classes_ratio, mebibytes, rate
from dlperf.report.sanity_checks import cell_words
from dlperf.report.tables import link_to, status_word
from dlperf.report.text import Code, Column, Inline, Link, Table, Text, columns, joined, plural, say
from dlperf.results.cases import canonical
from dlperf.results.schema import LimitRecord, LimitStatus, MemoryPart
from dlperf.results.store import StoredLimit

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


def version_words(case: Case, titles: Mapping[str, str]) -> str:
    """`OneFlow 0.9.0`."""
    return f"{titles.get(case.framework, case.framework)} {case.version}"


def held_by(limit: StoredLimit) -> str | None:
    """What held the budget of the run at the limit; None where that is not known."""
    at = limit.probe_at(limit.record.trains) if limit.record.trains is not None else None
    return at.memory_held_by if at is not None else None


def search_table(limits: Sequence[StoredLimit], *, titles: Mapping[str, str]) -> Table:
    """A row per case: what was found, and the memory there by arithmetic and as it was measured."""
    headings = (
        *columns(say("case"), say("found")),
        *columns(say("first guess"), say("tensors by arithmetic (MiB)"), numbers=True),
        *columns(say("largest part")),
        *columns(say("measured peak (MiB)"), numbers=True),
        *columns(say("budget held by")),
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
                held_by(limit) or DASH,
            )
        )
    return Table(caption=say("How each limit was found"), columns=headings, rows=tuple(rows))


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
    return joined((version_words(case, titles), PARALLELISMS[case.parallelism], *cell_words(case)))


def probe_table(limits: Sequence[StoredLimit], *, titles: Mapping[str, str], report_folder: Path) -> Table:
    """A row per probe, with a link to its folder from the folder `report_folder`."""
    headings = (
        *columns(say("case")),
        *columns(say("probe"), say("value"), numbers=True),
        *columns(say("length"), say("outcome")),
        *columns(say("seconds"), say("measured peak (MiB)"), numbers=True),
    )
    rows = tuple(
        (
            _words(limit.record.case, titles),
            str(number),
            str(probe.value),
            Link(
                say("full") if probe.full else say("short"),
                link_to(limit.folder / probe.folder, report_folder=report_folder) + "/",
            ),
            say("trains") if probe.status.value == "ok" else status_word(probe.status),
            rate(probe.seconds),
            mebibytes(probe.peak_memory_bytes) or DASH,
        )
        for limit in limits
        for number, probe in enumerate(limit.record.probes, 1)
    )
    return Table(caption=say("Probes"), columns=headings, rows=rows)


_BATCH, _CLASSES = SEARCHED_AXES
_CAPTIONS: dict[SearchedAxis, Text] = {
    _CLASSES: say("The most classes that train"),
    _BATCH: say("The largest batch that trains"),
}
_OTHER: dict[SearchedAxis, SearchedAxis] = {_CLASSES: _BATCH, _BATCH: _CLASSES}


def limit_tables(
    limits: Sequence[StoredLimit], *, titles: Mapping[str, str], report_folder: Path
) -> tuple[Table, ...]:
    """A table per axis as in 2021, then how each limit was found, then every probe; none without a search.

    Args:
        limits: the searches.
        titles: frameworks as their makers write them, by name.
        report_folder: the folder of the report, from which the links to the probes start.
    """
    if not limits:
        return ()
    by_axis = (
        _axis_table(axis, [one for one in limits if _axis(one.record) == axis], titles=titles)
        for axis in _CAPTIONS
        if any(_axis(one.record) == axis for one in limits)
    )
    return (
        *by_axis,
        search_table(limits, titles=titles),
        probe_table(limits, titles=titles, report_folder=report_folder),
    )


def _axis(record: LimitRecord) -> SearchedAxis | None:
    return record.case.search.axis if record.case.search is not None else None


def _axis_table(axis: SearchedAxis, limits: Sequence[StoredLimit], *, titles: Mapping[str, str]) -> Table:
    """Frameworks across, their ratios behind them: the form of the table that was published in 2021.

    Searches that differ in more than the framework stand in rows of their own, also where a column would not
    tell them apart.
    """
    labels = _labels(limits, titles)
    apart = [name for name in _APART if len({_APART[name](one) for one in limits}) > 1]
    rows: dict[tuple[object, ...], dict[str, StoredLimit]] = {}
    for limit, label in zip(limits, labels, strict=True):
        rows.setdefault(_row_key(axis, limit), {})[label] = limit
    headings = (
        *columns(*apart, say("workload")),
        *columns("node_num", "device_num_per_node", _OTHER[axis], numbers=True),
        *columns("precision", say("parallelism"), say("memory budget")),
    )
    first, *others = dict.fromkeys(labels)
    shown = [
        *headings,
        *(Column(heading=f"{label} {axis}", numbers=True) for label in (first, *others)),
        *(Column(heading=f"{first} / {label}", numbers=True) for label in others),
    ]
    body = []
    for found in rows.values():
        any_of_them = next(iter(found.values()))
        body.append(
            (
                *(_APART[name](any_of_them) for name in apart),
                *_place(axis, any_of_them.record.case),
                *(_limit_cell(found.get(label)) for label in (first, *others)),
                *(_ratio(found.get(first), found.get(label)) for label in others),
            )
        )
    return Table(caption=_CAPTIONS[axis], columns=tuple(shown), rows=tuple(body))


def _sweep(limit: StoredLimit) -> Path:
    return limit.folder.parent.parent


# What can set rows apart beside what every table shows; a column of it stands where it does.
_APART: dict[Text, Callable[[StoredLimit], str]] = {
    say("sweep"): lambda limit: _sweep(limit).name,
    say("threads per device"): lambda limit: str(limit.record.case.threads_per_device),
}


def _row_key(axis: SearchedAxis, limit: StoredLimit) -> tuple[object, ...]:
    """Equal for searches that differ in the framework alone, whatever was found."""
    case = canonical(limit.record.case, leaving_out=("framework", "version", "options", "search", axis))
    return (_sweep(limit), case)


def _labels(limits: Sequence[StoredLimit], titles: Mapping[str, str]) -> list[str]:
    """The column of each search: framework and version, with the options where there are several of both."""
    options: dict[str, set[str]] = {}
    for limit in limits:
        options.setdefault(version_words(limit.record.case, titles), set()).add(_options(limit.record.case))
    made = []
    for limit in limits:
        label, own = version_words(limit.record.case, titles), _options(limit.record.case)
        made.append(f"{label} ({own or 'no options'})" if len(options[label]) > 1 else label)
    return made


def _options(case: Case) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(case.options.items()))


def _place(axis: SearchedAxis, case: Case) -> tuple[Inline, ...]:
    return (
        case.workload.experiment,
        str(case.topology.nodes),
        str(case.topology.devices_per_node),
        str(case.number(_OTHER[axis])),
        case.precision,
        sampled_parallelism(case.parallelism, case.sample_ratio),
        DASH if case.memory_bytes is None else bytes_text(case.memory_bytes),
    )


def _limit_cell(limit: StoredLimit | None) -> Inline:
    if limit is None:
        return DASH
    record = limit.record
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


def _ratio(over: StoredLimit | None, under: StoredLimit | None) -> Inline:
    """Of two limits that were found under budgets held in the same way."""
    if over is None or under is None or held_by(over) != held_by(under):
        return DASH
    found = [one.record.trains for one in (over, under) if one.record.status is LimitStatus.FOUND]
    if len(found) < 2 or found[0] is None or found[1] is None:  # noqa: PLR2004  a ratio takes two
        return DASH
    return classes_ratio(found[0], found[1])
