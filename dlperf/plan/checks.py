"""What can be wrong with a sweep whose every key is right: checks over several keys, each with its place."""

from collections.abc import Iterator, Mapping

from dlperf.adapters.base import Adapter
from dlperf.plan.case import GRADIENT_DTYPES, SEARCHED_AXES
from dlperf.plan.documents import KeyPath, unknown
from dlperf.plan.grid import cells, count_cells, matches
from dlperf.plan.sweep import ExperimentFile, FrameworkEntry, SourceEntry, SweepFile

Found = Iterator[tuple[KeyPath, str]]

MAX_CELLS = 20_000
MAX_RUNS = 1_000_000


def sweep_problems(
    file: SweepFile,
    experiments: Mapping[str, ExperimentFile],
    *,
    adapters: Mapping[str, Adapter],
    as_written: bool,
) -> list[tuple[KeyPath, str]]:
    """The problems of a file that is valid key by key and whose experiments are all there, by key path.

    Values from the command line (not `as_written`) may leave an exclusion without a cell; a file may not.
    """
    found = [
        *_version_problems(file, adapters),
        *_repeated_frameworks(file, adapters),
        *_ratio_problems(file),
        *_size_problems(file),
        *_search_problems(file),
        *_gradient_problems(file),
        *_exclude_names(file, experiments),
    ]
    if as_written and not found:
        found = [
            *_idle_ratio(file),
            *_exclude_effects(file, experiments, adapters),
            *_too_few_classes(file, experiments, adapters),
        ]
    return found


def _version_problems(file: SweepFile, adapters: Mapping[str, Adapter]) -> Found:
    for path, entry in _framework_entries(file):
        if entry.version is None or entry.python or entry.wheel or entry.index or entry.find_links:
            continue
        refusals = []
        for device in ("cpu", "cuda"):
            try:
                adapters[entry.name].environment(entry.version, device)
            except ValueError as error:
                refusals.append(str(error))
        if len(refusals) == len(("cpu", "cuda")):
            yield path, refusals[0]


def _framework_entries(file: SweepFile) -> Iterator[tuple[KeyPath, FrameworkEntry]]:
    """Every framework that a sweep names, in the grid and beside it, with its key path."""
    for index, entry in enumerate(file.frameworks):
        yield ("frameworks", index), entry
    for position, include in enumerate(file.include):
        for index, entry in enumerate(include.frameworks or ()):
            yield ("include", position, "frameworks", index), entry


def _repeated_frameworks(file: SweepFile, adapters: Mapping[str, Adapter]) -> Found:
    """A version twice in the grid, or beside it on another interpreter: its cases would share their names."""
    interpreters: dict[str, str | None] = {}
    seen: set[tuple[str, SourceEntry | None]] = set()
    for path, entry in _framework_entries(file):
        name = f"{entry.name}=={entry.version or adapters[entry.name].versions[0]}"
        if path[0] == "frameworks" and (name, entry.source) in seen:
            yield path, f"{name} appears twice"
        seen.add((name, entry.source))
        first = interpreters.setdefault(name, entry.python)
        if path[0] == "include" and entry.python not in (None, first):
            elsewhere = first or "dlperf's own environment"
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
        most = ["max" in (getattr(axes, axis) or ()) for axis in SEARCHED_AXES]
        searched = searched or any(most)
        if all(most):
            yield (
                path or ("num_classes",),
                f"{SEARCHED_AXES[0]} is also max; only one of the two can be searched for at a time",
            )
    if file.memory is not None and file.device == "cuda":
        yield ("memory",), "limits CPU devices, and a GPU has its own memory: remove this key"
    if searched and file.device == "cpu" and file.memory is None:
        yield (), "max on a CPU needs a memory budget in place of a GPU's memory, such as 'memory: 2GiB'"
    if not searched and "search" in file.model_fields_set:
        yield ("search",), "has no effect: no axis of this sweep is max"
    for axis in SEARCHED_AXES:
        bounds = getattr(file.search, axis)
        if bounds.upper < bounds.granularity:
            yield (
                ("search", axis, "upper"),
                f"{bounds.upper} is less than the granularity of {bounds.granularity}",
            )


def _gradient_problems(file: SweepFile) -> Found:
    """Gradients narrower than the products of a precision."""
    dtype = file.gradient_dtype
    for path, axes in _spans(file):
        unfit = [one for one in axes.precision if dtype not in ("float32", GRADIENT_DTYPES[one])]
        if unfit:
            fitting = next(one for one, narrow in GRADIENT_DTYPES.items() if narrow == dtype)
            found = f"{dtype} gradients go with precision {fitting} alone"
            yield path or ("gradient_dtype",), f"{found}; put {', '.join(unfit)} in another sweep"


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
    grid = cells(file.model_copy(update={"exclude": (), "include": ()}), experiments, adapters=adapters)
    for index, exclude in enumerate(file.exclude):
        if not any(matches(exclude.when, cell) for cell in grid):
            yield ("exclude", index, "when"), "matches no cell of the grid"
    if all(cell.why for cell in cells(file, experiments, adapters=adapters)):
        yield ("exclude",), "excludes every cell; nothing is left to run"


def _too_few_classes(
    file: SweepFile, experiments: Mapping[str, ExperimentFile], adapters: Mapping[str, Adapter]
) -> Found:
    """Model parallel and Partial FC give every device classes of its own."""
    for cell in cells(file, experiments, adapters=adapters):
        devices = cell.topology.world_size
        if cell.num_classes == "max":  # tried in numbers that split evenly
            continue
        if cell.why is None and cell.parallelism != "data" and cell.num_classes < devices:
            key = "num_classes" if file.num_classes else "topology"
            split = f"parallelism {cell.parallelism}, {cell.topology}"
            few = f"{cell.num_classes} classes cannot be split over {devices} devices ({split})"
            yield (key,), f"{few}; use more classes or fewer devices"
            return
