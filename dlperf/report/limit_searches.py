"""How each limit was found: the searches, and every probe that they made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.report.distinctions import PARALLELISMS
from dlperf.report.evidence import link_to
from dlperf.report.flags import cell_words
from dlperf.report.numbers import DASH, mebibytes, rate
from dlperf.report.tables import status_word
from dlperf.report.text import Code, Column, Link, Table, joined, plural, say
from dlperf.results.limits import LimitStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dlperf.plan.case import Case
    from dlperf.report.text import Inline
    from dlperf.results.limits import LimitRecord, MemoryPart, StoredLimit

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
                held_by(limit) or DASH,
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
    return joined((version_words(case, titles), PARALLELISMS[case.parallelism], *cell_words(case)))


def probe_table(limits: Sequence[StoredLimit], *, titles: Mapping[str, str], beside: Path) -> Table:
    """A row a probe, with a link to its folder from the folder `beside`."""
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
