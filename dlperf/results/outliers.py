"""A measurement -> which device, node or link is worse than its equals, than good ones, or than it was."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from dlperf.errors import UserError
from dlperf.logs.text import plain
from dlperf.results.measurement import (
    ABILITIES,
    GoodMachines,
    MachineBaseline,
    Measurement,
    MetricName,
    Series,
)
from dlperf.results.schema import kinds_of_hardware
from dlperf.statistics.basic import LEVEL, holm, quantile
from dlperf.statistics.outliers import (
    FEWEST_GOOD,
    FEWEST_REPEATS,
    Deficit,
    Values,
    against_before,
    against_good,
    among_equals,
)
from dlperf.version import __version__

# The words for a deficit, of which those for its size are made already: `48 % below`.
_Words = Callable[[Deficit, str], str]


class Unit(NamedTuple):
    """What is judged: a device (with `device`), a node, a link (with `peer`), or a node over its links."""

    node: str
    device: str | None = None
    peer: str | None = None
    over_links: bool = False

    def __str__(self) -> str:
        if self.peer is not None:
            return f"link {self.node} to {self.peer}"
        if self.device not in {None, "cpu"}:
            return f"{self.device} of node {self.node}"
        return f"node {self.node}" + (" on most of its links" if self.over_links else "")


class Group(NamedTuple):
    """Equals: one figure on one kind of machine (`hardware`; of links, that of both ends)."""

    metric: MetricName
    hardware: str
    over_links: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is worse than it should be; its text is one line.

    `adjusted_p` is of all tests of the judgement together; None: it is no matter of chance.
    """

    unit: Unit
    metric: str | None  # of `ABILITIES`; None: the node as a whole
    words: str
    adjusted_p: float | None = None

    def __str__(self) -> str:
        title = "" if self.metric is None else f"{ABILITIES[self.metric].title} "
        return f"{self.unit}: {title}{self.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a measurement shows: findings, the number of tests behind them, and what could not be judged.

    `missing` are nodes that were not measured, which says nothing about how fast they are.
    """

    findings: tuple[Finding, ...]
    tests: int
    notes: tuple[str, ...] = ()
    missing: tuple[Finding, ...] = ()

    def __add__(self, other: Self) -> Self:
        """Both, one after the other."""
        return type(self)(
            findings=self.findings + other.findings,
            tests=self.tests + other.tests,
            notes=self.notes + other.notes,
            missing=self.missing + other.missing,
        )


def judge_equals(measurement: Measurement, margins: Mapping[str, float] | None = None) -> Judgement:
    """Each device, node and link against the median of its equals, with one error rate for all of them.

    Named is what is worse by more than the margin of its figure at `LEVEL` after Holm's adjustment, so that a
    measurement of equal machines names anything at most that often. `margins` replace those of `ABILITIES`.
    """
    groups = groups_of(measurement)
    deficits = {
        (group, unit): deficit
        for group, units in groups.items()
        for unit, deficit in among_equals(_logs(group.metric, units)).items()
    }

    def words(deficit: Deficit, more: str) -> str:
        equals = "its only equal" if deficit.equals == 1 else f"the median of its {deficit.equals} equals"
        return f"{more} {equals}"

    lonely = dict.fromkeys(
        str(unit)
        for group, units in groups.items()
        if len(units) == 1 and not group.over_links
        for unit in units
    )
    notes = []
    if lonely:
        notes.append(f"without an equal, so that only a reference can judge it: {', '.join(lonely)}")
    if measurement.repeats < FEWEST_REPEATS:
        notes.append(f"nothing is judged on fewer than {FEWEST_REPEATS} repeats")
    unable, found = _unable(measurement, groups), _judged(deficits, margins or {}, words)
    return Judgement(
        findings=(*unable, *found),
        tests=len(deficits),
        notes=tuple(notes),
        missing=tuple(_missing(measurement)),
    )


def judge_reference(
    measurement: Measurement, reference: MachineBaseline, margins: Mapping[str, float] | None = None
) -> Judgement:
    """Each device, node and link against good ones of the same kind of machine, named as `judge_equals` does.

    UserError where another PyTorch or transport made the reference.
    """
    mine, theirs = (f"PyTorch {one.engine} over {one.transport}" for one in (measurement, reference))
    if mine != theirs:
        raise UserError(f"{reference.label}: was measured with {theirs}, and this with {mine}; measure again")
    kinds = kinds_of_hardware(
        [*(one.hardware for one in reference.machines), *(group.hardware for group in groups_of(measurement))]
    )
    good = {Group(one.metric, kinds[one.hardware]): one for one in reference.machines}
    deficits, unknown = {}, set()
    for group, units in groups_of(measurement).items():
        one = good.get(Group(group.metric, kinds[group.hardware]))
        if group.over_links:
            continue
        if one is None or len(one.values) < FEWEST_GOOD:
            unknown.add(group.hardware)
            continue
        sign = ABILITIES[group.metric].sign
        levels = [sign * math.log(value) for value in one.values]
        for unit, deficit in against_good(_logs(group.metric, units), levels).items():
            deficits[group, unit] = deficit
    notes = [
        f"{reference.label} has fewer than {FEWEST_GOOD} good values for some figures of: {name}"
        for name in sorted(unknown)
    ]

    def words(deficit: Deficit, more: str) -> str:
        return f"{more} the reference {reference.label} (median of {deficit.equals} good ones)"

    found = _judged(deficits, margins or {}, words)
    return Judgement(findings=tuple(found), tests=len(deficits), notes=tuple(notes))


def judge_change(
    before: Measurement, after: Measurement, margins: Mapping[str, float] | None = None
) -> Judgement:
    """Each device, node and link of `after` against itself in `before`, named as `judge_equals` does."""
    old, deficits = groups_of(before), {}
    for group, units in groups_of(after).items():
        if not group.over_links and group in old:
            logs = [_logs(group.metric, each) for each in (units, old[group])]
            for unit, deficit in against_before(*logs).items():
                deficits[group, unit] = deficit
    day = before.started_at[:16].replace("T", " ")
    found = _judged(deficits, margins or {}, lambda _, more: f"{more} its own of {day}")
    notes = [f"no figure of one is in the other: {before.cluster}, {after.cluster}"] if not deficits else []
    if before.engine != after.engine:
        notes.append(f"PyTorch {before.engine} measured before, {after.engine} after")
    return Judgement(findings=tuple(found), tests=len(deficits), notes=tuple(notes))


def machine_baseline(
    label: str, measurements: Sequence[Measurement], *, nodes: Sequence[str] = ()
) -> MachineBaseline:
    """The levels of the machines of some measurements, or of `nodes` among them alone.

    UserError where there are fewer than `FEWEST_GOOD` nodes, or the measurements were made differently.
    """
    first = measurements[0]
    kinds = kinds_of_hardware(name for one in measurements for name in one.hardware.values())
    values: dict[Group, list[float]] = defaultdict(list)
    used: set[tuple[int, str]] = set()
    for number, one in enumerate(measurements):
        if (one.engine, one.transport) != (first.engine, first.transport):
            raise UserError(f"{label}: its measurements were made with different versions or transports")
        for series in one.series:
            ends = {series.node, series.peer or series.node}
            if not nodes or ends <= set(nodes):
                level = _level(series.values)
                if level is not None:
                    values[_group(series, one.hardware, kinds)].append(level)
                    used |= {(number, end) for end in ends}
    if len(used) < FEWEST_GOOD:
        raise UserError(f"{label}: a reference needs {FEWEST_GOOD} good nodes, {len(used)} given")
    return MachineBaseline(
        label=label,
        created_at=max(one.started_at for one in measurements),
        dlperf_version=__version__,
        engine=first.engine,
        transport=first.transport,
        machines=tuple(
            GoodMachines(metric=group.metric, hardware=group.hardware, values=tuple(found))
            for group, found in sorted(values.items())
        ),
    )


def groups_of(measurement: Measurement) -> dict[Group, dict[Unit, Values]]:
    """Every figure by what is equal; from three nodes on, also each node over its links."""
    kinds = kinds_of_hardware(measurement.hardware.values())
    groups: dict[Group, dict[Unit, Values]] = defaultdict(dict)
    links: dict[Group, dict[Unit, list[Values]]] = defaultdict(lambda: defaultdict(list))
    for series in measurement.series:
        group = _group(series, measurement.hardware, kinds)
        groups[group][Unit(series.node, series.device, series.peer)] = series.values
        if series.peer is not None:
            for end in (series.node, series.peer):
                own = Group(group.metric, kinds[measurement.hardware[end]], over_links=True)
                links[own][Unit(end, over_links=True)].append(series.values)
    if len(measurement.nodes) > 2:  # noqa: PLR2004  else both ends have the same link
        for group, units in links.items():
            groups[group] = {unit: _typical(group.metric, values) for unit, values in units.items()}
    return dict(groups)


def _group(series: Series, hardware: Mapping[str, str], kinds: Mapping[str, str]) -> Group:
    ends = {kinds[hardware[end]] for end in (series.node, series.peer or series.node)}
    return Group(series.metric, " to ".join(sorted(ends)))


def _typical(metric: str, series: Sequence[Values]) -> Values:
    """By repeat, the median of a node's links; of an even number the better of the middle two.

    So one link that is slow, or better than all others, is no matter of its nodes.
    """
    typical: list[float | None] = []
    for repeat in range(max(map(len, series))):
        there = sorted(value for values in series if (value := values[repeat]) is not None)
        better = len(there) // 2 if ABILITIES[metric].sign > 0 else (len(there) - 1) // 2
        typical.append(there[better] if there else None)
    return typical


def _logs(metric: str, units: Mapping[Unit, Values]) -> dict[Unit, Values]:
    sign = ABILITIES[metric].sign
    return {
        unit: [None if value is None else sign * math.log(value) for value in values]
        for unit, values in units.items()
    }


def _level(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return quantile(known, 0.5) if len(known) >= FEWEST_REPEATS else None


def _judged(
    deficits: Mapping[tuple[Group, Unit], Deficit],
    margins: Mapping[str, float],
    words: _Words,
) -> Iterator[Finding]:
    """What is worse; links of a node that is named over its links are not named again."""
    p_values = []
    for (group, _), deficit in deficits.items():
        ability = ABILITIES[group.metric]
        margin = margins.get(group.metric, ability.margin)
        # A latency may be more than twice as long: the margin of a rate is a share of what should be.
        p_values.append(deficit.p(margin if ability.sign > 0 else margin / (1 + margin)))
    worse = {key: p for key, p in zip(deficits, holm(p_values), strict=True) if p <= LEVEL}
    whole = {(group.metric, unit.node) for group, unit in worse if unit.over_links}
    for (group, unit), p in worse.items():
        if unit.peer is None or not whole & {(group.metric, unit.node), (group.metric, unit.peer)}:
            deficit = deficits[group, unit]
            ratio = math.exp(ABILITIES[group.metric].sign * deficit.log_ratio)
            more = f"{100 * abs(ratio - 1):.0f} % {'below' if ratio < 1 else 'above'}"
            yield Finding(unit=unit, metric=group.metric, words=words(deficit, more), adjusted_p=p)


def _missing(measurement: Measurement) -> Iterator[Finding]:
    """Nodes of the cluster that were not measured, and with them their links."""
    several = len(measurement.nodes) + len(measurement.lost) > 1
    for name, why in measurement.lost.items():
        what = "not measured, nor its links" if several else "not measured"
        yield Finding(unit=Unit(name), metric=None, words=f"{what}: {plain(why)}")


def _unable(measurement: Measurement, groups: Mapping[Group, Mapping[Unit, Values]]) -> Iterator[Finding]:
    """Links without a figure, and what else has none though an equal has."""
    reasons = {
        (one.metric, Unit(one.node, one.device, one.peer)): plain(one.reason or "no reason known")
        for one in measurement.series
    }
    for group, units in groups.items():
        empty = [unit for unit, values in units.items() if all(value is None for value in values)]
        for unit in empty:
            if not unit.over_links and (unit.peer or len(empty) < len(units)):
                words = f"could not be measured: {reasons[group.metric, unit]}"
                yield Finding(unit=unit, metric=group.metric, words=words)
