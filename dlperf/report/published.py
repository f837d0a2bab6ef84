"""A published data set as a report shows it: its own tables, and what follows from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from dlperf.files import shipped_folder
from dlperf.model import Model
from dlperf.report.flags import flags_table
from dlperf.report.published_annex import (
    facts_table,
    limits_table,
    repeats_table,
    source_link,
    superseded_table,
)
from dlperf.report.published_findings import breaks_table, conclusions, ratios_table
from dlperf.report.published_tables import (
    DASH,
    PARALLELISMS,
    Grid,
    dashes,
    grids,
    throughput_table,
)
from dlperf.report.referee import referee
from dlperf.report.text import Column, Link, Table, joined, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dlperf.report.referee import Flag
    from dlperf.report.text import Inline, Text
    from dlperf.results.cases import CaseFigures
    from dlperf.results.published import Published
    from dlperf.results.published_data import PublishedCase

DIFFERENCES_FILE = "differences.json"


class Difference(Model):
    """Something that the programs behind the figures did differently, by framework."""

    what: str
    frameworks: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """One published table, why a dash stands in it, and the laws that it breaks."""

    caption: str
    throughput: Table
    dashes: Text | None
    flags: Table | None
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSection:
    """The tables of one workload under one parallelism; `slug` as that of a report's section."""

    slug: str
    title: Inline
    tables: tuple[PublishedTable, ...]
    sources: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedReport:
    """A published data set."""

    name: str
    title: str
    source: Link
    cells: int
    measured: int
    facts: Table
    conclusions: tuple[Text, ...]
    ratios: Table | None
    breaks: Table | None
    sections: tuple[PublishedSection, ...]
    differences: Table | None
    annexes: tuple[tuple[Table, Text | None], ...]  # each with a sentence above it
    notes: tuple[str, ...]


def published_report(published: Published, *, titles: Mapping[str, str]) -> PublishedReport:
    """The report of a data set.

    Args:
        published: the data set.
        titles: frameworks as their makers write them, by name.
    """
    data = published.data
    versions = {figure.case.framework: figure.case.version for figure in published.figures}
    labels = {name: f"{titles.get(name, name)} {versions[name]}" for name in data.software}
    made = grids(data, labels=labels)
    return PublishedReport(
        name=published.name,
        title=data.title,
        source=_source(published),
        cells=len(data.cases),
        measured=sum(case.samples_per_sec is not None for case in data.cases),
        facts=facts_table(published, labels=labels),
        conclusions=conclusions(data, made, labels=labels),
        ratios=ratios_table(made, labels),
        breaks=breaks_table(made, labels),
        sections=_sections(published, made, titles=titles),
        differences=_differences(published.name, labels=labels),
        annexes=(
            (limits_table(data, labels=labels), None),
            (
                repeats_table(data, labels=labels),
                say(
                    "What the source prints of the runs behind its figures. Where a median here and a figure "
                    "above differ, the source holds two measurements; its notes say which."
                ),
            ),
            (superseded_table(data, labels=labels), say("What stood at these places earlier.")),
        ),
        notes=data.notes,
    )


def _source(published: Published) -> Link:
    data = published.data
    url = f"https://github.com/{data.repository}/tree/{data.commit}"
    return Link(say("{repository} at {commit}", repository=data.repository, commit=data.commit[:7]), url)


def _sections(
    published: Published, made: Sequence[Grid], *, titles: Mapping[str, str]
) -> tuple[PublishedSection, ...]:
    flags: dict[tuple[object, ...], list[Flag]] = {}
    for flag in referee(published.figures):
        flags.setdefault(_figure_key(flag.subject), []).append(flag)
    groups: dict[tuple[str, str], list[Grid]] = {}
    for grid in made:
        groups.setdefault((grid.experiment, grid.parallelism), []).append(grid)
    return tuple(_section(published, group, flags=flags, titles=titles) for group in groups.values())


def _section(
    published: Published,
    group: Sequence[Grid],
    *,
    flags: Mapping[tuple[object, ...], Sequence[Flag]],
    titles: Mapping[str, str],
) -> PublishedSection:
    first, data = group[0], published.data
    sources = dict.fromkeys(path for grid in group for case in grid.cases for path in case.sources)
    return PublishedSection(
        slug=re.sub(r"[^a-z0-9]+", "-", f"{published.name}-{first.experiment}-{first.parallelism}".lower()),
        title=joined((first.experiment, PARALLELISMS[first.parallelism])),
        tables=tuple(
            PublishedTable(
                caption=grid.caption,
                throughput=throughput_table(grid),
                dashes=dashes(grid, units=data.units),
                flags=flags_table(_flags(grid.cases, flags), name=partial(_words, titles=titles)),
                grid=grid,
            )
            for grid in sorted(group, key=_order)
        ),
        sources=tuple(source_link(data, path) for path in sources),
    )


def _words(figure: CaseFigures, *, titles: Mapping[str, str]) -> Inline:
    """Without the number of classes, which the source does not give for each framework's cases."""
    case = figure.case
    parts: list[Inline] = [
        f"{titles.get(case.framework, case.framework)} {case.version}",
        str(case.topology),
        say("batch {batch}", batch=case.batch_size_per_device),
    ]
    if case.sample_ratio is not None:
        parts.append(say("sample ratio {ratio}", ratio=f"{case.sample_ratio:g}"))
    return joined(parts)


def _order(grid: Grid) -> tuple[float, bool]:
    """Fixed batch before the largest, small sample ratio before the whole."""
    return (grid.sample_ratio or 0.0, grid.largest_batch)


def _flags(cases: Iterable[PublishedCase], flags: Mapping[tuple[object, ...], Sequence[Flag]]) -> list[Flag]:
    return [flag for case in cases for flag in flags.get(_case_key(case), ())]


def _case_key(case: PublishedCase) -> tuple[object, ...]:
    return (
        case.framework,
        f"{case.network}_{case.dataset}",
        case.parallelism,
        case.sample_ratio,
        case.nodes,
        case.gpus_per_node,
        case.batch_size_per_device,
    )


def _figure_key(figure: CaseFigures) -> tuple[object, ...]:
    case = figure.case
    return (
        case.framework,
        case.workload.experiment,
        case.parallelism,
        case.sample_ratio,
        case.topology.nodes,
        case.topology.devices_per_node,
        case.batch_size_per_device,
    )


def _differences(name: str, *, labels: Mapping[str, str]) -> Table | None:
    """What is known to differ between the programs; None where nobody looked."""
    path = shipped_folder("reports") / name / DIFFERENCES_FILE
    if not path.is_file():
        return None
    found = TypeAdapter(tuple[Difference, ...]).validate_json(path.read_bytes())
    columns = (Column(heading=say("what differs")), *(Column(heading=label) for label in labels.values()))
    rows = tuple((one.what, *(one.frameworks.get(name, DASH) for name in labels)) for one in found)
    caption = say("What is known to differ between them")
    return Table(caption=caption, columns=columns, rows=rows)
