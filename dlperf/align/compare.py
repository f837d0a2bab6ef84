"""How far two participants are apart: every figure is a difference relative to a size that is named here.

| figure | difference | relative to |
|---|---|---|
| embeddings | largest of all elements | largest magnitude in the second's |
| loss | of the step | the second's loss of that step |
| gradient norm | of the array's Euclidean norm | the second's, at least 1e-3 of the norm of all gradients |
| parameter, statistic | largest of the array's elements | largest magnitude in the second's array |

A gradient that is zero by mathematics, such as that of a bias in front of a BatchNorm, is rounding error in
every engine: hence the floor, which is the tolerance of the first step where that is more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy.special import logsumexp  # type: ignore[import-untyped]  # scipy ships no types

from dlperf.align.arrays import CLASSIFIER, STATISTIC, Array, Inputs, Outputs
from dlperf.align.certificate import Figures, Pair, Stage, StageResult, Tolerance, Worst
from dlperf.plan.case import Case, Loss

GRADIENT_FLOOR: Final = 1e-3

# Share of a difference that a hint may leave unexplained: rounding, and the denominator of a variance.
_UNEXPLAINED: Final = 0.01

_KIND_WORDS: Final = {
    "convolution": "convolution weights",
    "linear": "the linear layer's weight",
    "bias": "the linear layer's bias",
    "batch_norm": "BatchNorm gamma and beta",
    "prelu": "PReLU slopes",
    "classifier": "the class weights",
}


def compare(
    names: tuple[str, str],
    first: Outputs,
    second: Outputs,
    inputs: Inputs,
    *,
    case: Case,
    tolerance: Tolerance,
) -> Pair:
    """Two participants stage by stage; `case` is what those with the most devices trained."""
    early, late, kinds = tolerance.first_step, tolerance.after_steps, inputs.kinds
    losses = {
        f"loss of step {step}": abs(a - b) / max(abs(b), np.finfo(float).tiny)
        for step, (a, b) in enumerate(zip(first.losses, second.losses, strict=True), 1)
    }
    gradients = gradient_differences(first, second, floor=max(GRADIENT_FLOOR, early))
    one = {name: difference(first.after_first_step(name), second.after_first_step(name)) for name in kinds}
    every = {name: difference(first.after_all_steps(name), second.after_all_steps(name)) for name in kinds}
    parameters, statistics = (
        {name: one[name] for name in among} for among in (inputs.parameters, inputs.statistics)
    )
    later = {**dict(list(losses.items())[1:]), **every}
    stages = (
        _forward(first, second, inputs, early, frozen=case.workload.batch_norm == "frozen"),
        _stage("loss", {"loss of step 1": losses["loss of step 1"]}, early, kinds),
        _stage("gradients", dict(reversed(gradients.items())), late, kinds),
        _stage("step", parameters, early, kinds),
        _stage("statistics", statistics, early, kinds),
        _stage("later steps", later, late, kinds),
    )
    differing = next((stage for stage in stages if stage.first is not None), None)
    hint = None
    if differing and differing.stage in {"step", "statistics"}:
        wrong = {
            name: (first.after_first_step(name).astype(np.float64), second.after_first_step(name))
            for name, value in one.items()
            if value > early
        }
        hint = _decay(names, wrong, inputs, case) or _momentum(names, wrong, inputs)
    return Pair(
        first=names[0],
        second=names[1],
        passed=differing is None,
        figures=Figures(
            embeddings=stages[0].difference,
            losses=tuple(losses.values()),
            gradient_norm=_worst(gradients),
            first_step=_worst(one),
            parameters=_worst({name: every[name] for name in parameters}),
            statistics=_worst({name: every[name] for name in statistics}),
        ),
        stages=stages,
        first_to_differ=differing.first if differing else None,
        hint=hint,
    )


def difference(first: Array, second: Array) -> float:
    """Largest difference of two elements, relative to the largest magnitude in `second`.

    Statistics of different numbers of devices, [devices, channels], are compared all with all.
    """
    if first.ndim == second.ndim and first.shape != second.shape:
        first, second = first[:, None], second[None]
    apart = np.abs(first.astype(np.float64) - second).max()
    if apart == 0:
        return 0.0
    return float(apart / max(np.abs(second).max(), np.finfo(np.float32).tiny))


def gradient_differences(
    first: Outputs, second: Outputs, *, floor: float = GRADIENT_FLOOR
) -> dict[str, float]:
    """By parameter, in the network's order; `floor` is a share of the norm of all gradients."""
    total = math.hypot(*second.gradient_norms.values())
    least = max(floor * total, np.finfo(float).tiny)
    return {
        name: abs(first.gradient_norms[name] - norm) / max(norm, least)
        for name, norm in second.gradient_norms.items()
    }


