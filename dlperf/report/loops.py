"""Two tables of pairs: an original program beside our own loop, and real data beside synthetic.

Everywhere else the two sides of such a pair stand in tables of their own: comparison.py keeps them apart.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import get_args

from dlperf.plan.case import DataSet, ReadMode
from dlperf.report.columns import NOT_MEASURED, ratio_cell
from dlperf.report.comparison import (
    CaseKey,
    Row,
    Variant,
    case_key,
    data_words,
    loop_words,
    names_of_several,
    sampled_parallelism,
)
from dlperf.report.numbers import DASH, NOT_KNOWN, or_not_known, percent, rate, reach
from dlperf.report.tables import status_of
from dlperf.report.text import Cells, Column, Inline, Link, Table, Text, joined, number, say, table_of
from dlperf.results.cases import VARIANT_FIELDS, CaseFigures, comparable

# More of the files than this in the page cache, and a run was not cold.
MOST_RESIDENT_COLD = 0.05
# Fewer than this, and it was not warm.
LEAST_RESIDENT_WARM = 0.95


def _labels(figures: Iterable[CaseFigures], titles: Mapping[str, str]) -> Callable[[CaseFigures], str]:
    """Framework and version of a case, and what tells them from others of the report."""
    variants = [Variant.of(figure.case) for figure in figures]
    return lambda figure: Variant.of(figure.case).label(variants, titles)


def _without_loop(figure: CaseFigures) -> tuple[object, ...]:
    return comparable(figure, leaving_out=VARIANT_FIELDS)


def _without_data(figure: CaseFigures) -> tuple[object, ...]:
    return comparable(figure, leaving_out=("data",))


def _nearest(figure: CaseFigures, found: Sequence[CaseFigures]) -> list[CaseFigures]:
    """Those of its own sweep, which took turns with it; all others only where there are none."""
    return [one for one in found if one.sweep == figure.sweep] or list(found)


def _own_loops(original: CaseFigures, found: Sequence[CaseFigures]) -> list[CaseFigures]:
    """The own loops with a figure beside an original program; of its version alone if there are any."""
    measured = [figure for figure in _nearest(original, found) if figure.summary is not None]
    return [one for one in measured if one.case.version == original.case.version] or measured


def loops_table(
    figures: Sequence[CaseFigures], *, titles: Mapping[str, str], anchors: Mapping[CaseKey, str]
) -> Table:
    """A row per original program, cell and own loop of the same engine, where both were measured."""
    label, twins = _labels(figures, titles), names_of_several(figure.case for figure in figures)
    own_loops: dict[object, list[CaseFigures]] = defaultdict(list)
    for figure in figures:
        if figure.case.source is None:
            own_loops[figure.case.framework, _without_loop(figure)].append(figure)
    rows: list[Cells] = [
        {
            **_setting_cells(original),
            say("data"): data_words(original, twins),
            say("own loop"): label(own),
            say("original program"): label(original),
            number(say("own loop (samples/s)")): _rate(own, anchors),
            number(say("original program (samples/s)")): _rate(original, anchors),
            number(say("own / original")): ratio_cell(own, original),
            number(say("iterations per line of the original")): or_not_known(original.iterations_per_line),
            _REMARK: joined(_loop_remarks(original, own), "; "),
        }
        for original in sorted(figures, key=_by_framework)
        if original.case.source is not None and original.summary is not None
        for own in _own_loops(original, own_loops[original.case.source.engine, _without_loop(original)])
    ]
    return _folded(say("Original and own loop"), rows)


def input_tax_table(
    figures: Sequence[CaseFigures], *, titles: Mapping[str, str], anchors: Mapping[CaseKey, str]
) -> Table:
    """A row per case with a data set, beside it the same on synthetic images, where one has a figure."""
    label, twins = _labels(figures, titles), names_of_several(figure.case for figure in figures)
    with_data = [figure for figure in figures if figure.case.data is not None]
    on_synthetic: dict[object, list[CaseFigures]] = defaultdict(list)
    for figure in figures:
        if figure.case.data is None:
            on_synthetic[_without_data(figure)].append(figure)
    rows: list[Cells] = []
    for figure in sorted(with_data, key=_by_framework):
        near = _nearest(figure, on_synthetic[_without_data(figure)])
        synthetic = next((one for one in near if one.summary is not None), next(iter(near), None))
        if figure.summary is None and (synthetic is None or synthetic.summary is None):
            continue
        speed = figure.data_bytes_per_second
        rows.append(
            {
                say("framework"): label(figure),
                say("loop"): loop_words(figure),
                **_setting_cells(figure),
                say("data"): data_words(figure, twins),
                number(say("with data (samples/s)")): _rate(figure, anchors),
                number(say("synthetic (samples/s)")): _rate(synthetic, anchors),
                number(say("with data / synthetic")): ratio_cell(figure, synthetic) or NOT_MEASURED,
                number(say("waiting for data")): percent(figure.data_wait_share, decimals=1)
                or _untold(figure),
                number(say("read (MiB/s)")): _untold(figure) if speed is None else rate(speed / 2**20),
                number(say("in page cache before")): resident_words(figure),
                _REMARK: joined(_data_remarks(figure, synthetic), "; "),
            }
        )
    return _folded(say("Input tax"), rows)


_REMARK, _NO_REMARK = say("remark"), joined((), "; ")
_MODES = get_args(ReadMode)


def _by_framework(figure: CaseFigures) -> tuple[object, ...]:
    """Own loops before original programs, then framework, cell and data."""
    case = figure.case
    loop = (case.source is not None, case.framework, case.version)
    data = ("", 0) if case.data is None else (case.data.name, _MODES.index(case.data.read))
    return (case.workload.experiment, case.parallelism, *loop, Row.of(case), data)


def _setting_cells(figure: CaseFigures) -> dict[Inline | Column, Inline]:
    """What a cell is; where all rows have the same it stands in the caption."""
    case = figure.case
    threads = or_not_known(figure.threads_per_device)
    return {
        say("workload"): case.workload.experiment,
        say("parallelism"): sampled_parallelism(case.parallelism, case.sample_ratio),
        say("topology"): str(case.topology),
        number(say("batch")): figure.size("batch_size_per_device"),
        number(say("classes")): figure.size("num_classes"),
        say("precision"): case.precision,
        say("device"): case.device,
        number(say("threads per device")): threads,
        say("hardware"): figure.hardware,
    }


# In the caption where all rows have the same.
_FOLDABLE = frozenset(
    {
        say("workload"), say("parallelism"), say("topology"), say("batch"), say("classes"), say("precision"),
        say("device"), say("threads per device"), say("hardware"), say("data"), say("loop"),
        say("iterations per line of the original"), _REMARK,
    }
)  # fmt: skip


def _heading(heading: Inline | Column) -> Inline:
    return heading.heading if isinstance(heading, Column) else heading


def _folded(caption: Text, rows: Sequence[Cells]) -> Table:
    """The rows as a table; what all of them have in common stands in the caption, an empty remark nowhere."""
    same = [
        heading
        for heading in (rows[0] if rows else ())
        if len({row[heading] for row in rows}) == 1 and _heading(heading) in _FOLDABLE
    ]
    settings = [
        say("{what}: {value}", what=_heading(heading), value=rows[0][heading])
        for heading in same
        if rows[0][heading] != _NO_REMARK
    ]
    words = say("{caption} ({settings})", caption=caption, settings=joined(settings)) if settings else caption
    return table_of(words, ({name: cell for name, cell in row.items() if name not in same} for row in rows))


def _rate(figure: CaseFigures | None, anchors: Mapping[CaseKey, str]) -> Inline:
    """The figure, leading to its runs; without one why."""
    if figure is None:
        return NOT_MEASURED
    if figure.summary is None:
        return status_of(figure)
    words, name = rate(figure.summary.median), anchors.get(case_key(figure))
    return words if name is None else Link(words, f"#{name}")


def _untold(figure: CaseFigures) -> Inline:
    """Instead of what only own loops measure."""
    return NOT_MEASURED if figure.case.source is None else DASH


def _loop_remarks(original: CaseFigures, own: CaseFigures) -> Iterable[Text]:
    if (original.iterations_per_line or 1) > 1:
        yield say("the original prints means alone")
    if own.case.version != original.case.version:
        yield say("other versions of the engine")
    yield from _sweep_remark(original, own)


def _sweep_remark(one: CaseFigures, other: CaseFigures | None) -> Iterable[Text]:
    if other is not None and one.sweep != other.sweep:
        yield say("measured in different sweeps, not in turns")


def _data_remarks(figure: CaseFigures, synthetic: CaseFigures | None) -> Iterable[Text]:
    yield from residency_remark(figure)
    yield from _sweep_remark(figure, synthetic)


def residency_remark(figure: CaseFigures) -> Iterable[Text]:
    """That the page cache did not hold what it was to hold, or that nobody looked."""
    shares, data = figure.resident_shares, figure.case.data
    if data is None or data.read == "memory" or not figure.good:
        return
    if not shares:
        yield say("state of the page cache not known")
    elif data.read == "cold" and shares[-1] > MOST_RESIDENT_COLD:
        yield say("not cold")
    elif data.read == "warm" and shares[0] < LEAST_RESIDENT_WARM:
        yield say("not warm")


def resident_words(figure: CaseFigures) -> Inline:
    """What share of the files lay in the page cache before its runs; nothing matters where memory is read."""
    shares, data = figure.resident_shares, figure.case.data
    if data is not None and data.read == "memory":
        return DASH
    if not shares:
        return _untold(figure)
    return reach(percent(shares[0], decimals=0), percent(shares[-1], decimals=0))


def sources_table(figures: Iterable[CaseFigures], *, titles: Mapping[str, str]) -> Table:
    """Which files each original program consisted of."""
    seen = {
        (figure.case.framework, source.content_hash, source.commit or ""): source
        for figure in figures
        if (source := figure.case.source) is not None
    }
    rows: list[Cells] = [
        {
            say("original program"): titles.get(framework, framework),
            say("commit"): commit or NOT_KNOWN,
            say("SHA-256 of its files"): content_hash,
            say("own loop"): titles.get(source.engine, source.engine),
        }
        for (framework, content_hash, commit), source in sorted(seen.items(), key=itemgetter(0))
    ]
    return table_of(say("Original programs"), rows)


def data_sets_table(figures: Iterable[CaseFigures]) -> Table:
    """Which data sets were read; none where all images were synthetic."""
    seen: dict[tuple[str, str], DataSet] = {}
    systems: dict[tuple[str, str], dict[str, None]] = {}
    for figure in figures:
        if (data := figure.case.data) is not None:
            key = (data.name, data.index_sha256)
            seen[key] = data
            kinds = (reading.file_system for reading in figure.readings)
            systems.setdefault(key, {}).update(dict.fromkeys(kind for kind in kinds if kind is not None))
    rows: list[Cells] = [
        {
            say("data"): name,
            number(say("images")): str(data.images),
            number(say("classes")): str(data.classes),
            say("forms"): ", ".join(data.forms),
            say("file system"): " / ".join(systems[name, index]) or NOT_KNOWN,
            say("SHA-256 of the index"): index,
        }
        for (name, index), data in sorted(seen.items(), key=itemgetter(0))
    ]
    return table_of(say("Data sets"), rows)
