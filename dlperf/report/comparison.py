"""Cases side by side: which may stand in one table, what its rows and its columns are.

Two cases share a table when they differ only in framework and cell: workload, data, whose training loop it
is, way of measuring, arithmetic of float32, hardware and, on CPU, threads per device are the same. Cases that
differ in more get separate tables, which say what differs.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self

from dlperf.plan.case import Case, bytes_text
from dlperf.report.numbers import NOT_KNOWN, iterations, or_not_known
from dlperf.report.text import Cells, Inline, Text, joined, say
from dlperf.results.cases import (
    ROW_FIELDS,
    VARIANT_FIELDS,
    CaseFigures,
    Loop,
    Printed,
    Reading,
    comparable,
    speedups,
)

PARALLELISMS = {
    "data": say("data parallel"),
    "model": say("model parallel"),
    "partial_fc": say("Partial FC"),
}


def version_name(titles: Mapping[str, str], framework: str, version: str) -> str:
    """`OneFlow 0.9.0`; `titles` are frameworks as their makers write them, by name."""
    return f"{titles.get(framework, framework)} {version}"


def sampled_parallelism(parallelism: str, sample_ratio: float | None = None) -> Inline:
    """Such as `Partial FC 0.1`."""
    words = PARALLELISMS[parallelism]
    return words if sample_ratio is None else joined((words, f"{sample_ratio:g}"), " ")


# What a figure is, where it does not stand in the source as it stands here.
READ: Mapping[Reading, Text] = {
    "rounded": say("rounded by its authors"),
    "chart": say("read from a chart"),
    "log": say("median of the lines of a public log"),
}


def reading_words(printed: Printed) -> Text | None:
    """Such as `read from a chart, within 35 samples/s`; None for a figure as printed."""
    words = READ.get(printed.reading)
    if words is None or printed.uncertainty is None:
        return words
    return say("{how}, within {margin} samples/s", how=words, margin=f"{printed.uncertainty:g}")


CaseKey = tuple[Path, str, str]


def case_key(figure: CaseFigures) -> CaseKey:
    """What no two cases of a report share."""
    return (figure.sweep, figure.hardware, figure.case.content_hash)


def _grouping_keys(figure: CaseFigures, *, chosen: bool, twins: Collection[str] = ()) -> dict[Text, Inline]:
    """What can keep two cases out of one table, with the value of each.

    `chosen` is `has_choices`, and `twins` are `names_of_several` data sets.
    """
    case = figure.case
    choices = {
        LOOP: loop_words(figure),
        DATA: data_words(figure, twins),
    }
    threads = {} if case.device == "cuda" else {_THREADS: or_not_known(figure.threads_per_device)}
    return {
        **(choices if chosen else {}),
        **threads,
        say("hardware"): figure.hardware,
        say("device"): case.device,
        say("float32 products"): or_not_known(figure.fp32_arithmetic),
        say("gradients travel in"): or_not_known(figure.gradient_dtype),
        say("memory budget"): memory_budget(case),
        say("iterations"): iterations(case.measure.warmup_iterations, figure.measured_iterations),
        say("seed"): or_not_known(figure.seed),
        say("workload"): canonical_workload(figure, with_data=not chosen),
        say("sweep"): figure.sweep.name,
    }


_THREADS = say("threads per device")
LOOP, DATA = say("loop"), say("data")
LOOPS: Mapping[Loop, Text] = {"own": say("own"), "original": say("original")}
_INDEX_DIGITS = 12


def loop_words(figure: CaseFigures) -> Inline:
    """Whose training loop ran."""
    return NOT_KNOWN if figure.loop is None else LOOPS[figure.loop]


def choice_cells(figure: CaseFigures) -> Cells:
    """Loop and data as cells of a table whose rows may differ in them."""
    return {LOOP: loop_words(figure), DATA: data_words(figure)}


def names_of_several(cases: Iterable[Case]) -> frozenset[str]:
    """The names that several data sets of the cases have."""
    found = {(case.data.name, case.data.index_sha256) for case in cases if case.data is not None}
    counts = Counter(name for name, _ in found)
    return frozenset(name for name, count in counts.items() if count > 1)


def data_words(figure: CaseFigures, twins: Collection[str] = ()) -> Inline:
    """What a case was trained on; of a name in `twins` with its index."""
    data = figure.case.data
    if data is None or data.name not in twins:
        return or_not_known(figure.data)
    index = data.index_sha256[:_INDEX_DIGITS]
    return say("{data} ({read}; index {index})", data=data.name, read=data.read, index=index)


def has_choices(cases: Iterable[Case]) -> bool:
    """Whether loop and data must be named: some case has an original program or a data set."""
    return any(case.source is not None or case.data is not None for case in cases)


def memory_budget(case: Case) -> Inline:
    """The memory that a CPU device may use, in words."""
    return say("none") if case.memory_bytes is None else bytes_text(case.memory_bytes)


def canonical_workload(figure: CaseFigures, *, with_data: bool = True) -> Text:
    """The workload's content in short: two experiment files with the same name can differ.

    `with_data` says what it is trained on too.
    """
    work = figure.case.workload
    loss = work.loss
    words = say(
        "{network}, head {head}, embedding {embedding}, {loss}, learning rate {rate}, weight decay {decay} "
        "({kind}), {dataset}",
        network=work.network,
        head=work.head,
        embedding=work.embedding_size,
        loss=f"{loss.kind} s={loss.scale:g} m1={loss.m1:g} m2={loss.m2:g} m3={loss.m3:g}",
        rate=f"{work.schedule.learning_rate:g}",
        decay=f"{work.optimizer.weight_decay:g}",
        kind=work.optimizer.decay,
        dataset=work.dataset,
    )
    if not with_data:
        return words
    return say("{workload} ({data})", workload=words, data=figure.data or say("data not known"))


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """A cell of the grid that every framework is asked to fill; ordered as a table is.

    A number that is searched for differs between frameworks and is no part of the row: it stands as 0, and
    `searched` names its field.
    """

    nodes: int
    devices_per_node: int
    batch_size_per_device: int
    num_classes: int
    precision: str
    sample_ratio: float  # 0 outside Partial FC, so that rows can be ordered
    searched: str = ""

    @classmethod
    def of(cls, case: Case) -> Self:
        """The row that a case belongs to."""
        batch, classes = case.size("batch_size_per_device"), case.size("num_classes")
        return cls(
            nodes=case.topology.nodes,
            devices_per_node=case.topology.devices_per_node,
            batch_size_per_device=0 if batch == "max" else batch,
            num_classes=0 if classes == "max" else classes,
            searched=case.search.axis if case.search is not None else "",
            precision=case.precision,
            sample_ratio=case.sample_ratio or 0.0,
        )

    @property
    def topology(self) -> str:
        """Such as `2n8g`."""
        return f"{self.nodes}n{self.devices_per_node}g"

    def shown(self, name: str) -> str:
        """A field as people read it."""
        if name == self.searched:
            return "max"
        value = getattr(self, name)
        return f"{value:g}" if isinstance(value, float) else str(value)

    def in_words(self) -> dict[str, str]:
        """The fields beside the topology, for the labels of charts."""
        return {
            "batch_size_per_device": f"batch {self.shown('batch_size_per_device')}",
            "num_classes": f"{self.shown('num_classes')} classes",
            "precision": self.precision,
            "sample_ratio": f"ratio {self.sample_ratio:g}",
        }


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """One column: a framework's version, with its options where they tell two columns apart.

    To an original program the hash of its source is as an option.
    """

    framework: str
    version: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, case: Case, *, with_threads: bool = False) -> Self:
        """The column that a case belongs to; `with_threads` makes one for each number of threads."""
        settings = {
            **case.options,
            **({"threads_per_device": case.threads_per_device} if with_threads else {}),
            **({} if case.source is None else {"source": case.source.content_hash}),
        }
        options = tuple(sorted((name, repr(value)) for name, value in settings.items()))
        return cls(framework=case.framework, version=case.version, options=options)

    def label(self, variants: Iterable[Self], titles: Mapping[str, str]) -> str:
        """As short as tells it from the other variants; `titles` are those of frameworks, by name."""
        title = version_name(titles, self.framework, self.version)
        twins = {
            one.options for one in variants if (one.framework, one.version) == (self.framework, self.version)
        }
        if len(twins) == 1:
            return title
        shared = set.intersection(*map(set, twins))
        own = ", ".join(f"{name}={value}" for name, value in self.options if (name, value) not in shared)
        return f"{title} ({own or 'no options'})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One table: an experiment under one parallelism, all else equal but framework and row.

    `apart` says in words why it is not one table with another of the same experiment and parallelism; `group`
    holds the values of the fields that the reader grouped by.
    """

    cases: Mapping[tuple[Row, Variant], CaseFigures]
    speedups: Mapping[tuple[Row, Variant], float | None]
    titles: Mapping[str, str]  # of frameworks
    apart: tuple[Text, ...] = ()
    group: tuple[tuple[str, str], ...] = ()

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """From top to bottom."""
        return tuple(sorted({row for row, _ in self.cases}))

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """From left to right."""
        return tuple(sorted({variant for _, variant in self.cases}))

    @cached_property
    def sample(self) -> Case:
        """Any of its cases, for what all of them share."""
        return next(iter(self.cases.values())).case

    @cached_property
    def figures(self) -> tuple[CaseFigures, ...]:
        """Its cases, row by row, column by column."""
        return tuple(self.cases[key] for key in sorted(self.cases))

    def cells(self) -> Iterator[tuple[Row, str, CaseFigures]]:
        """Its cases, each with its row and the label of its column, row by row."""
        return ((row, self.label(variant), self.cases[row, variant]) for row, variant in sorted(self.cases))

    @property
    def hardware(self) -> str:
        """What all of its cases ran on."""
        return next(iter(self.cases.values())).hardware

    @property
    def device_words(self) -> tuple[str, str]:
        """A device, and what several of them are, in the English of charts."""
        return ("GPU", "GPUs") if self.sample.device == "cuda" else ("CPU device", "CPU cores")

    @property
    def published(self) -> bool:
        """Whether its figures were printed by a source; they never share a table with runs of ours."""
        return self.figures[0].published is not None

    @property
    def sweeps(self) -> tuple[Path, ...]:
        """The sweeps that its cases come from."""
        return tuple(sorted({figure.sweep for figure in self.cases.values()}))

    @cached_property
    def scales(self) -> bool:
        """Whether there is more than one number of devices."""
        return len({(row.nodes, row.devices_per_node) for row in self.rows}) > 1

    @cached_property
    def varying(self) -> frozenset[str]:
        """The fields in which rows differ; what never changes is said once, above the table."""
        names = [field.name for field in fields(Row)]
        return frozenset(name for name in names if len({getattr(row, name) for row in self.rows}) > 1)

    @cached_property
    def searched(self) -> tuple[str, ...]:
        """The fields whose largest number was searched for in a row; they get a column in every table."""
        return tuple(sorted({row.searched for row in self.rows if row.searched}))

    def shown(self, row: Row, name: str) -> Inline:
        """A field of a row as people read it; where it was searched for `max (80 to 96)` of its columns."""
        if name != row.searched:
            return row.shown(name)
        cases = (self.cases.get((row, variant)) for variant in self.variants)
        found = sorted({case.found for case in cases if case is not None and case.found is not None})
        if len(found) < 2:  # noqa: PLR2004  a range has two ends
            return f"max ({found[0]})" if found else row.shown(name)
        return say("max ({low} to {high})", low=found[0], high=found[-1])

    @cached_property
    def finds_differ(self) -> bool:
        """Whether the columns of a row were measured at different numbers, which each searched for."""
        return any(isinstance(self.shown(row, row.searched), Text) for row in self.rows if row.searched)

    def label(self, variant: Variant) -> str:
        """The heading of a column."""
        return variant.label(self.variants, self.titles)


