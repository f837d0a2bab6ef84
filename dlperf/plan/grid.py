"""The grid of a sweep: the cells that its axes span, exclusions, inclusions, and searches for `max`."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from dlperf.adapters.base import Adapter
from dlperf.plan.case import SEARCHED_AXES, Case, OptionValue, Parallelism, Precision, Search, Topology
from dlperf.plan.sweep import (
    Condition,
    DataEntry,
    ExperimentFile,
    FrameworkEntry,
    Include,
    SearchSettings,
    SweepFile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the grid. `why` is set where an exclusion takes it out."""

    experiment: str
    framework: FrameworkEntry  # with its version
    topology: Topology
    parallelism: Parallelism
    sample_ratio: float | None
    batch_size_per_device: int | Literal["max"]
    num_classes: int | Literal["max"]
    precision: Precision
    data: DataEntry | Literal["synthetic"] = "synthetic"
    options: dict[str, OptionValue] = field(default_factory=dict)
    why: str | None = None

    @property
    def identity(self) -> str:
        """Equal for cells that would be the same case."""
        return repr(replace(self, why=None, options=dict(sorted(self.options.items()))))


def cells(
    file: SweepFile, experiments: Mapping[str, ExperimentFile], *, adapters: Mapping[str, Adapter]
) -> tuple[Cell, ...]:
    """Every cell of a sweep, the grid's first, then those beside it; none twice.

    The grid runs through experiments, precisions, classes, parallelisms, sample ratios, batch sizes,
    topologies, data and frameworks, the last fastest. `exclude` acts on the grid alone: an included cell
    stays, and brings back an equal one that was taken out. A framework without a version has its adapter's
    first.
    """
    frameworks = tuple(_with_version(entry, adapters) for entry in file.frameworks)
    found: dict[str, Cell] = {}
    for cell in _span(file, experiments, frameworks=frameworks, options=file.options):
        why = next((item.why for item in file.exclude if matches(item.when, cell)), None)
        found[cell.identity] = replace(cell, why=why)
    for include in file.include:
        merged = file.model_copy(update=include.given())
        included = _included_frameworks(include, frameworks, adapters)
        options = {name: {**file.options.get(name, {}), **include.options.get(name, {})} for name in adapters}
        for cell in _span(merged, experiments, frameworks=included, options=options):
            found[cell.identity] = cell
    return tuple(found.values())


def count_cells(axes: SweepFile) -> int:
    """The size of the product that the axes span."""
    others = (axes.experiment, axes.precision, axes.batch_size_per_device, axes.frameworks, axes.topology)
    return math.prod(map(len, (*others, axes.data, axes.num_classes or (None,), _classifiers(axes))))


def matches(condition: Condition, cell: Cell) -> bool:
    """Whether the cell has one of the condition's values for each key that the condition names."""
    given = condition.given()
    framework = {cell.framework.name, str(cell.framework)}
    return not framework.isdisjoint(given.pop("framework", framework)) and all(
        getattr(cell if hasattr(cell, key) else cell.topology, key) in values for key, values in given.items()
    )


def _span(
    axes: SweepFile,
    experiments: Mapping[str, ExperimentFile],
    *,
    frameworks: tuple[FrameworkEntry, ...],
    options: Mapping[str, Mapping[str, OptionValue]],
) -> Iterator[Cell]:
    for experiment in axes.experiment:
        classes = axes.num_classes or (experiments[experiment].num_classes,)
        for precision, num_classes, classifier, batch, topology, data, framework in itertools.product(
            axes.precision,
            classes,
            _classifiers(axes),
            axes.batch_size_per_device,
            axes.topology,
            axes.data,
            frameworks,
        ):
            yield Cell(
                experiment=experiment,
                framework=framework,
                topology=topology,
                parallelism=classifier[0],
                sample_ratio=classifier[1],
                batch_size_per_device=batch,
                num_classes=num_classes,
                precision=precision,
                data=data,
                options=dict(options.get(framework.name, {})),
            )


def _classifiers(axes: SweepFile) -> list[tuple[Parallelism, float | None]]:
    """Each parallelism with each sample ratio that applies to it."""
    return [
        (parallelism, ratio)
        for parallelism in axes.parallelism
        for ratio in ((axes.sample_ratio or ()) if parallelism == "partial_fc" else (None,))
    ]


def _included_frameworks(
    include: Include, frameworks: tuple[FrameworkEntry, ...], adapters: Mapping[str, Adapter]
) -> tuple[FrameworkEntry, ...]:
    """The sweep's frameworks that the include names; a new framework or version comes as it stands."""
    if include.frameworks is None:
        return frameworks
    included: list[FrameworkEntry] = []
    for entry in include.frameworks:
        same = [known for known in frameworks if _means(entry, known)]
        included.extend(same or [_with_version(entry, adapters)])
    return tuple(included)


def _means(entry: FrameworkEntry, known: FrameworkEntry) -> bool:
    return (
        entry.name == known.name
        and entry.version in (None, known.version)
        and entry.python in (None, known.python)
        and entry.source in (None, known.source)
    )


def _with_version(entry: FrameworkEntry, adapters: Mapping[str, Adapter]) -> FrameworkEntry:
    return entry if entry.version else entry.model_copy(update={"version": adapters[entry.name].versions[0]})


# Of the smallest values of a search, that an engine may refuse to train.
_MOST_UNSUPPORTED = 4


def search_of(cell: Cell, settings: SearchSettings) -> Search | None:
    """How the cell's `max` is found; classes that are split are tried in numbers that split evenly."""
    axis = next((axis for axis in SEARCHED_AXES if getattr(cell, axis) == "max"), None)
    if axis is None:
        return None
    bounds = getattr(settings, axis)
    shards = cell.topology.world_size if axis == "num_classes" and cell.parallelism != "data" else 1
    granularity = -(-bounds.granularity // shards) * shards
    return Search(
        axis=axis,
        lower=granularity,
        granularity=granularity,
        upper=bounds.upper,
        iterations=settings.iterations,
    )


def from_supported(case: Case, search: Search, adapter: Adapter) -> Case:
    """The case searching from the first value on that the engine can train; PyTorch takes no batch of 1."""
    lowers = (search.granularity * step for step in range(1, _MOST_UNSUPPORTED + 1))
    tried = (
        case.changed(**{search.axis: lower, "search": search.model_copy(update={"lower": lower})})
        for lower in lowers
        if lower <= search.upper
    )
    return next((one for one in tried if adapter.unsupported(one) is None), case)


def no_memory(case: Case) -> str | None:
    """Why a budget cannot be held, or a limit not be searched for, on the device that the case came to."""
    if case.memory_bytes is not None and case.device == "cuda":
        return "memory limits CPU devices; a GPU has its own memory"
    if case.search is None:
        return None
    if case.device == "cpu" and case.memory_bytes is None:
        return (
            "max on a CPU needs a memory budget in place of a GPU's memory, such as 'memory: 2GiB' "
            "in the sweep or --memory 2GiB"
        )
    if case.search.granularity > case.search.upper:
        bounds = f"granularity {case.search.granularity}, upper bound {case.search.upper}"
        return f"the search has no value to try: {bounds}"
    return None