def _stage(
    stage: Stage, differences: Mapping[str, float], tolerance: float, kinds: Mapping[str, str]
) -> StageResult:
    """`differences` stand in the order in which a step computes the arrays."""
    beyond = [name for name, value in differences.items() if value > tolerance]
    found = {kinds.get(name) for name in beyond}
    return StageResult(
        stage=stage,
        difference=max(differences.values(), default=0.0),
        first=beyond[0] if beyond else None,
        beyond=len(beyond),
        arrays=len(differences),
        kinds=tuple(words for kind, words in _KIND_WORDS.items() if kind in found),
    )


def _forward(
    first: Outputs, second: Outputs, inputs: Inputs, tolerance: float, *, frozen: bool
) -> StageResult:
    """Whether the embeddings agree, and if not, where the forward passes part.

    That shows in the mean and variance that each BatchNorm keeps of its input, unless it is frozen. Their
    difference is relative to how far the step moved them, so that their values before it do not hide it.
    """
    apart = difference(first.embeddings, second.embeddings)
    differences = {"embeddings": apart}
    if apart > tolerance and not frozen:
        moved = {}
        for name in inputs.statistics:
            start = inputs.initial(name).astype(np.float64)
            moved[name] = difference(
                first.after_first_step(name) - start, second.after_first_step(name) - start
            )
        differences = {**moved, **differences}
    located = _stage("embeddings", differences, tolerance, inputs.kinds)
    return located.model_copy(update={"difference": apart})


def _worst(differences: Mapping[str, float]) -> Worst:
    name = max(differences, key=lambda key: differences[key])
    return Worst(name=name, difference=differences[name])


def defined_loss(outputs: Outputs, inputs: Inputs, case: Case) -> float | None:
    """What the definition of docs/workloads.md gives for a participant's own first embeddings.

    None with a sample of the classes, which only the engines know.
    """
    if (case.sample_ratio or 1.0) < 1:
        return None
    return margin_loss(
        cosines(outputs.embeddings, inputs.initial(CLASSIFIER)), inputs.labels, case.workload.loss
    )


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


def _decay(
    names: tuple[str, str], wrong: Mapping[str, tuple[Array, Array]], inputs: Inputs, case: Case
) -> str | None:
    """Weight decay, where only whole kinds of parameter differ, each by the same multiple of its weights."""
    kinds = {inputs.kinds[name] for name in wrong}
    share = _multiple([a - b for a, b in wrong.values()], [inputs.initial(name) for name in wrong])
    defined = case.workload.schedule.learning_rate * case.workload.optimizer.weight_decay
    whole = len(wrong) == sum(kind in kinds for kind in inputs.kinds.values())
    if STATISTIC in kinds or share is None or not whole or not defined:
        return None
    more, less = names if share < 0 else names[::-1]  # whose weights stay larger decays them less
    words = ", ".join(words for kind, words in _KIND_WORDS.items() if kind in kinds)
    times = f"{abs(share) / defined:.3g} times the defined decay"
    return f"weight decay explains it: {more} decays {words} more than {less}, by {times}"


def _momentum(names: tuple[str, str], wrong: Mapping[str, tuple[Array, Array]], inputs: Inputs) -> str | None:
    """Momentum of running statistics, where the step moved them by a multiple in one of two participants."""
    if any(inputs.kinds[name] != STATISTIC for name in wrong):
        return None
    moves = [second - inputs.initial(name) for name, (_, second) in wrong.items()]
    share = _multiple([a - b for a, b in wrong.values()], moves)
    if share is None:
        return None
    times = f"{1 + share:.3g} times as far in {names[0]} as in {names[1]}"
    return f"another momentum explains it: these statistics move {times}"


def _multiple(apart: Sequence[Array], base: Sequence[Array]) -> float | None:
    """The factor by which `base` gives `apart`, element by element; None where no factor does."""
    x, y = (np.concatenate([array.ravel() for array in arrays]) for arrays in (base, apart))
    factor = float(x @ y / max(x @ x, np.finfo(float).tiny))
    both = zip(apart, base, strict=True)
    fits = (np.abs(a - factor * b).max() <= _UNEXPLAINED * np.abs(a).max() for a, b in both)
    return factor if all(fits) else None
