"""What a plan says about cells with `max`, and about memory budgets: which values are tried, or why none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.plan.case import Search

if TYPE_CHECKING:
    from dlperf.adapters.base import Adapter
    from dlperf.plan.case import Case, SearchedAxis
    from dlperf.plan.grid import Cell
    from dlperf.plan.sweep_file import SearchSettings

# Of the smallest values of a search, that an engine may refuse to train.
_MOST_UNSUPPORTED = 4


def search_of(cell: Cell, settings: SearchSettings) -> Search | None:
    """How the cell's `max` is found; classes that are split are tried in numbers that split evenly."""
    sizes: dict[SearchedAxis, object] = {
        "batch_size_per_device": cell.batch_size_per_device,
        "num_classes": cell.num_classes,
    }
    axis = next((axis for axis, size in sizes.items() if size == "max"), None)
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
        return "memory is a budget for devices of the CPU; a GPU has its own"
    if case.search is None:
        return None
    if case.device == "cpu" and case.memory_bytes is None:
        return (
            "max on a CPU needs a budget that stands for a GPU's memory, such as 'memory: 2GiB' in the sweep "
            "or --memory 2GiB"
        )
    if case.search.granularity > case.search.upper:
        return f"the search has no value: steps of {case.search.granularity} up to {case.search.upper}"
    return None
