"""One case over versions or dates: its figure in each session, and where it changed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dlperf.compare.output import change
from dlperf.compare.sets import CaseSamples, Metric, ResultSet
from dlperf.errors import UserError
from dlperf.plan.versions import version_order
from dlperf.report.numbers import rate
from dlperf.results.cases import canonical, cell_name
from dlperf.results.schema import Status, kinds_of_hardware
from dlperf.statistics.basic import quantile
from dlperf.statistics.changepoint import change_points
from dlperf.wording import plural

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
    """The history over sessions of the case that `name` means, in any version; one for each kind of machine.

    UserError where no case, or several that differ in more than the version, have that name, or a value is no
    figure.
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
    kinds = kinds_of_hardware(one.hardware for _, one in found)
    series: dict[str, list[tuple[ResultSet, CaseSamples]]] = {}
    gaps: list[Gap] = []
    for side, one in found:
        if _key(one) not in keys:
            continue
        if one.values(metric):
            series.setdefault(kinds[one.hardware], []).append((side, one))
        else:
            why = f"its runs have no {metric.title}" if one.status is Status.OK else one.ending
            gaps.append(Gap(source=side.label, version=one.case.version, why=why))
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


def _key(one: CaseSamples) -> str:
    return canonical(one.case, leaving_out=("version",))


def _points(ones: Iterable[tuple[ResultSet, CaseSamples]], metric: Metric, by: By) -> tuple[Point, ...]:
    points = []
    for side, one in ones:
        values = list(one.checked_values(metric).values())
        points.append(
            Point(
                source=side.label,
                day=min((run.started_at for run in one.runs if run.started_at), default="")[:16],
                version=one.case.version,
                median=quantile(values, 0.5),
                minimum=min(values),
                maximum=max(values),
                runs=len(values),
            )
        )
    points.sort(key=lambda point: point.day)
    if by == "version":
        points.sort(key=lambda point: version_order(point.version))  # stable: by day within a version
    logs = [math.log(point.median) for point in points]
    starts = change_points(logs, penalty=_PENALTY, shortest=_SHORTEST)
    ends = [*starts[1:], len(points)]
    levels = [quantile(logs[start:end], 0.5) for start, end in zip(starts, ends, strict=True)]
    changes = {
        start: math.exp(levels[place] - levels[place - 1])
        for place, start in enumerate(starts)
        if place > 0 and abs(levels[place] - levels[place - 1]) >= math.log1p(metric.margin)
    }
    return tuple(replace(point, change=changes.get(place)) for place, point in enumerate(points))


_MOST_LABELS = 30


def history_chart(history: History, *, by: By) -> dict[str, bytes]:
    """Medians with whiskers, the level of each stretch, marks where it changed; `.png` and `.svg`."""
    # matplotlib is slow to load, and most histories are read as text.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    from dlperf.report.charts.canvas import COLOURS, FAINT, STYLE, WIDTH, draw, hover  # noqa: PLC0415

    points, starts, unit = history.points, history.starts, history.metric.unit
    title, metric, worse = history.title, history.metric.title, COLOURS[5]
    places = list(range(len(points)))
    medians = [point.median for point in points]
    whiskers = [
        [point.median - point.minimum for point in points],
        [point.maximum - point.median for point in points],
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.errorbar(places, medians, yerr=whiskers, fmt="o", color=COLOURS[0], ecolor=FAINT, capsize=3)
        for place, point in enumerate(points):
            (area,) = axes.plot(place, point.median, marker="o", markersize=14, alpha=0, zorder=10)
            runs = f"runs {rate(point.minimum)} to {rate(point.maximum)}"
            hover(area, f"{point.version}, {point.day}: {rate(point.median)} {unit}", runs)
        for start, end in zip(starts, [*starts[1:], len(points)], strict=True):
            axes.hlines(quantile(medians[start:end], 0.5), start - 0.4, end - 0.6, color=COLOURS[1])
        for start in starts[1:]:
            axes.axvline(start - 0.5, color=worse, linestyle="--")
            mark = change(points[start].change)
            axes.annotate(mark, (start - 0.5, 1), xycoords=("data", "axes fraction"), color=worse)
        every = -(-len(points) // _MOST_LABELS)
        labels = [point.version if by == "version" else point.day[:10] for point in points]
        axes.set_xticks(places[::every], labels[::every], rotation=45, ha="right", fontsize=8)
        axes.set_ylabel(f"{metric}: median, smallest and largest run")
        axes.set_title(title, loc="left", pad=16)
        alt = f"{title}: {metric} of {plural(len(points), 'session')}, {plural(len(starts) - 1, 'change')}"
        chart = draw(figure, name="history", alt=alt)
    return {".png": chart.png, ".svg": chart.svg}
