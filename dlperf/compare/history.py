"""One case over versions or dates: its figure in each session, and where it changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dlperf.compare.sets import CaseSamples, Metric, ResultSet
from dlperf.errors import UserError
from dlperf.plan.versions import version_order
from dlperf.results.cases import canonical, cell_name
from dlperf.results.schema import Status
from dlperf.statistics.basic import quantile
from dlperf.statistics.changepoint import change_points

By = Literal["date", "version"]

# Sessions are few and independent: of 100 simulated histories without a change, 3 at most get one.
_PENALTY = 6.0
_SHORTEST = 3
FEWEST_POINTS = 2 * _SHORTEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The figure of one session."""

    source: str
    day: str  # empty where no run says when it was
    version: str
    median: float
    minimum: float
    maximum: float
    runs: int
    change: float | None = None  # ratio of the stretch that begins here to the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A session that has no figure of the case, and why."""

    source: str
    version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The points of one case on one kind of machine, in order; no changes with few points.

    `gaps` stand in the first history: what a failed session ran on is not always known.
    """

    title: str
    hardware: str
    metric: Metric
    points: tuple[Point, ...]
    gaps: tuple[Gap, ...] = ()

    @property
    def starts(self) -> tuple[int, ...]:
        """Places where a stretch begins, the first at 0."""
        return (0, *(place for place, point in enumerate(self.points) if point.change is not None))


def histories(sides: Sequence[ResultSet], name: str, *, metric: Metric, by: By) -> tuple[History, ...]:
    """The history of the case that `name` means, one for each kind of machine.

    Args:
        sides: of any number of sessions.
        name: a case's id, its content hash or a part of an id; of any version.
        metric: what is shown.
        by: what orders the points.

    Raises:
        UserError: no case, or several that differ in more than the version, have that name; or a value is
            no figure.
    """
    found = [(side, one) for side in sides for one in side.cases]
    exact = [one for _, one in found if name in {one.case.case_id, one.case.content_hash}]
    named = exact or [one for _, one in found if name in one.case.case_id]
    keys = {_key(one) for one in named}
    if not named:
        raise UserError(f"no case is named {name!r}; `dlperf results` lists them")
    if len(keys) > 1:
        ids = "\n".join(f"  {text}" for text in sorted({one.case.case_id for one in named}))
        raise UserError(
            f"{name!r} names cases that differ in more than the version; write more of one of them:\n{ids}"
        )
    series: dict[str, list[tuple[ResultSet, CaseSamples]]] = {}
    gaps: list[Gap] = []
    for side, one in found:
        if _key(one) not in keys:
            continue
        if one.values(metric):
            series.setdefault(one.hardware, []).append((side, one))
        else:
            gaps.append(Gap(source=side.label, version=one.case.version, why=_why(one, metric)))
    if not series:
        raise UserError(f"{name}: no session has its {metric.title}")
    first = named[0]
    title = f"{first.case.framework}, {cell_name(first.case)}"
    return tuple(
        History(
            title=title,
            hardware=hardware,
            metric=metric,
            points=_points(ones, metric, by),
            gaps=() if number else tuple(gaps),
        )
        for number, (hardware, ones) in enumerate(series.items())
    )


def _why(one: CaseSamples, metric: Metric) -> str:
    if one.status is Status.OK:
        return f"its runs have no {metric.title}"
    return one.status.value + (f": {one.reason}" if one.reason else "")


def _key(one: CaseSamples) -> str:
    return canonical(one.case, leaving_out=("version",))


def _points(ones: Iterable[tuple[ResultSet, CaseSamples]], metric: Metric, by: By) -> tuple[Point, ...]:
    points = [_point(side, one, metric) for side, one in ones]
    points.sort(key=lambda point: point.day)
    if by == "version":
        points.sort(key=lambda point: version_order(point.version))  # stable: by day within a version
    return tuple(_with_changes(points, metric))


def _point(side: ResultSet, one: CaseSamples, metric: Metric) -> Point:
    values = list(one.checked_values(metric).values())
    return Point(
        source=side.label,
        day=min((run.started_at for run in one.runs if run.started_at), default="")[:16],
        version=one.case.version,
        median=quantile(values, 0.5),
        minimum=min(values),
        maximum=max(values),
        runs=len(values),
    )


def _with_changes(points: Sequence[Point], metric: Metric) -> Iterator[Point]:
    logs = [math.log(point.median) for point in points]
    starts = change_points(logs, penalty=_PENALTY, shortest=_SHORTEST)
    ends = [*starts[1:], len(points)]
    levels = [quantile(logs[start:end], 0.5) for start, end in zip(starts, ends, strict=True)]
    changes = {
        start: math.exp(levels[place] - levels[place - 1])
        for place, start in enumerate(starts)
        if place > 0 and abs(levels[place] - levels[place - 1]) >= math.log1p(metric.margin)
    }
    for place, point in enumerate(points):
        yield replace(point, change=changes.get(place))
