"""Where two forward passes part, from what BatchNorm keeps: mean and variance of every layer's input.

After one step running = 0.9 before + 0.1 batch, so that the batch's mean and variance at each BatchNorm can
be had back. They tell which layer is the first whose input differs, and, where only the gain of the channels
differs, whether the eps of the BatchNorm before it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from dlperf.align.arrays import Array, Inputs, Outputs
    from dlperf.align.diagnosis import Two

_MOMENTUM: Final = 0.9
_EXPLAINED: Final = 0.8
# Where the passes part the difference is smaller than where it is judged, at their end.
_SHARE_OF_TOLERANCE: Final = 0.1
# Of a running statistic, in the engine's way of updating it.
_ROUNDINGS: Final = 4
EMBEDDINGS: Final = "the embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and variance over the first batch, one a channel, of several devices one behind the other.

    The grains are how finely float32 lets tell them apart.
    """

    mean: Array
    variance: Array
    mean_grain: float = 0.0
    variance_grain: float = 0.0


def explained(two: Two) -> str:
    """A sentence on where the forward passes part; they do."""
    if _frozen(two):
        return "the forward pass; where it parts cannot be told, as BatchNorm is frozen"
    return parting(two) or (
        f"the forward pass at or before the input of {two.inputs.norms[0]}: "
        "the images' scaling or the first layer"
    )


def parting(two: Two) -> str | None:
    """The same, where the first BatchNorm's input still agrees; None where not, or where nobody knows."""
    if _frozen(two):
        return None
    previous: str | None = None
    for norm in (*two.inputs.norms, EMBEDDINGS):
        first, second = (_moments(norm, outputs, two.inputs) for outputs in (two.first, two.second))
        if _differ(first, second, _SHARE_OF_TOLERANCE * two.tolerance.first_step) or norm == EMBEDDINGS:
            break
        previous = norm
    if previous is None:
        return None
    before = _moments(previous, two.second, two.inputs)
    eps = _eps_difference(before.variance, first.variance, second.variance)
    if eps is not None:
        larger, smaller = (two.first_name, two.second_name) if eps > 0 else (two.second_name, two.first_name)
        return f"BatchNorm eps in {previous}: larger by about {abs(eps):.2g} in {larger} than in {smaller}"
    layers = " or ".join(_layers_between(previous, norm, two.inputs))
    return f"the forward pass between the inputs of {previous} and {norm}: {layers}"


def _frozen(two: Two) -> bool:
    """Whether the statistics are given ones, which say nothing of a pass."""
    return two.case.workload.batch_norm == "frozen"


def _moments(norm: str, outputs: Outputs, inputs: Inputs) -> Moments:
    if norm == EMBEDDINGS:
        kept = outputs.embeddings.astype(np.float64)
        return Moments(mean=kept.mean(axis=0), variance=kept.var(axis=0))

    def of_batch(part: str) -> tuple[Array, float]:
        name = f"{norm}.{part}"
        after = outputs.after_first_step(name).astype(np.float64)
        batch: Array = ((after - _MOMENTUM * inputs.initial(name)) / (1 - _MOMENTUM)).ravel()
        return batch, float(_ROUNDINGS * np.finfo(np.float32).eps * np.abs(after).max() / (1 - _MOMENTUM))

    mean, mean_grain = of_batch("running_mean")
    variance, variance_grain = of_batch("running_var")
    return Moments(mean=mean, variance=variance, mean_grain=mean_grain, variance_grain=variance_grain)


def _differ(first: Moments, second: Moments, tolerance: float) -> bool:
    size = second.variance.max()
    variance = np.abs(first.variance - second.variance).max() - second.variance_grain
    mean = np.abs(first.mean - second.mean).max() - second.mean_grain
    return bool(
        variance > tolerance * size or mean > tolerance * max(np.sqrt(size), np.abs(second.mean).max())
    )


def _eps_difference(before: Array, first: Array, second: Array) -> float | None:
    """How much larger the first's eps is; None where the gains of the channels do not say so.

    A channel of variance v leaves BatchNorm with v / (v + eps) of it, so that the logarithm of the ratio of
    two outputs' variances is nearly the difference of the eps over v.
    """
    if before.shape != first.shape or min(first.min(), second.min()) <= 0:
        return None
    gain, inverse = np.log(second / first), 1 / before
    difference = float(gain @ inverse / (inverse @ inverse))
    rest = gain - difference * inverse
    return difference if rest @ rest <= (1 - _EXPLAINED) * (gain @ gain) else None


def _layers_between(previous: str, norm: str, inputs: Inputs) -> list[str]:
    """Layers with parameters from `previous` on, before the input of `norm`."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in inputs.kinds))
    last = layers.index(norm) if norm in layers else len(layers) - 1
    return layers[layers.index(previous) : last]
