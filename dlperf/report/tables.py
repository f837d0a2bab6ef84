"""The tables of a comparison. Where a number would stand and there is none, its status stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from dlperf.report.columns import COLUMNS, Place
from dlperf.report.numbers import NOT_KNOWN, rate
from dlperf.report.phases import GRAPH, in_order, phase_name
from dlperf.report.text import Column, Table, Text, say
from dlperf.report.view import View
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dlperf.report.comparison import Arm, Comparison, Row
    from dlperf.report.evidence import Evidence
    from dlperf.report.text import Inline
    from dlperf.results.cases import CaseFigures
    from dlperf.results.noise_profile import NoiseProfile

ABSENT = say("no such case")
NOT_TOLD = say("not told")
NO_SUCH_PART = say("none")
_WORDS = {
    Status.OK: say("ok"),
    Status.OOM: say("out of memory"),
    Status.TIMEOUT: say("timeout"),
    Status.STALLED: say("stalled"),
    Status.CRASH: say("crash"),
    Status.KILLED: say("killed"),
    Status.LOST_NODE: say("lost node"),
    Status.INCOMPLETE: say("incomplete"),
    Status.UNSTEADY: say("unsteady"),
    Status.INSUFFICIENT: say("insufficient"),
    Status.UNSUPPORTED: say("unsupported"),
    Status.NOT_MEASURED: say("not measured"),
}
_REPEATS = ("samples_per_sec", "spread", "cv", "interval", "runs", "failed")
_INSIDE = ("step", "step_p95", "gflops", "share", "loss", "memory")


def status_word(status: Status) -> Text:
    """A status as people read it."""
    return _WORDS[status]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A comparison under a view, with what its tables take from the rest of the report."""

    comparison: Comparison
    evidence: Evidence
    view: View = field(default_factory=View)
    ceilings: Mapping[tuple[str, int], float] = field(default_factory=dict)
    noise_profile: NoiseProfile | None = None

    @cached_property
    def base(self) -> Arm:
        """The arm under every ratio."""
        return self.view.base_of(self.comparison)

    def place(self, row: Row, arm: Arm) -> Place | None:
        """The case there; None where it has no figure."""
        figure = self.comparison.cases.get((row, arm))
        if figure is None or figure.summary is None:
            return None
        return Place(
            comparison=self.comparison,
            row=row,
            arm=arm,
            figure=figure,
            summary=figure.summary,
            base=self.base,
            ceilings=self.ceilings,
            noise_profile=self.noise_profile,
            price_per_device_hour=self.view.price_per_device_hour,
        )

    def places(self) -> Iterator[Place]:
        """The cases with a figure, row by row."""
        found = (self.place(row, arm) for row, arm in sorted(self.comparison.cases))
        return (place for place in found if place is not None)


def throughput_table(scene: Scene) -> Table:
    """The 2021 table: a row a cell, the columns of every framework, then the ratios to the baseline.

    The first column of a framework leads to the runs behind it.
    """
    comparison, arms = scene.comparison, scene.comparison.arms
    names = scene.view.columns_of(comparison)
    own, others = [name for name in names if name != "ratio"], [arm for arm in arms if arm != scene.base]
    columns = [*_row_columns(comparison)]
    columns += [_column_of(name, comparison.label(arm)) for arm in arms for name in own]
    if "ratio" in names:
        under = comparison.label(scene.base)
        columns += [Column(heading=f"{comparison.label(arm)} / {under}", numbers=True) for arm in others]
    rows = []
    for row in comparison.rows:
        cells: list[Inline] = [*_row_cells(comparison, row)]
        places = {arm: scene.place(row, arm) for arm in arms}
        for arm, place in places.items():
            cells += _cells_of_arm(scene, comparison.cases.get((row, arm)), place, own)
        if "ratio" in names:
            cells += [COLUMNS["ratio"].cell(place) if (place := places[arm]) else "" for arm in others]
        rows.append(tuple(cells))
    return Table(caption=_caption(comparison), columns=tuple(columns), rows=tuple(rows))


def _caption(comparison: Comparison) -> Text:
    return say("Throughput: {experiment}", experiment=comparison.sample.workload.experiment)


def _column_of(name: str, label: str) -> Column:
    column = COLUMNS[name]
    heading = say("{framework} {column}", framework=label, column=column.heading)
    return Column(heading=heading, numbers=column.numbers)


