"""Lines of several processes about the same step, joined to one record with the whole job's rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dlperf.errors import UserError
from dlperf.importing.records import EPOCH, ITERATION, SAMPLES_PER_SEC, Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Steps of which another process's line may still come.
_OPEN_STEPS = 1 << 16


def are_rates(batch: Batch) -> NDArray[np.bool_]:
    """Which records have a rate that can be divided by, bool [n]."""
    rates = batch.values[:, SAMPLES_PER_SEC]
    return np.isfinite(rates) & (rates > 0)


def rated(batch: Batch) -> Batch:
    """Those records."""
    return batch.take(are_rates(batch))


def joined(batches: Iterator[Batch], processes: int) -> Iterator[Batch]:
    """One record a step with the whole job's rate: the mean of its processes' rates times how many they are.

    The other fields are the first line's.

    Raises:
        UserError: the lines of a step lie more than _OPEN_STEPS steps apart.
    """
    steps: dict[tuple[float, ...], tuple[NDArray[np.void], list[float]]] = {}
    newest: tuple[float, ...] = ()
    for batch in map(rated, batches):
        for row in batch.rows():
            key = _key(row)
            if key in steps:
                steps[key][1].append(float(row["values"][SAMPLES_PER_SEC]))
                continue
            if key <= newest:
                raise UserError(
                    f"line {row['line']}: the lines of this step lie more than {_OPEN_STEPS} steps apart; "
                    "give each process's log by itself"
                )
            steps[key] = row, [float(row["values"][SAMPLES_PER_SEC])]
        released = []
        while len(steps) > _OPEN_STEPS:
            newest = next(iter(steps))
            released.append(_step(*steps.pop(newest), processes))
        if released:
            yield Batch.of_rows(np.array(released))
    if steps:
        yield Batch.of_rows(np.array([_step(*step, processes) for step in steps.values()]))


def _key(row: NDArray[np.void]) -> tuple[float, ...]:
    """Equal for the lines of one step, rising from step to step."""
    values, given = row["values"], row["given"]
    if not given[ITERATION]:
        return (math.inf, float(row["line"]))
    return (float(values[EPOCH]) if given[EPOCH] else 0.0, float(values[ITERATION]))


def _step(row: NDArray[np.void], rates: list[float], processes: int) -> NDArray[np.void]:
    joined = row.copy()
    joined["values"][SAMPLES_PER_SEC] = math.fsum(rates) / len(rates) * processes
    return joined