Cases = dict[tuple[Row, Variant], CaseFigures]
Values = tuple[tuple[str, str], ...]  # of the fields that the reader grouped by


def comparisons(
    figures: Sequence[CaseFigures], *, titles: Mapping[str, str], group_by: Sequence[str] = ()
) -> tuple[Comparison, ...]:
    """Every case in exactly one table, the tables in the order of the cases.

    `titles` are frameworks as their makers write them, by name. Cases that differ in a field of `ROW_FIELDS`
    that is in `group_by` stand in different tables.
    """
    speedup = dict(zip(map(case_key, figures), speedups(figures), strict=True))
    families: dict[tuple[str, str, Values], dict[tuple[object, ...], list[CaseFigures]]] = {}
    for figure in figures:
        case = figure.case
        values = tuple((name, _value(case, name)) for name in group_by)
        family = families.setdefault((case.workload.experiment, case.parallelism, values), {})
        key = comparable(figure, leaving_out=(*ROW_FIELDS, *VARIANT_FIELDS, "search"))
        family.setdefault((case.source is not None, *key), []).append(figure)
    made = []
    for (_, _, values), family in families.items():
        groups = [cases for members in family.values() for cases in _parts(members)]
        samples = [next(iter(cases.values())) for cases in groups]
        chosen = has_choices(sample.case for sample in samples)
        twins = names_of_several(sample.case for sample in samples)
        settings = [_grouping_keys(sample, chosen=chosen, twins=twins) for sample in samples]
        for cases, own in zip(groups, settings, strict=True):
            apart = (
                say("{what}: {value}", what=name, value=value)
                for name, value in own.items()
                if any(other.get(name) != value for other in settings)
            )
            made.append(
                Comparison(
                    cases=cases,
                    speedups={cell: speedup[case_key(figure)] for cell, figure in cases.items()},
                    titles=titles,
                    apart=tuple(apart),
                    group=values,
                )
            )
    return tuple(made)


def _value(case: Case, name: str) -> str:
    searched = case.search is not None and case.search.axis == name
    return "max" if searched else str(getattr(case, name))


def _parts(members: Sequence[CaseFigures]) -> list[Cases]:
    """The members in one group, or one group per sweep if two sweeps hold the same cell (never pooled).

    A sweep itself holds a cell several times where its cases on CUDA differ in threads: each number of them
    is a column then.
    """
    cases = _by_cell(members)
    if len(cases) == len(members):
        return [cases]
    groups = []
    for sweep in dict.fromkeys(figure.sweep for figure in members):
        own = [figure for figure in members if figure.sweep == sweep]
        cases = _by_cell(own)
        groups.append(cases if len(cases) == len(own) else _by_cell(own, with_threads=True))
    return groups


def _by_cell(figures: Iterable[CaseFigures], *, with_threads: bool = False) -> Cases:
    return {
        (Row.of(figure.case), Variant.of(figure.case, with_threads=with_threads)): figure
        for figure in figures
    }
