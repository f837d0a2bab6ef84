"""What only a published data set has: conclusions, and what the source printed beside its figures.

The figures themselves stand in the report's ordinary tables. Everything here is printed by the source or
computed from what it printed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote

from dlperf.files import shipped_folder
from dlperf.report.comparison import reading_words, sampled_parallelism, version_name
from dlperf.report.numbers import DASH, factor, percent, rate
from dlperf.report.sanity_checks import LOST_HALF, MARGIN
from dlperf.report.text import Cells, Column, Inline, Link, Table, Text, joined, number, plural, say, table_of
from dlperf.results.published import Published, PublishedCase, PublishedData, PublishedRepeats, Superseded

Series = tuple[Inline, Inline, Inline]  # workload, parallelism and batch: a table of the source
Labels = Mapping[str, str]  # frameworks with their versions, by program


@dataclass(frozen=True, slots=True, kw_only=True)
class Annex:
    """What a report says of a published data set beside its cases."""

    name: str
    source: Text
    figures: Text  # how they were read, and what was computed from them
    conclusions: tuple[Text, ...]
    findings: tuple[Table, ...]  # what the conclusions rest on
    tables: tuple[Table, ...]
    notes: tuple[Inline, ...]


def annex(published: Published, *, titles: Mapping[str, str]) -> Annex:
    """The annex of a data set; `titles` are frameworks as their makers write them, by name."""
    data = published.data
    labels = _labels(data, titles)
    pairs, breaks = _pairs(data, labels), list(_breaks(data, labels))
    scaling = say(
        "Where scaling breaks: the first step to more GPUs at which the added GPUs bring less than half of "
        "what as many GPUs brought before"
    )
    files = dict.fromkeys(path for case in data.cases for path in case.sources)
    contradictions: Iterator[Cells] = (
        {say("of what"): one.about, say("it says"): one.says, say("elsewhere"): one.elsewhere}
        for one in data.disagreements
    )
    return Annex(
        name=published.name,
        source=say(
            "Source: {repository} at {commit}; {cells}, {measured} with a number",
            repository=Link(data.repository, f"https://github.com/{data.repository}/tree/{data.commit}"),
            commit=data.commit[:7],
            cells=plural(len(data.cases), "cell"),
            measured=sum(case.samples_per_sec is not None for case in data.cases),
        ),
        figures=_how_read(data),
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
            table_of(say("Where the source disagrees with itself"), contradictions),
        ),
        tables=(
            table_of(say("Hardware, software, method"), _facts(data)),
            table_of(say("Known differences between the programs"), _differences(published.name, labels)),
            table_of(say("Figures and speedups as printed"), _as_printed(data, labels)),
            table_of(say("The most classes that train"), _limits(data, labels)),
            table_of(say("Single runs, where the source prints them"), _repeats(data, labels)),
            table_of(say("Superseded figures, oldest first"), _superseded(data, labels)),
        ),
        notes=(*data.notes, say("Files: {files}", files=joined(_file(data, path) for path in files))),
    )


def _labels(data: PublishedData, titles: Mapping[str, str]) -> dict[str, str]:
    """Frameworks with their versions, and with what tells their figures apart, by program."""
    entries = (*data.cases, *data.max_num_classes, *data.repeats, *data.superseded)
    programs = {entry.program: entry for entry in entries}
    order = list(data.software)
    return {
        program: " ".join(
            (
                version_name(titles, entry.framework, data.version(entry.framework)),
                *entry.options.values(),
            )
        )
        for program, entry in sorted(programs.items(), key=lambda item: order.index(item[1].framework))
    }


def _how_read(data: PublishedData) -> Text:
    counts = Counter(reading_words(case.printed) for case in data.cases if case.samples_per_sec is not None)
    if set(counts) == {None}:
        return say(
            'Figures are as printed; the printed speedups stand under "Figures and speedups as printed". '
            "Ratios, the other speedups and the conclusions are computed from the figures. The source prints "
            "one number for most cases, so no interval is given and no framework is called the fastest."
        )
    ways = (
        say("{count}: {how}", count=count, how=words or say("as printed")) for words, count in counts.items()
    )
    return say(
        "Where the figures come from: {ways}. Ratios, speedups and the conclusions are computed from them. A "
        "case has one number, so no interval is given and no framework is called the fastest.",
        ways=joined(ways, "; "),
    )


def _file(data: PublishedData, path: str) -> Link:
    """A file of the source, at the commit that the data was read from; an address leads where it says."""
    if path.startswith("https://"):
        return Link(path, path)
    return Link(path, f"https://github.com/{data.repository}/blob/{data.commit}/{quote(path)}")


def _or_dash(count: int | None) -> Inline:
    return DASH if count is None else str(count)


def _series(data: PublishedData, case: PublishedCase) -> Series:
    batch = say("batch {batch}", batch=_or_dash(case.batch_size_per_device))
    parallelism = sampled_parallelism(case.parallelism, case.sample_ratio)
    parts: list[Inline] = [say("max batch") if case.batch_is_max else batch]
    if len({one.precision for one in data.cases}) > 1:
        parts.append(case.precision)
    if len({one.num_classes for one in data.cases if one.experiment == case.experiment}) > 1:
        parts.append(say("{count} classes", count=str(case.num_classes)))
    if case.hardware is not None:
        parts.append(case.hardware)
    return case.experiment, parallelism, joined(parts)


def _series_cells(series: Series) -> Cells:
    return dict(zip((say("workload"), say("parallelism"), say("series")), series, strict=True))


def _rows(data: PublishedData) -> dict[tuple[Series, str], dict[str, PublishedCase]]:
    """The cases by series and topology, then by framework, as the source pairs them."""
    rows: dict[tuple[Series, str], dict[str, PublishedCase]] = {}
    for case in data.cases:
        rows.setdefault((_series(data, case), case.topology), {})[case.program] = case
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


def _lines(data: PublishedData, program: str) -> dict[Series, list[tuple[PublishedCase, float]]]:
    """The figures of a program in each series, from few to many devices."""
    lines: dict[Series, list[tuple[PublishedCase, float]]] = {}
    for case in sorted(data.cases, key=lambda case: case.devices):
        if case.program == program and case.samples_per_sec is not None:
            lines.setdefault(_series(data, case), []).append((case, case.samples_per_sec))
    return lines


def _breaks(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    """Every series that stops scaling, and where."""
    for program, label in labels.items():
        for series, line in _lines(data, program).items():
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
    for program, label in labels.items():
        lines = [line for line in _lines(data, program).values() if len(line) > 1]
        shares = sorted(line[-1][1] / line[0][1] * line[0][0].devices / line[-1][0].devices for line in lines)
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
    """Every cell of the source's tables, with the batch sizes, speedups and memory where it printed any."""
    first, *others = labels
    columns: dict[Text, Callable[[PublishedCase], Inline]] = {}
    if any(case.batch_is_max for case in data.cases):
        columns[say("batch")] = lambda case: _or_dash(case.batch_size_per_device)
    columns[say("samples/s")] = lambda case: rate(case.samples_per_sec) or DASH
    if any(case.speedup is not None for case in data.cases):
        columns[say("speedup")] = lambda case: factor(case.speedup) or DASH
    if any(case.peak_memory_mib is not None for case in data.cases):
        columns[say("peak memory (MiB)")] = lambda case: _or_dash(case.peak_memory_mib)
    for (series, topology), row in _rows(data).items():
        cells: dict[Inline | Column, Inline] = {**_series_cells(series), say("topology"): topology}
        for name, label in labels.items():
            for column, printed in columns.items():
                heading = number(say("{framework} {column}", framework=label, column=column))
                cells[heading] = printed(row[name]) if name in row else ""
        for other in others:
            cells[number(f"{labels[first]} / {labels[other]}")] = factor(_ratio(row, first, other))
        yield cells


