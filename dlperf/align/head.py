"""Which margin would give the loss that a contender computed from its embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]  # scipy ships no types
from scipy.special import logsumexp  # type: ignore[import-untyped]

from dlperf.align.arrays import CLASSIFIER

if TYPE_CHECKING:
    from dlperf.align.arrays import Array
    from dlperf.align.diagnosis import Two
    from dlperf.plan.case import Loss

# The margin that a kind of loss is known for, and where it is searched.
_MARGINS: Final = {"arcface": "m2", "cosface": "m3"}
_RANGE: Final = (0.0, 1.0)


def fitting_margins(two: Two) -> str | None:
    """Of each contender whose loss is not the defined one's, the margin that it would be right with.

    None where both have it, and of a sample of the classes, which is not known here.
    """
    if (two.case.sample_ratio or 1.0) < 1:
        return None
    loss = two.case.workload.loss
    found = []
    for name, outputs in ((two.first_name, two.first), (two.second_name, two.second)):
        cosine = cosines(outputs.embeddings, two.inputs.initial(CLASSIFIER))
        computed, defined = outputs.losses[0], margin_loss(cosine, two.inputs.labels, loss)
        if abs(computed - defined) <= two.tolerance.first_step * defined:
            continue
        fit = _fit(cosine, two.inputs.labels, loss, computed)
        found.append(f"{name} computed {computed:.6g} where the definition gives {defined:.6g}{fit}")
    return "; ".join(found) or None


def _fit(cosine: Array, labels: Array, loss: Loss, computed: float) -> str:
    margin = _MARGINS.get(loss.kind)
    if margin is None:
        return ""

    def apart(value: float) -> float:
        return margin_loss(cosine, labels, loss.model_copy(update={margin: value})) - computed

    if apart(_RANGE[0]) * apart(_RANGE[1]) > 0:
        return ""
    value: float = brentq(apart, *_RANGE)
    return f", as with {margin}={value:.3g} in place of {getattr(loss, margin):g}"


def cosines(embeddings: Array, weight: Array) -> Array:
    """Cosine of every embedding [B, E] and class [C, E]: float64 [B, C]."""
    wide = [rows.astype(np.float64) for rows in (embeddings, weight)]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in wide]
    product: Array = unit[0] @ unit[1].T
    return product


def margin_loss(cosine: Array, labels: Array, loss: Loss) -> float:
    """The definition of docs/workloads.md on cosines [B, C]; the mean over the batch."""
    rows = np.arange(len(labels))
    logits = cosine.copy()
    theta = np.arccos(np.clip(logits[rows, labels], -1, 1))
    logits[rows, labels] = np.cos(loss.m1 * theta + loss.m2) - loss.m3
    logits *= loss.scale
    return float(np.mean(logsumexp(logits, axis=1) - logits[rows, labels]))
