"""What can be wrong with a sweep whose every key is right: checks over several keys, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dlperf.adapters.base import Adapter
from dlperf.errors import Problem
from dlperf.plan.documents import Document, KeyPath, dotted, unknown
from dlperf.plan.grid import cells, count_cells, matches
from dlperf.plan.sweep import ExperimentFile, FrameworkEntry, SweepFile

Found = Iterator[tuple[KeyPath, str]]

MAX_CELLS = 20_000
MAX_RUNS = 1_000_000


def sweep_problems(
    file: SweepFile,
    experiments: Mapping[str, ExperimentFile],
    *,
    document: Document,
    adapters: Mapping[str, Adapter],
) -> list[Problem]:
    """The problems of a file that is valid key by key and whose experiments are all there.

    Every one shows at its key; a key that is not there shows at the mapping that lacks it.
    """
    found = [
        *_version_problems(file, adapters),
        *_repeated_frameworks(file, adapters),
        *_two_interpreters(file, adapters),
        *_ratio_problems(file),
        *_size_problems(file),
        *_search_problems(file),
        *_exclude_names(file, experiments),
    ]
    return at_places(found, document)


def grid_problems(
    file: SweepFile,
    experiments: Mapping[str, ExperimentFile],
    *,
    document: Document,
    adapters: Mapping[str, Adapter],
) -> list[Problem]:
    """What is without effect, a split that cannot be, and a grid of which nothing is left."""
    found = [
        *_idle_ratio(file),
        *_exclude_effects(file, experiments, adapters),
        *_too_few_classes(file, experiments, adapters),
    ]
    return at_places(found, document)


def at_places(found: list[tuple[KeyPath, str]], document: Document) -> list[Problem]:
    """Problems by key path as problems of the file."""
    return [
        document.place(path).problem(f"{dotted(path)}: {message}" if path else message)
        for path, message in found
    ]


def _version_problems(file: SweepFile, adapters: Mapping[str, Adapter]) -> Found:
    for path, entry in framework_entries(file):
        if entry.version is None or (entry.python or entry.wheel or entry.index) is not None:
            continue
        refusals = []
        for device in ("cpu", "cuda"):
            try:
                adapters[entry.name].environment(entry.version, device)
            except ValueError as error:
                refusals.append(str(error))
        if len(refusals) == len(("cpu", "cuda")):
            yield path, refusals[0]


def framework_entries(file: SweepFile) -> Iterator[tuple[KeyPath, FrameworkEntry]]:
    """Every framework that a sweep names, in the grid and beside it, with its key path."""
    for index, entry in enumerate(file.frameworks):
        yield ("frameworks", index), entry
    for position, include in enumerate(file.include):
        for index, entry in enumerate(include.frameworks or ()):
            yield ("include", position, "frameworks", index), entry


def _repeated_frameworks(file: SweepFile, adapters: Mapping[str, Adapter]) -> Found:
    seen = set()
    for index, entry in enumerate(file.frameworks):
        resolved = (entry.name, entry.version or adapters[entry.name].versions[0])
        if resolved in seen:
            yield ("frameworks", index), f"{'=='.join(resolved)} appears twice"
        seen.add(resolved)


def _two_interpreters(file: SweepFile, adapters: Mapping[str, Adapter]) -> Found:
    """A version beside the grid on another interpreter: its cases would have the names of the grid's."""
    interpreters: dict[tuple[str, str], str | None] = {}
    for path, entry in framework_entries(file):
        resolved = (entry.name, entry.version or adapters[entry.name].versions[0])
        first = interpreters.setdefault(resolved, entry.python)
        if path[0] == "include" and entry.python not in (None, first):
            name, elsewhere = "==".join(resolved), first or "dlperf's own environment"
            yield path, f"{name} can have only one interpreter in a sweep; elsewhere it uses {elsewhere}"


def _ratio_problems(file: SweepFile) -> Found:
    missing = "partial_fc needs a sample_ratio, such as 'sample_ratio: 0.1'"
    if "partial_fc" in file.parallelism and file.sample_ratio is None:
        yield ("parallelism",), missing
    for index, include in enumerate(file.include):
        parallelism = include.parallelism or file.parallelism
        if "partial_fc" in parallelism and (include.sample_ratio or file.sample_ratio) is None:
            yield ("include", index), missing
        if include.sample_ratio and "partial_fc" not in parallelism:
            yield ("include", index, "sample_ratio"), "applies only to parallelism partial_fc"


