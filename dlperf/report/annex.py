"""What only a published data set has: conclusions, and what the source printed beside its figures.

The figures themselves stand in the report's ordinary tables. Everything here is printed by the source or
computed from what it printed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from dlperf.files import shipped_folder
from dlperf.report.comparison import sampled_parallelism, version_name
from dlperf.report.numbers import DASH, factor, percent, rate
from dlperf.report.sanity_checks import LOST_HALF, MARGIN
from dlperf.report.text import Cells, Column, Inline, Link, Table, Text, joined, number, plural, say, table_of
from dlperf.results.published import Published, PublishedCase, PublishedData, PublishedRepeats, Superseded

Series = tuple[Inline, Inline, Inline]  # workload, parallelism and batch: a table of the source
Labels = Mapping[str, str]  # frameworks with their versions, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Annex:
    """What a report says of a published data set beside its cases."""

    name: str
    source: Text
    conclusions: tuple[Text, ...]
    findings: tuple[Table, ...]  # what the conclusions rest on
    tables: tuple[Table, ...]
    notes: tuple[Inline, ...]


def annex(published: Published, *, titles: Mapping[str, str]) -> Annex:
    """The annex of a data set; `titles` are frameworks as their makers write them, by name."""
    data = published.data
    labels = {name: version_name(titles, name, data.version(name)) for name in data.software}
    pairs, breaks = _pairs(data, labels), list(_breaks(data, labels))
    scaling = say(
        "Where scaling breaks: the first step to more GPUs at which the added GPUs bring less than half of "
        "what as many GPUs brought before"
    )
    files = dict.fromkeys(path for case in data.cases for path in case.sources)
    return Annex(
        name=published.name,
        source=say(
            "Source: {repository} at {commit}; {cells}, {measured} with a number",
            repository=Link(data.repository, f"https://github.com/{data.repository}/tree/{data.commit}"),
            commit=data.commit[:7],
            cells=plural(len(data.cases), "cell"),
            measured=sum(case.samples_per_sec is not None for case in data.cases),
        ),
        conclusions=(
            *_on_ratios(pairs),
            *_on_scaling(data, labels, broken=[row[say("framework")] for row in breaks]),
            *_on_limits(data, labels),
            *_on_superseded(data, labels),
        ),
        findings=(
            table_of(
                say("Ratios of samples/s; the largest batches are each framework's own"), _ranges(pairs)
            ),
            table_of(scaling, breaks),
        ),
        tables=(
            table_of(say("Hardware, software, method"), _facts(data, labels)),
            table_of(say("Known differences between the programs"), _differences(published.name, labels)),
            table_of(say("Figures and speedups as printed"), _as_printed(data, labels)),
            table_of(say("The most classes that train"), _limits(data, labels)),
            table_of(say("Single runs, where the source prints them"), _repeats(data, labels)),
            table_of(say("Superseded figures, oldest first"), _superseded(data, labels)),
        ),
        notes=(*data.notes, say("Files: {files}", files=joined(_file(data, path) for path in files))),
    )


def _file(data: PublishedData, path: str) -> Link:
    """A file of the source, at the commit that the data was read from."""
    return Link(path, f"https://github.com/{data.repository}/blob/{data.commit}/{quote(path)}")


def _batch(size: int | None) -> Inline:
    return DASH if size is None else str(size)


def _series(case: PublishedCase) -> Series:
    batch = say("batch {batch}", batch=_batch(case.batch_size_per_device))
    parallelism = sampled_parallelism(case.parallelism, case.sample_ratio)
    return case.experiment, parallelism, say("max batch") if case.batch_is_max else batch


def _series_cells(series: Series) -> Cells:
    return dict(zip((say("workload"), say("parallelism"), say("series")), series, strict=True))


def _rows(data: PublishedData) -> dict[tuple[Series, str], dict[str, PublishedCase]]:
    """The cases by series and topology, then by framework, as the source pairs them."""
    rows: dict[tuple[Series, str], dict[str, PublishedCase]] = {}
    for case in data.cases:
        rows.setdefault((_series(case), case.topology), {})[case.framework] = case
    return rows


def _ratio(row: Mapping[str, PublishedCase], over: str, under: str) -> float | None:
    rates = [row[name].samples_per_sec if name in row else None for name in (over, under)]
    return rates[0] / rates[1] if rates[0] is not None and rates[1] is not None else None


Pairs = dict[str, list[tuple[float, Series, PublishedCase]]]


def _pairs(data: PublishedData, labels: Labels) -> Pairs:
    """Every ratio of the first framework to each of the others, from small to large, with its case."""
    first, *others = labels
    pairs: Pairs = {}
    for (series, _), row in _rows(data).items():
        for other in others:
            if (ratio := _ratio(row, first, other)) is not None:
                pairs.setdefault(f"{labels[first]} / {labels[other]}", []).append((ratio, series, row[first]))
    return {which: sorted(ratios, key=lambda pair: pair[0]) for which, ratios in pairs.items()}


def _on_ratios(pairs: Pairs) -> Iterator[Text]:
    for which, ratios in pairs.items():
        low, high = (
            say("{ratio} ({case})", ratio=factor(ratio), case=joined((*series, case.topology)))
            for ratio, series, case in (ratios[0], ratios[-1])
        )
        yield say(
            "{which} in samples/s: {low} to {high}; above 1 in {ahead} of {pairs} of figures",
            which=which,
            low=low,
            high=high,
            ahead=sum(ratio > 1 for ratio, _, _ in ratios),
            pairs=plural(len(ratios), "pair"),
        )
        for devices, single in ((say("one GPU"), True), (say("several GPUs"), False)):
            some = [factor(ratio) for ratio, _, case in ratios if (case.devices == 1) == single]
            if some:
                yield say(
                    "On {devices} the ratio is {low} to {high}", devices=devices, low=some[0], high=some[-1]
                )


def _ranges(pairs: Pairs) -> Iterator[Cells]:
    """The range of the ratio under each workload and parallelism."""
    ranges: dict[tuple[Inline, Inline, str], list[float]] = {}
    for which, ratios in pairs.items():
        for ratio, (workload, parallelism, _), _ in ratios:
            ranges.setdefault((workload, parallelism, which), []).append(ratio)
    for (workload, parallelism, which), some in ranges.items():
        yield {
            say("workload"): workload,
            say("parallelism"): parallelism,
            say("ratio of"): which,
            number(say("smallest")): factor(some[0]),
            number(say("largest")): factor(some[-1]),
            number(say("pairs")): str(len(some)),
        }


def _lines(data: PublishedData, framework: str) -> dict[Series, list[tuple[PublishedCase, float]]]:
    """The figures of a framework in each series, from few to many devices."""
    lines: dict[Series, list[tuple[PublishedCase, float]]] = {}
    for case in sorted(data.cases, key=lambda case: case.devices):
        if case.framework == framework and case.samples_per_sec is not None:
            lines.setdefault(_series(case), []).append((case, case.samples_per_sec))
    return lines


def _breaks(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    """Every series that stops scaling, and where."""
    for framework, label in labels.items():
        for series, line in _lines(data, framework).items():
            for (fewer, before), (more, after) in pairwise(line):
                gain = (after / before - 1) / (more.devices / fewer.devices - 1)
                if gain < LOST_HALF:
                    yield {
                        say("framework"): label,
                        **_series_cells(series),
                        say("from, samples/s"): f"{fewer.topology}, {rate(before)}",
                        say("to, samples/s"): f"{more.topology}, {rate(after)}",
                        number(say("share of the added GPUs")): percent(gain, decimals=0),
                    }
                    break


def _on_scaling(data: PublishedData, labels: Labels, *, broken: list[Inline]) -> Iterator[Text]:
    for framework, label in labels.items():
        lines = [line for line in _lines(data, framework).values() if len(line) > 1]
        shares = sorted(line[-1][1] / line[0][1] / line[-1][0].devices for line in lines)
        if shares:
            yield say(
                "{framework} reaches {low} to {high} of the ideal speedup on its most GPUs; its scaling "
                "breaks in {count} of {known} series",
                framework=label,
                low=percent(shares[0], decimals=0),
                high=percent(shares[-1], decimals=0),
                count=broken.count(label),
                known=len(lines),
            )


def _as_printed(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    """Every cell of the source's tables, with the batch sizes and speedups that it printed."""
    first, *others = labels
    for (series, topology), row in _rows(data).items():
        cells: dict[Inline | Column, Inline] = {**_series_cells(series), say("topology"): topology}
        for name, label in labels.items():
            case = row.get(name)
            printed: dict[Text, Inline] = {
                say("batch"): _batch(case.batch_size_per_device) if case else "",
                say("samples/s"): rate(case.samples_per_sec) or DASH if case else "",
                say("speedup"): factor(case.speedup) or DASH if case else "",
            }
            cells |= {
                number(say("{framework} {column}", framework=label, column=column)): cell
                for column, cell in printed.items()
            }
        for other in others:
            cells[number(f"{labels[first]} / {labels[other]}")] = factor(_ratio(row, first, other))
        yield cells