def _facts(data: PublishedData) -> Iterator[Cells]:
    facts: dict[Inline, str] = {
        say("hardware"): data.hardware,
        **{" ".join((data.titles[name], data.version(name))): text for name, text in data.software.items()},
        say("method"): data.method,
        **{field: unit.replace("null =", "-:") for field, unit in data.units.items()},
    }
    return ({say("what"): what, say("as published"): text} for what, text in facts.items())


def _differences(name: str, labels: Labels) -> Iterator[Cells]:
    """What is known to differ between the programs; nothing where nobody looked."""
    path = shipped_folder("reports") / name / "differences.json"
    for entry in json.loads(path.read_bytes()) if path.is_file() else ():
        own: Cells = {label: entry["frameworks"].get(program, DASH) for program, label in labels.items()}
        yield {say("what differs"): entry["what"], **own}


def _limits(data: PublishedData, labels: Labels) -> Iterator[Cells]:
    has_networks = any(limit.network for limit in data.max_num_classes)
    has_memory = any(limit.peak_memory_mib for limit in data.max_num_classes)
    for limit in data.max_num_classes:
        partial_fc = sampled_parallelism("partial_fc", limit.sample_ratio)
        used = ((sampled_parallelism("model"), limit.model_parallel), (partial_fc, limit.partial_fc))
        yield {
            say("framework"): labels[limit.program],
            **({say("network"): limit.network or DASH} if has_networks else {}),
            say("parallelism"): joined(words for words, is_used in used if is_used),
            say("topology"): limit.topology,
            say("precision"): limit.precision,
            number(say("batch")): str(limit.batch_size_per_device),
            number(say("classes")): str(limit.num_classes),
            **({number(say("peak memory (MiB)")): _or_dash(limit.peak_memory_mib)} if has_memory else {}),
        }


def _on_limits(data: PublishedData, labels: Labels) -> Iterator[Text]:
    first, *others = labels
    most = {
        (", ".join(filter(None, (limit.network, limit.topology))), limit.program): limit.num_classes
        for limit in data.max_num_classes
    }
    for (where, program), classes in most.items():
        if program in others and (where, first) in most:
            yield say(
                "{which} in the most classes that train on {topology}: {ratio}",
                which=f"{labels[first]} / {labels[program]}",
                topology=where,
                ratio=f"{most[where, first] / classes:.3f}",
            )


def _case_cells(entry: PublishedRepeats | Superseded, labels: Labels) -> Cells:
    return {
        say("framework"): labels[entry.program],
        say("workload"): f"{entry.network}_{entry.dataset}" if entry.network else say("not said"),
        say("parallelism"): sampled_parallelism(entry.parallelism, entry.sample_ratio),
        say("topology"): entry.topology,
        number(say("batch")): _or_dash(entry.batch_size_per_device),
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
        batch = say("batch {batch}", batch=_or_dash(entry.batch_size_per_device))
        yield say(
            "Of {figures} that a later one superseded {far} moved by more than {margin}, the most by {most} "
            "({case})",
            figures=plural(len(moves), "figure"),
            far=sum(abs(moved) > MARGIN for moved, _ in moves),
            margin=percent(MARGIN, decimals=0),
            most=percent(most, decimals=1),
            case=joined((labels[entry.program], parallelism, entry.topology, batch)),
        )
