"""How far two contenders are apart: every figure is a difference relative to a size that is named here.

| figure | difference | relative to |
|---|---|---|
| embeddings | largest of all elements | largest magnitude in the second's |
| loss | of the step | the second's loss of that step |
| gradient norm | of the array's Euclidean norm | the second's, at least 1e-3 of the norm of all gradients |
| parameter, statistic | largest of the array's elements | largest magnitude in the second's array |

A gradient that is zero by mathematics, such as that of a bias in front of a BatchNorm, is rounding error in
every engine: hence the floor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from dlperf.align.certificate import Figures, Worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dlperf.align.arrays import Array, Inputs, Outputs
    from dlperf.align.certificate import Tolerance

GRADIENT_FLOOR: Final = 1e-3


def difference(first: Array, second: Array) -> float:
    """Largest difference of two elements, relative to the largest magnitude in `second`.

    Statistics of other numbers of devices, [devices, channels], are held against each other, all with all.
    """
    if first.ndim == second.ndim and first.shape != second.shape:
        first, second = first[:, None], second[None]
    apart = np.abs(first.astype(np.float64) - second).max()
    if apart == 0:
        return 0.0
    return float(apart / max(np.abs(second).max(), np.finfo(np.float32).tiny))


def gradient_differences(first: Outputs, second: Outputs) -> dict[str, float]:
    """By parameter, in the network's order."""
    total = math.hypot(*second.gradient_norms.values())
    floor = max(GRADIENT_FLOOR * total, np.finfo(float).tiny)
    return {
        name: abs(first.gradient_norms[name] - norm) / max(norm, floor)
        for name, norm in second.gradient_norms.items()
    }


def figures(first: Outputs, second: Outputs, inputs: Inputs) -> Figures:
    """All figures of a pair."""
    losses = zip(first.losses, second.losses, strict=True)
    statistics = [name for name, kind in inputs.kinds.items() if kind == "statistic"]

    def after_first(name: str) -> float:
        return difference(first.after_first_step(name), second.after_first_step(name))

    def after_all(name: str) -> float:
        return difference(first.after_all_steps(name), second.after_all_steps(name))

    return Figures(
        embeddings=difference(first.embeddings, second.embeddings),
        losses=tuple(abs(a - b) / max(abs(b), np.finfo(float).tiny) for a, b in losses),
        gradient_norm=_worst(gradient_differences(first, second).items()),
        first_step=_worst_of(inputs.kinds, after_first),
        parameters=_worst_of(inputs.parameters, after_all),
        statistics=_worst_of(statistics, after_all),
    )


def passes(found: Figures, tolerance: Tolerance) -> bool:
    """Whether every figure is within its tolerance."""
    first = (found.embeddings, found.losses[0], found.first_step.difference)
    later = (
        *found.losses[1:],
        found.gradient_norm.difference,
        found.parameters.difference,
        found.statistics.difference,
    )
    return max(first) <= tolerance.first_step and max(later) <= tolerance.after_steps


def _worst_of(names: Iterable[str], measure: Callable[[str], float]) -> Worst:
    return _worst((name, measure(name)) for name in names)


def _worst(pairs: Iterable[tuple[str, float]]) -> Worst:
    name, value = max(pairs, key=lambda pair: pair[1])
    return Worst(name=name, difference=value)