def _size_problems(file: SweepFile) -> Found:
    """A slip of one axis can multiply into a grid that no machine could list, let alone run."""
    spans, cells_in_all = _spans(file), 0
    for path, axes in spans:
        count = count_cells(axes)
        cells_in_all += count
        if count > MAX_CELLS:
            yield path, f"the grid has {count} cells, more than {MAX_CELLS}; split it into several sweeps"
    runs = cells_in_all * file.measure.repeats
    if runs > MAX_RUNS and cells_in_all <= MAX_CELLS:
        yield ("measure", "repeats"), f"{runs} runs in total, more than {MAX_RUNS}; use fewer repeats"


def _spans(file: SweepFile) -> list[tuple[KeyPath, SweepFile]]:
    """The grid and each small grid beside it, with its key path."""
    grids = [
        (("include", index), file.model_copy(update=include.given()))
        for index, include in enumerate(file.include)
    ]
    return [((), file), *grids]


def _search_problems(file: SweepFile) -> Found:
    searched = False
    for path, axes in _spans(file):
        most = ["max" in (axes.batch_size_per_device or ()), "max" in (axes.num_classes or ())]
        searched = searched or any(most)
        if all(most):
            yield (
                path or ("num_classes",),
                "batch_size_per_device is also max; only one of the two can be searched for at a time",
            )
    if file.memory is not None and file.device == "cuda":
        yield ("memory",), "limits CPU devices, and a GPU has its own memory: remove this key"
    if searched and file.device == "cpu" and file.memory is None:
        yield (), "max on a CPU needs a memory budget in place of a GPU's memory, such as 'memory: 2GiB'"
    if not searched and "search" in file.model_fields_set:
        yield ("search",), "has no effect: no axis of this sweep is max"
    for axis in ("batch_size_per_device", "num_classes"):
        bounds = getattr(file.search, axis)
        if bounds.upper < bounds.granularity:
            yield (
                ("search", axis, "upper"),
                f"{bounds.upper} is less than the granularity of {bounds.granularity}",
            )


def _idle_ratio(file: SweepFile) -> Found:
    """A ratio that nothing uses; one given on the command line may rightly idle."""
    used = [file.parallelism, *(include.parallelism or () for include in file.include)]
    if file.sample_ratio and not any("partial_fc" in parallelism for parallelism in used):
        yield ("sample_ratio",), "has no effect: this sweep does not use parallelism partial_fc"


def _exclude_names(file: SweepFile, experiments: Mapping[str, ExperimentFile]) -> Found:
    for index, exclude in enumerate(file.exclude):
        for name in exclude.when.experiment or ():
            if name not in experiments:
                yield ("exclude", index, "when", "experiment"), unknown("experiment", name, experiments)


def _exclude_effects(
    file: SweepFile, experiments: Mapping[str, ExperimentFile], adapters: Mapping[str, Adapter]
) -> Found:
    versions = {name: adapter.versions[0] for name, adapter in adapters.items()}
    grid = cells(file.model_copy(update={"exclude": (), "include": ()}), experiments, versions=versions)
    for index, exclude in enumerate(file.exclude):
        if not any(matches(exclude.when, cell) for cell in grid):
            yield ("exclude", index, "when"), "matches no cell of the grid"
    if all(cell.why for cell in cells(file, experiments, versions=versions)):
        yield ("exclude",), "excludes every cell; nothing is left to run"


def _too_few_classes(
    file: SweepFile, experiments: Mapping[str, ExperimentFile], adapters: Mapping[str, Adapter]
) -> Found:
    """Model parallel and Partial FC give every device classes of its own."""
    versions = {name: adapter.versions[0] for name, adapter in adapters.items()}
    for cell in cells(file, experiments, versions=versions):
        devices = cell.topology.world_size
        if cell.num_classes == "max":  # tried in numbers that split evenly
            continue
        if cell.why is None and cell.parallelism != "data" and cell.num_classes < devices:
            key = "num_classes" if file.num_classes else "topology"
            split = f"parallelism {cell.parallelism}, {cell.topology}"
            few = f"{cell.num_classes} classes cannot be split over {devices} devices ({split})"
            yield (key,), f"{few}; use more classes or fewer devices"
            return