def _facts(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    facts: dict[Inline, str] = {
        say("hardware"): data.hardware,
        **{labels[name]: text for name, text in data.software.items()},
        say("method"): data.method,
        **{field: unit.replace("null =", "-:") for field, unit in data.units.items()},
    }
    return ({say("what"): what, say("as published"): text} for what, text in facts.items())


def _differences(name: str, labels: Labels) -> Iterator[Cells]:
    """What is known to differ between the programs; nothing where nobody looked."""
    path = shipped_folder("reports") / name / "differences.json"
    for entry in json.loads(path.read_bytes()) if path.is_file() else ():
        own: Cells = {label: entry["frameworks"].get(framework, DASH) for framework, label in labels.items()}
        yield {say("what differs"): entry["what"], **own}


def _limits(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    for limit in data.max_num_classes:
        partial_fc = sampled_parallelism("partial_fc", limit.sample_ratio)
        used = ((sampled_parallelism("model"), limit.model_parallel), (partial_fc, limit.partial_fc))
        yield {
            say("framework"): labels[limit.framework],
            say("parallelism"): joined(words for words, is_used in used if is_used),
            say("topology"): limit.topology,
            say("precision"): limit.precision,
            number(say("batch")): str(limit.batch_size_per_device),
            number(say("classes")): str(limit.num_classes),
        }


def _on_limits(data: PublishedData, labels: Labels) -> Iterator[Text]:
    first, *others = labels
    most = {(limit.topology, limit.framework): limit.num_classes for limit in data.max_num_classes}
    for (topology, framework), classes in most.items():
        if framework in others and (topology, first) in most:
            yield say(
                "{which} in the most classes that train on {topology}: {ratio}",
                which=f"{labels[first]} / {labels[framework]}",
                topology=topology,
                ratio=f"{most[topology, first] / classes:.3f}",
            )


def _case_cells(entry: PublishedRepeats | Superseded, labels: Labels) -> Cells:
    return {
        say("framework"): labels[entry.framework],
        say("workload"): f"{entry.network}_{entry.dataset}" if entry.network else say("not said"),
        say("parallelism"): sampled_parallelism(entry.parallelism, entry.sample_ratio),
        say("topology"): entry.topology,
        number(say("batch")): _batch(entry.batch_size_per_device),
    }


def _repeats(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    """The single runs that the source printed, and what it printed below them."""
    runs = sorted({run for entry in data.repeats for run in entry.repeats}, key=int)
    for entry in data.repeats:
        yield {
            **_case_cells(entry, labels),
            **{number(say("run {number}", number=run)): rate(entry.repeats.get(run)) or DASH for run in runs},
            number(say("median")): rate(entry.median),
            number(say("mean")): rate(entry.mean),
            number(say("printed median")): rate(entry.printed_median) or DASH,
            number(say("printed average")): rate(entry.printed_average) or DASH,
            number(say("printed speedup")): factor(entry.printed_speedup) or DASH,
            say("whole"): say("yes") if entry.complete else say("no"),
            say("source"): _file(data, entry.source_file),
        }


def _moved(entry: Superseded) -> float | None:
    """How far the last figure lies from the first, as a fraction of it; None without two figures."""
    known = [value.samples_per_sec for value in entry.values if value.samples_per_sec is not None]
    return known[-1] / known[0] - 1 if len(known) > 1 else None


def _superseded(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    for entry in data.superseded:
        values = (f"{rate(one.samples_per_sec) or '-'} ({one.since}, {one.commit})" for one in entry.values)
        yield {
            **_case_cells(entry, labels),
            say("samples/s, since when"): ", ".join(values),
            number(say("last to first")): percent(_moved(entry), decimals=1) or DASH,
            say("source"): _file(data, entry.source_file),
        }


def _on_superseded(data: PublishedData, labels: Labels) -> Iterator[Text]:
    """How well a figure was repeated in a later session."""
    moves = [(moved, entry) for entry in data.superseded if (moved := _moved(entry)) is not None]
    if moves:
        most, entry = max(moves, key=lambda move: abs(move[0]))
        parallelism = sampled_parallelism(entry.parallelism, entry.sample_ratio)
        batch = say("batch {batch}", batch=_batch(entry.batch_size_per_device))
        yield say(
            "Of {figures} that a later one superseded {far} moved by more than {margin}, the most by {most} "
            "({case})",
            figures=plural(len(moves), "figure"),
            far=sum(abs(moved) > MARGIN for moved, _ in moves),
            margin=percent(MARGIN, decimals=0),
            most=percent(most, decimals=1),
            case=joined((labels[entry.framework], parallelism, entry.topology, batch)),
        )
