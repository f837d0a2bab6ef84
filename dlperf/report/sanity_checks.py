"""Sanity checks: what figures obey whatever was measured. A check warns; it changes no figure.

A check that compares two cases warns only where their runs tell them apart, if both have several runs;
figures without runs are compared as they stand. docs/statistics.md gives the reasons.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise

from dlperf.plan.case import Case
from dlperf.report.columns import interval_of_ratio
from dlperf.report.comparison import PARALLELISMS, version_name
from dlperf.report.numbers import NOT_KNOWN, factor, giga, mebibytes, percent, rate
from dlperf.report.telemetry import MOST_HELD_BACK, middle, most, of_good_runs, reason_words
from dlperf.report.text import Cells, Inline, Table, Text, joined, number, say, table_of
from dlperf.results.cases import CaseFigures, canonical, data_name, matmul_shares
from dlperf.statistics.basic import Interval, Summary

# How much slower is much slower, and how far two sessions may lie apart.
MARGIN = 0.05
# Below this share of the devices the other devices' work is lost.
LOST_HALF = 0.5
# Median step times differ from the mean ones in runs with pauses.
STEP_MARGIN = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWarning:
    """A figure that breaks a law: what the law expects of it, and what it is."""

    check: Text
    subject: CaseFigures
    expected: Inline
    actual: Inline


@dataclass(frozen=True, slots=True)
class Measured:
    """A case with a figure."""

    figure: CaseFigures
    summary: Summary

    @property
    def devices(self) -> int:
        """Over all nodes."""
        return self.figure.case.topology.world_size


Breach = tuple[Measured, "Inline", "Inline"]  # subject, expected, actual


def sanity_checks(figures: Iterable[CaseFigures]) -> tuple[CheckWarning, ...]:
    """Every breach of every law, law by law, in the order of the figures."""
    measured = [Measured(figure, figure.summary) for figure in figures if figure.summary is not None]
    return tuple(
        CheckWarning(check=check, subject=subject.figure, expected=expected, actual=actual)
        for check, breaches in CHECKS.items()
        for subject, expected, actual in breaches(measured)
    )


def _groups(measured: Iterable[Measured], name: str) -> Iterator[list[Measured]]:
    """The cases that differ in this field alone, where there are several; `sweep` stands for the session."""
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for one in measured:
        sweep = one.figure.sweep if name != "sweep" else None
        key = (one.figure.hardware, sweep, canonical(one.figure.case, leaving_out=[name]))
        groups.setdefault(key, []).append(one)
    return (group for group in groups.values() if len(group) > 1)


def _ratio(one: Measured, other: Measured) -> Interval | None:
    """Where one's figure over the other's lies; None where both have runs, too few for an interval.

    Figures without runs, or of a single one, are compared as they stand.
    """
    if min(len(one.figure.good), len(other.figure.good)) > 1:
        return interval_of_ratio(one.figure, other.figure)
    ratio = one.summary.median / other.summary.median
    return Interval(low=ratio, high=ratio)


def _is_below(one: Measured, other: Measured, times: float = 1.0) -> bool:
    """Whether one's figure is less than `times` the other's, and their runs say so."""
    ratio = _ratio(one, other)
    return one.summary.median < times * other.summary.median and ratio is not None and ratio.high < times


def _apart(one: Measured, other: Measured) -> bool:
    """Whether two figures differ by more than the margin, and their runs too."""
    ratio = _ratio(one, other)
    differ = ratio is not None and not ratio.low <= 1 <= ratio.high
    return differ and abs(other.summary.median / one.summary.median - 1) > MARGIN


def _not_slower(
    measured: Iterable[Measured],
    *,
    name: str,
    order: Callable[[Case], float],
    words: Callable[[Case], Inline],
    times: float = 1.0,
) -> Iterator[Breach]:
    """Of cases that differ in one field alone, each must reach `times` the one before it in the order."""
    for group in _groups(measured, name):
        for before, after in pairwise(sorted(group, key=lambda one: order(one.figure.case))):
            case = before.figure.case
            if order(after.figure.case) > order(case) and _is_below(after, before, times):
                least = say(">= {rate} ({what})", rate=rate(times * before.summary.median), what=words(case))
                yield after, least, rate(after.summary.median)


def _speedups(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured, float]]:
    for group in _groups(measured, "topology"):
        single = next((one for one in group if one.devices == 1), None)
        if single is not None:
            for one in group:
                if one is not single:
                    yield one, single, one.summary.median / single.summary.median


def _speedup_ceiling(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one, single, speedup in _speedups(measured):
        ratio = _ratio(one, single)
        if ratio is not None and ratio.low > one.devices:
            yield one, say("speedup <= {limit}", limit=one.devices), factor(speedup)


def _speedup_floor(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one, single, speedup in _speedups(measured):
        if _is_below(one, single, LOST_HALF * one.devices):
            yield one, say("speedup >= {limit}", limit=f"{LOST_HALF * one.devices:g}"), factor(speedup)


def _step_time(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one in measured:
        seconds, batch = one.figure.step_seconds_median, one.figure.case.global_batch_size
        if seconds is None:
            continue
        samples = one.summary.median * seconds
        if abs(samples / batch - 1) > STEP_MARGIN:
            within = say(
                "global batch {batch} within {margin}", batch=batch, margin=percent(STEP_MARGIN, decimals=0)
            )
            yield one, within, rate(samples)


def _memory(measured: Sequence[Measured]) -> Iterator[Breach]:
    """Devices that are a CPU share the memory of their node; that of other devices is not known here."""
    for one in measured:
        peaks = one.figure.peaks
        peak = peaks.get("peak_anonymous_bytes", peaks.get("peak_memory_bytes"))
        nodes = [node for run in one.figure.runs if run.environment for node in run.environment.nodes]
        sizes = [node.memory_bytes for node in nodes if node.memory_bytes is not None]
        if one.figure.case.device == "cpu" and peak is not None and sizes and peak > min(sizes):
            yield one, f"<= {mebibytes(min(sizes))} MiB", f"{mebibytes(peak)} MiB"


def _ceiling(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one, share in zip(measured, matmul_shares([one.figure for one in measured]), strict=True):
        flops = one.figure.model_flops_per_second
        if flops is not None and share is not None and share > 1:
            expected = say(
                "<= {peak} GFLOP/s, unless convolutions need fewer FLOPs (Winograd)",
                peak=giga(flops / share),
            )
            yield one, expected, giga(flops)


def _sessions(measured: Sequence[Measured]) -> Iterator[Breach]:
    for group in _groups(measured, "sweep"):
        for first, second in combinations(group, 2):
            if first.figure.sweep != second.figure.sweep and _apart(first, second):
                what = say(
                    "{rate} within {margin} ({sweep})",
                    rate=rate(first.summary.median),
                    margin=percent(MARGIN, decimals=0),
                    sweep=first.figure.sweep.name,
                )
                yield second, what, rate(second.summary.median)


def _held_back(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one in measured:
        share, clock = most(one.figure, "throttled"), middle(one.figure, "sm_mhz_least")
        if share is not None and share > MOST_HELD_BACK:
            told = say(
                "{share} ({reasons}; {clock} MHz)",
                share=percent(share, decimals=0),
                reasons=reason_words(one.figure),
                clock=NOT_KNOWN if clock is None else f"{clock:.0f}",
            )
            yield one, say("<= {margin} of the time", margin=percent(MOST_HELD_BACK, decimals=0)), told


def _gpu_users(measured: Sequence[Measured]) -> Iterator[Breach]:
    for one in measured:
        others = most(one.figure, "other_processes")
        if others:
            yield one, say("no process of others"), f"{others:.0f}"


def _clocks(measured: Sequence[Measured]) -> Iterator[Breach]:
    """Of the runs of one case."""
    for one in measured:
        for name in ("sm_mhz", "cpu_mhz"):
            clocks = [value for run in of_good_runs(one.figure) if (value := getattr(run, name)) is not None]
            if clocks and min(clocks) < (1 - MARGIN) * max(clocks):
                within = say("{margin} between runs", margin=percent(MARGIN, decimals=0))
                yield (
                    one,
                    within,
                    say("{low} to {high} MHz", low=f"{min(clocks):.0f}", high=f"{max(clocks):.0f}"),
                )


CHECKS: Mapping[Text, Callable[[Sequence[Measured]], Iterable[Breach]]] = {
    say("more devices are not slower"): partial(
        _not_slower,
        name="topology",
        order=lambda case: case.topology.world_size,
        words=lambda case: str(case.topology),
    ),
    say("no more speedup than devices"): _speedup_ceiling,
    say("no more than half of the devices are lost"): _speedup_floor,
    say(
        "a larger batch is not more than {margin} slower a sample", margin=percent(MARGIN, decimals=0)
    ): partial(
        _not_slower,
        name="batch_size_per_device",
        order=lambda case: case.batch_size_per_device,
        words=lambda case: say(
            "{times} x batch {batch}", times=f"{1 - MARGIN:g}", batch=case.batch_size_per_device
        ),
        times=1 - MARGIN,
    ),
    say("sampling fewer classes is not slower"): partial(
        _not_slower,
        name="sample_ratio",
        order=lambda case: -(case.sample_ratio or 0.0),
        words=lambda case: say("sample ratio {ratio}", ratio=f"{case.sample_ratio:g}"),
    ),
    say("samples/s x median step = global batch"): _step_time,
    say("memory of a rank fits into its node"): _memory,
    say("model FLOP/s stay below the measured rate"): _ceiling,
    say("the same case has the same figure in two sweeps"): _sessions,
    say("clocks are not held back"): _held_back,
    say("nobody else uses the GPUs"): _gpu_users,
    say("the runs of a case have the same clock"): _clocks,
}


def warnings_table(warnings: Iterable[CheckWarning], *, titles: Mapping[str, str]) -> Table:
    """The warnings on a table, for under it."""
    rows: list[Cells] = [
        {
            say("law"): warning.check,
            say("case"): case_words(
                warning.subject.case, titles, with_classes="num_classes" not in warning.subject.not_known
            ),
            say("expected"): warning.expected,
            number(say("actual")): warning.actual,
        }
        for warning in warnings
    ]
    return table_of(say("Sanity checks (no figure is changed)"), rows)


def case_words(
    case: Case, titles: Mapping[str, str], *, with_classes: bool = True, with_parallelism: bool = False
) -> Inline:
    """A case as people name it, in the order of a table's columns; a number that is searched for is `max`."""
    parts: list[Inline] = [
        version_name(titles, case.framework, case.version),
        *([PARALLELISMS[case.parallelism]] if with_parallelism else []),
        str(case.topology),
        say("batch {batch}", batch=case.size("batch_size_per_device")),
        *([say("{count} classes", count=case.size("num_classes"))] if with_classes else []),
        case.precision,
        *([] if case.data is None else [data_name(case)]),
        *([say("original program")] if case.source is not None else []),
    ]
    if case.sample_ratio is not None:
        parts.append(say("sample ratio {ratio}", ratio=f"{case.sample_ratio:g}"))
    return joined(parts)