def _cells_of_arm(
    scene: Scene, figure: CaseFigures | None, place: Place | None, names: Sequence[str]
) -> list[Inline]:
    if not names:
        return []
    if place is None or figure is None:
        word = ABSENT if figure is None else status_word(figure.status)
        return [word, *[""] * (len(names) - 1)]
    first, *rest = (COLUMNS[name].cell(place) for name in names)
    return [scene.evidence.link(figure, first), *rest]


def repeats_table(scene: Scene) -> Table:
    """How far the runs of each case lie apart."""
    names = _REPEATS if scene.noise_profile is None else (*_REPEATS, "noise_floor")
    return _case_table(scene, names, caption=say("Spread of the repeats, samples/s"))


def inside_table(scene: Scene) -> Table:
    """What a step took and what it achieved, with the loss as a check that something was trained."""
    names = (*_INSIDE, "efficiency") if scene.comparison.scales else _INSIDE
    return _case_table(scene, names, caption=say("Inside a run (medians over the good runs)"))


def _case_table(scene: Scene, names: Sequence[str], *, caption: Text) -> Table:
    chosen = [COLUMNS[name] for name in names]
    return Table(
        caption=caption,
        columns=(
            *_case_columns(scene.comparison),
            *(Column(heading=column.heading, numbers=column.numbers) for column in chosen),
        ),
        rows=tuple(
            (*_case_cells(scene, place), *(column.cell(place) for column in chosen))
            for place in scene.places()
        ),
    )


def breakdown_table(scene: Scene) -> Table | None:
    """Where the time of a profiled step goes; None where no engine told."""
    told = [place for place in scene.places() if place.figure.phase_seconds]
    names = in_order({name: 0.0 for place in told for name in place.figure.phase_seconds})
    if not told:
        return None
    columns = (
        *_case_columns(scene.comparison),
        *(Column(heading=say("{phase} (s)", phase=phase_name(name)), numbers=True) for name in names),
        Column(heading=say("sum (s)"), numbers=True),
        Column(heading=say("median measured step (s)"), numbers=True),
    )
    rows = [
        (
            *_case_cells(scene, place),
            *(_phase_cell(place.figure.phase_seconds, name) for name in names),
            rate(sum(place.figure.phase_seconds.values())),
            rate(place.figure.step_seconds_median) or NOT_KNOWN,
        )
        for place in told
    ]
    caption = say(
        "Where the time goes (steps profiled behind the measured ones, rank 0, nothing overlapping)"
    )
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def _phase_cell(seconds: Mapping[str, float], name: str) -> Inline:
    """An engine that runs a step as one graph tells no parts; one that tells them had none of this one."""
    return rate(seconds.get(name)) or (NOT_TOLD if GRAPH in seconds else NO_SUCH_PART)


_ROW_HEADINGS = (
    ("num_classes", "num_classes"),
    ("precision", "precision"),
    ("sample_ratio", "sample_ratio"),
)


def _row_columns(comparison: Comparison) -> Iterable[Column]:
    device = "gpu" if comparison.sample.device == "cuda" else "device"
    yield Column(heading="node_num", numbers=True)
    yield Column(heading=f"{device}_num_per_node", numbers=True)
    yield Column(heading="batch_size_per_device", numbers=True)
    for name, heading in _ROW_HEADINGS:
        if comparison.varying(name):
            yield Column(heading=heading, numbers=True)


def _row_cells(comparison: Comparison, row: Row) -> Iterable[str]:
    yield str(row.nodes)
    yield str(row.devices_per_node)
    yield row.shown("batch_size_per_device")
    for name, _ in _ROW_HEADINGS:
        if comparison.varying(name):
            yield row.shown(name)


def _case_columns(comparison: Comparison) -> Sequence[Column]:
    extra = (
        Column(heading=heading, numbers=True) for name, heading in _ROW_HEADINGS if comparison.varying(name)
    )
    return (
        Column(heading=say("framework")),
        Column(heading=say("topology")),
        Column(heading=say("batch"), numbers=True),
        *extra,
    )


def _case_cells(scene: Scene, place: Place) -> Sequence[Inline]:
    """The name leads to the runs behind the whole row."""
    comparison, row = scene.comparison, place.row
    extra = (row.shown(name) for name, _ in _ROW_HEADINGS if comparison.varying(name))
    label = scene.evidence.link(place.figure, comparison.label(place.arm))
    return (label, row.topology, row.shown("batch_size_per_device"), *extra)
