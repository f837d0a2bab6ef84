"""What is computed differently by two contenders, named as precisely as their outputs allow.

A step is followed in the order in which it is computed: forward pass, loss, backward pass, update,
statistics, later updates. The first part beyond tolerance holds the culprit; what comes after it differs in
consequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dlperf.align import forward, head
from dlperf.align.compare import difference, gradient_differences

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.align.arrays import Array, Inputs, Outputs
    from dlperf.align.certificate import Tolerance
    from dlperf.plan.case import Case

# Share of a difference that its explanation must account for.
_EXPLAINED: Final = 0.9

_KIND_WORDS = {
    "convolution": "convolution weights",
    "linear": "the linear layer's weight",
    "bias": "the linear layer's bias",
    "batch_norm": "BatchNorm gamma and beta",
    "prelu": "PReLU slopes",
    "classifier": "the class weights",
    "statistic": "BatchNorm statistics",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """Two contenders by name, what both were given, and what each computed."""

    first_name: str
    second_name: str
    first: Outputs
    second: Outputs
    inputs: Inputs
    case: Case
    tolerance: Tolerance


def first_to_differ(two: Two) -> str | None:
    """The first array in the network's order that differs beyond tolerance, after one step or after all."""
    for name in _beyond_after_first(two):
        return name
    for name in two.inputs.kinds:
        apart = difference(two.first.after_all_steps(name), two.second.after_all_steps(name))
        if apart > two.tolerance.after_steps:
            return name
    return None


def culprit(two: Two) -> str | None:
    """One sentence; None where everything is within tolerance."""
    steps: tuple[Callable[[Two], str | None], ...] = (_forward, _loss, _backward, _update, _later)
    for step in steps:
        found = step(two)
        if found is not None:
            return found
    return None


def _forward(two: Two) -> str | None:
    if difference(two.first.embeddings, two.second.embeddings) <= two.tolerance.first_step:
        return None
    return forward.explained(two)


def _loss(two: Two) -> str | None:
    apart = _loss_difference(two, 0)
    if apart <= two.tolerance.first_step:
        return None
    fits = head.fitting_margins(two)
    text = "the margin head: the embeddings agree and the first loss does not"
    return f"{text}; {fits}" if fits else text


def _backward(two: Two) -> str | None:
    apart = gradient_differences(two.first, two.second)
    wrong = [name for name, value in apart.items() if value > two.tolerance.after_steps]
    if not wrong:
        return None
    kinds = {two.inputs.kinds[name] for name in wrong}
    # The backward pass comes from the other end.
    layer = wrong[-1]
    if len(kinds) == 1:
        return (
            f"the gradient of {_words(kinds)} (first in the backward pass: {layer}); the forward pass agrees"
        )
    return f"the backward pass from {layer} on; the forward pass agrees"


def _update(two: Two) -> str | None:
    wrong = _beyond_after_first(two)
    if not wrong:
        return None
    kinds = {two.inputs.kinds[name] for name in wrong}
    if kinds == {"statistic"}:
        # What BatchNorm keeps of a pass is a finer measure of it than the embeddings at its end.
        parts = " and ".join(sorted({name.rpartition(".")[2] for name in wrong}))
        kept = f"the update of BatchNorm's {parts}; all else of the first step agrees"
        return forward.parting(two) or kept
    trained = [name for name in wrong if two.inputs.kinds[name] != "statistic"]
    decay = _decay(two, trained)
    if decay is not None:
        return decay
    kinds.discard("statistic")
    return f"the first update of {_words(kinds)} (first: {trained[0]}); the gradients agree"


def _decay(two: Two, wrong: list[str]) -> str | None:
    """Weight decay, where the difference after the first update is a multiple of the weight before it."""
    before = np.concatenate([two.inputs.initial(name).ravel() for name in wrong]).astype(np.float64)
    apart = np.concatenate([_apart(two, name).ravel() for name in wrong])
    factor = float(apart @ before / (before @ before))
    rest = apart - factor * before
    if rest @ rest > (1 - _EXPLAINED) * (apart @ apart):
        return None
    optimizer, schedule = two.case.workload.optimizer, two.case.workload.schedule
    share = factor / (schedule.learning_rate * optimizer.weight_decay) if optimizer.weight_decay else 0.0
    more, less = two.first_name, two.second_name
    if factor > 0:  # the first kept more of the weight
        more, less = less, more
    kinds = {two.inputs.kinds[name] for name in wrong}
    amount = f" by {abs(share):.2g} times the defined decay" if share else ""
    return f"weight decay of {_words(kinds)}: {more} decays them more than {less}{amount}"


def _later(two: Two) -> str | None:
    """The first step agrees; what differs is what only later steps have."""
    late = two.tolerance.after_steps
    losses = [step for step in range(1, len(two.first.losses)) if _loss_difference(two, step) > late]
    wrong = [
        name
        for name in two.inputs.kinds
        if difference(two.first.after_all_steps(name), two.second.after_all_steps(name)) > late
    ]
    if not losses and not wrong:
        return None
    change = two.case.workload.schedule.steps
    if losses and change and losses[0] > change[0]:
        return f"the learning rate's change at iteration {change[0]}: the losses before it agree"
    since = f"from the loss of step {losses[0] + 1} on" if losses else f"first: {wrong[0]}"
    what = "a later update: momentum, or weight decay coupled against decoupled"
    return f"{what} ({since}); the first step agrees"


def _beyond_after_first(two: Two) -> list[str]:
    return [
        name
        for name in two.inputs.kinds
        if difference(two.first.after_first_step(name), two.second.after_first_step(name))
        > two.tolerance.first_step
    ]


def _apart(two: Two, name: str) -> Array:
    apart: Array = two.first.after_first_step(name).astype(np.float64) - two.second.after_first_step(name)
    return apart


def _loss_difference(two: Two, step: int) -> float:
    return abs(two.first.losses[step] - two.second.losses[step]) / max(abs(two.second.losses[step]), 1e-30)


def _words(kinds: set[str]) -> str:
    return ", ".join(words for kind, words in _KIND_WORDS.items() if kind in kinds)
