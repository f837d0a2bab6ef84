"""Measured cases beside the nearest figures of a published data set, and in what the two differ.

Near is a figure of the same network on as many GPUs. How far it is: one for each of precision, parallelism,
data, framework and kind of GPU that differs, and one for each factor of two in the batch and in the classes.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dlperf.report.columns import rate_as_read
from dlperf.report.comparison import LOOPS, READ, sampled_parallelism, version_name
from dlperf.report.numbers import NOT_KNOWN, factor, or_not_known, rate
from dlperf.report.sanity_checks import case_words
from dlperf.report.text import Cells, Inline, Table, Text, joined, number, plural, say, table_of
from dlperf.results.cases import CaseFigures
from dlperf.results.published import Published

_MOST = 3  # published figures beside one measured
_AS_NEAR = 0.5  # how much farther than the nearest one may be
_KIND_OF_GPU = re.compile(r"\b[A-Z]{1,3}[0-9]{2,4}\b")  # such as V100


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The measured cases of a report beside one published data set."""

    title: str
    nearest: Table
    nothing_near: tuple[Text, ...]


def against(published: Published, figures: tuple[CaseFigures, ...], *, titles: Mapping[str, str]) -> Against:
    """`figures` are those of a report, of which the measured ones count; `titles` are frameworks, by name."""
    measured = [figure for figure in figures if figure.published is None and figure.summary is not None]
    printed = [figure for figure in published.figures if figure.summary is not None]
    rows: list[Cells] = []
    far: dict[Text, dict[Inline, None]] = {}
    for figure in measured:
        if (why := _why_far(figure, printed)) is not None:
            case = joined((figure.case.workload.experiment, str(figure.case.topology)))
            far.setdefault(why, {})[case] = None
            continue
        near = [other for other in printed if _why_far(figure, [other]) is None]
        near.sort(key=lambda other: _distance(figure, other))
        rows += (
            _row(figure, other, titles)
            for other in near[:_MOST]
            if _distance(figure, other) <= _distance(figure, near[0]) + _AS_NEAR
        )
    if not measured:
        far = {say("no case here has a figure"): {}}
    return Against(
        title=published.data.title,
        nearest=table_of(
            say("Measured cases beside the nearest published figures; a ratio holds all that differs"), rows
        ),
        nothing_near=tuple(
            say("Nothing is near: {why} ({cases})", why=why, cases=joined(cases, "; "))
            if cases
            else say("Nothing is near: {why}", why=why)
            for why, cases in far.items()
        ),
    )


def _why_far(figure: CaseFigures, printed: list[CaseFigures]) -> Text | None:
    """What keeps every published figure from standing beside a measured one; None where one may."""
    case = figure.case
    if case.device != "cuda":
        return say("measured on a CPU, and every published figure is of GPUs")
    same = [other for other in printed if other.case.workload.network == case.workload.network]
    same = [other for other in same if "network" not in other.not_known]
    if not same:
        return say("no published figure of {network}", network=case.workload.network)
    if all(other.case.topology.world_size != case.topology.world_size for other in same):
        return say(
            "no published figure of {network} on {gpus}",
            network=case.workload.network,
            gpus=plural(case.topology.world_size, "GPU"),
        )
    return None


def _compared(figure: CaseFigures) -> dict[Text, Inline]:
    """What two figures may differ in beside hardware and program."""
    case = figure.case
    return {
        say("precision"): case.precision,
        say("parallelism"): sampled_parallelism(case.parallelism, case.sample_ratio),
        say("batch"): str(case.batch_size_per_device),
        say("classes"): NOT_KNOWN if "num_classes" in figure.not_known else str(case.num_classes),
        say("data"): _data(figure),
    }


def _data(figure: CaseFigures) -> Inline:
    if figure.published is None:
        return or_not_known(figure.data)
    dataset = figure.case.workload.dataset
    return "synthetic" if dataset.startswith("synthetic") else dataset


def _differences(figure: CaseFigures, other: CaseFigures, titles: Mapping[str, str]) -> Iterator[Text]:
    """In what the two differ, the most telling first."""
    ours, theirs = _compared(figure), _compared(other)
    pairs: dict[Text, tuple[Inline, Inline]] = {
        say("hardware"): (figure.hardware, other.hardware),
        say("program"): (_program(figure, titles), _program(other, titles)),
        **{what: (ours[what], theirs[what]) for what in ours},
    }
    if {figure.case.precision, other.case.precision} == {"fp32"}:
        pairs[say("float32 products")] = (
            or_not_known(figure.fp32_arithmetic),
            or_not_known(other.fp32_arithmetic),
        )
    if figure.case.topology != other.case.topology:
        pairs[say("topology")] = (str(figure.case.topology), str(other.case.topology))
    for what, (mine, printed) in pairs.items():
        if mine != printed or mine == NOT_KNOWN:
            yield say("{what}: {ours} against {theirs}", what=what, ours=mine, theirs=printed)


def _program(figure: CaseFigures, titles: Mapping[str, str]) -> Inline:
    case = figure.case
    name = version_name(titles, case.framework, case.version)
    if figure.published is not None:
        return " ".join((name, *map(str, case.options.values())))
    return name if figure.loop is None else say("{name}, {loop} loop", name=name, loop=LOOPS[figure.loop])


def _distance(figure: CaseFigures, other: CaseFigures) -> float:
    case, theirs = figure.case, other.case
    kinds = set(_KIND_OF_GPU.findall(figure.hardware)) & set(_KIND_OF_GPU.findall(other.hardware))
    differing = (
        case.precision != theirs.precision,
        (case.parallelism, case.sample_ratio) != (theirs.parallelism, theirs.sample_ratio),
        _data(figure) != _data(other),
        case.framework != theirs.framework,
        not kinds,
    )
    classes = math.log2(case.num_classes / theirs.num_classes) if "num_classes" not in other.not_known else 1
    batch = math.log2(case.batch_size_per_device / theirs.batch_size_per_device)
    return sum(differing) + abs(batch) + abs(classes)


def _row(figure: CaseFigures, other: CaseFigures, titles: Mapping[str, str]) -> Cells:
    ours = figure.summary.median if figure.summary else math.nan
    theirs = other.summary.median if other.summary else math.nan
    read = READ.get(other.published.reading) if other.published else None
    margin = other.published.uncertainty if other.published else None
    ratio: Inline = factor(ours / theirs)
    if margin is not None and margin < theirs:
        low, high = factor(ours / (theirs + margin)), factor(ours / (theirs - margin))
        ratio = say("{ratio} ({low} to {high})", ratio=ratio, low=low, high=high)
    return {
        say("measured"): _case_words(figure, titles),
        number(say("samples/s")): rate(ours),
        say("published"): joined(filter(None, (_case_words(other, titles), read)), "; "),
        number(say("published samples/s")): rate_as_read(other),
        number(say("measured / published")): ratio,
        say("differs in"): joined(_differences(figure, other, titles), "; "),
    }


def _case_words(figure: CaseFigures, titles: Mapping[str, str]) -> Inline:
    known = "num_classes" not in figure.not_known
    words = case_words(figure.case, titles, with_classes=known, with_parallelism=True)
    return joined((figure.case.workload.experiment, words))
