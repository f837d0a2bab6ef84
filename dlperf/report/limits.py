"""Limits: the largest batch and the most classes of each framework, frameworks side by side."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dlperf.plan.case import SEARCHED_AXES, SearchedAxis, bytes_text
from dlperf.report.comparison import LOOPS, Variant, sampled_parallelism
from dlperf.report.numbers import DASH, mebibytes, rate
from dlperf.report.sanity_checks import case_words
from dlperf.report.tables import STATUS_WORDS, link_to
from dlperf.report.text import Cells, Code, Inline, Link, Table, Text, number, plural, say, table_of
from dlperf.results.cases import VARIANT_FIELDS, canonical, data_name
from dlperf.results.schema import LimitStatus, ProbeRecord, Status
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


# What the probes say of their memory, a column for each kind that one of them measured.
_PEAKS: Mapping[str, Text] = {
    "peak_anonymous_bytes": say("peak anonymous memory (MiB)"),
    "peak_device_bytes": say("peak device memory (MiB)"),
    "peak_memory_bytes": say("peak resident memory (MiB)"),
}
_BATCH, _CLASSES = SEARCHED_AXES
_CAPTIONS: dict[SearchedAxis, Text] = {
    _CLASSES: say("The most classes that train"),
    _BATCH: say("The largest batch that trains"),
}
_STATUS = {
    LimitStatus.SEARCHING: say("not finished"),
    LimitStatus.NOTHING_TRAINS: say("nothing trains"),
    LimitStatus.BROKEN: say("failed"),
}


def limit_tables(
    limits: Sequence[StoredLimit], *, titles: Mapping[str, str], report_folder: Path
) -> tuple[Table, ...]:
    """A table per axis as in 2021, then how each limit was found, then every probe; none without a search.

    `titles` are frameworks as their makers write them, by name; links to the probes start at `report_folder`.
    """
    if not limits:
        return ()
    by_axis: dict[SearchedAxis, list[StoredLimit]] = {axis: [] for axis in _CAPTIONS}
    for limit in limits:
        if (search := limit.record.case.search) is not None:
            by_axis[search.axis].append(limit)
    measured = {name for limit in limits for probe in limit.record.probes for name in probe.peaks}
    peaks = [name for name in _PEAKS if name in measured]
    searches = [_search_row(limit, peaks, titles) for limit in limits]
    probes = [
        {**_probe_row(limit, count, probe, titles, report_folder), **_peak_cells(probe, peaks)}
        for limit in limits
        for count, probe in enumerate(limit.record.probes, 1)
    ]
    return (
        *(_axis_table(axis, found, titles) for axis, found in by_axis.items() if found),
        table_of(say("How each limit was found"), searches),
        table_of(say("Probes"), probes),
    )


def _probe_at_limit(limit: StoredLimit) -> ProbeRecord | None:
    return limit.probe_at(limit.record.trains) if limit.record.trains is not None else None


def _held_by(limit: StoredLimit) -> str | None:
    """What held the budget of the run at the limit; None where that is not known."""
    probe = _probe_at_limit(limit)
    return probe.memory_held_by if probe is not None else None


def _peak_cells(probe: ProbeRecord | None, peaks: Sequence[str]) -> Cells:
    sizes = probe.peaks if probe is not None else {}
    return {number(_PEAKS[name]): mebibytes(sizes.get(name)) or DASH for name in peaks}


def _search_row(limit: StoredLimit, peaks: Sequence[str], titles: Mapping[str, str]) -> Cells:
    """What was found, and the memory there by arithmetic and as it was measured."""
    record, probe = limit.record, _probe_at_limit(limit)
    found: Inline = Code(record.reason)
    if record.status is LimitStatus.FOUND:
        found = say(
            "limit found in {probes}; {trains} trains, {fails} does not",
            probes=plural(len(record.probes), "probe"),
            trains=record.trains or 0,
            fails=record.fails or 0,
        )
    largest: Inline = DASH
    if record.model:
        part = max(record.model, key=lambda part: part.bytes)
        largest = say("{part}, {size} MiB", part=_PARTS.get(part.name, part.name), size=mebibytes(part.bytes))
    return {
        say("case"): case_words(record.case, titles, with_parallelism=True),
        say("found"): found,
        number(say("first guess")): DASH if record.guess is None else str(record.guess),
        number(say("tensors by arithmetic (MiB)")): mebibytes(record.model_bytes) if record.model else DASH,
        say("largest part"): largest,
        **_peak_cells(probe, peaks),
        say("budget held by"): _held_by(limit) or DASH,
    }


def _probe_row(
    limit: StoredLimit, count: int, probe: ProbeRecord, titles: Mapping[str, str], report_folder: Path
) -> Cells:
    folder = link_to(limit.folder / probe.folder, report_folder=report_folder) + "/"
    return {
        say("case"): case_words(limit.record.case, titles, with_parallelism=True),
        number(say("probe")): str(count),
        number(say("value")): str(probe.value),
        say("length"): Link(say("full") if probe.full else say("short"), folder),
        say("outcome"): say("trains") if probe.status is Status.OK else STATUS_WORDS[probe.status],
        number(say("seconds")): rate(probe.seconds),
    }


def _axis_table(axis: SearchedAxis, limits: Sequence[StoredLimit], titles: Mapping[str, str]) -> Table:
    """Frameworks across, their ratios behind them: the form of the table that was published in 2021.

    Searches that differ in more than the framework stand in rows of their own, also where a column would not
    tell them apart.
    """
    variants = [Variant.of(limit.record.case) for limit in limits]
    labels = [variant.label(variants, titles) for variant in variants]
    apart = [name for name, value in _APART.items() if len(set(map(value, limits))) > 1]
    rows: dict[tuple[object, ...], dict[str, StoredLimit]] = {}
    for limit, label in zip(limits, labels, strict=True):
        # Equal for searches that differ in the framework alone, whatever was found.
        case = canonical(limit.record.case, leaving_out=(*VARIANT_FIELDS, "search", axis))
        rows.setdefault((_sweep(limit), _loop(limit), case), {})[label] = limit
    first, *others = dict.fromkeys(labels)
    return table_of(
        _CAPTIONS[axis],
        [
            {
                **_settings(axis, next(iter(found.values())), apart),
                **{number(f"{label} {axis}"): _limit_cell(found.get(label)) for label in (first, *others)},
                **{
                    number(f"{first} / {label}"): _ratio(found.get(first), found.get(label))
                    for label in others
                },
            }
            for found in rows.values()
        ],
    )


def _sweep(limit: StoredLimit) -> Path:
    return limit.folder.parent.parent


def _loop(limit: StoredLimit) -> Inline:
    return LOOPS["own" if limit.record.case.source is None else "original"]


# What can set rows apart beside what every table shows; a column of it stands where it does.
_APART: dict[Text, Callable[[StoredLimit], Inline]] = {
    say("sweep"): lambda limit: _sweep(limit).name,
    say("threads per device"): lambda limit: str(limit.record.case.threads_per_device),
    say("loop"): _loop,
    say("data"): lambda limit: data_name(limit.record.case),
}


def _settings(axis: SearchedAxis, limit: StoredLimit, apart: Sequence[Text]) -> Cells:
    case, other = limit.record.case, _BATCH if axis == _CLASSES else _CLASSES
    return {
        **{name: _APART[name](limit) for name in apart},
        say("workload"): case.workload.experiment,
        number("node_num"): str(case.topology.nodes),
        number("device_num_per_node"): str(case.topology.devices_per_node),
        number(other): str(case.number(other)),
        "precision": case.precision,
        say("parallelism"): sampled_parallelism(case.parallelism, case.sample_ratio),
        say("memory budget"): DASH if case.memory_bytes is None else bytes_text(case.memory_bytes),
    }


def _limit_cell(limit: StoredLimit | None) -> Inline:
    if limit is None:
        return DASH
    record = limit.record
    if record.status is LimitStatus.BEYOND_UPPER:
        return say("more than {value}", value=record.trains or 0)
    if record.status is LimitStatus.FOUND:
        return str(record.trains)
    return _STATUS[record.status]


def _ratio(over: StoredLimit | None, under: StoredLimit | None) -> Inline:
    """Of two limits that were found under budgets held in the same way."""
    if over is None or under is None or _held_by(over) != _held_by(under):
        return DASH
    found = [one.record.trains for one in (over, under) if one.record.status is LimitStatus.FOUND]
    if len(found) < 2 or found[0] is None or found[1] is None:  # noqa: PLR2004  a ratio takes two
        return DASH
    return f"{found[0] / found[1]:.3f}"
