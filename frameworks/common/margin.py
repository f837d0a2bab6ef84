"""The margin softmax loss in float64 numpy: the definition that the engines' heads are tested against.

    cosine[b, c] = <e_b / |e_b|, w_c / |w_c|>
    logit[b, c]  = scale * cosine[b, c], and for the true class scale * (cos(m1 theta + m2) - m3)
    loss         = mean over b of -log softmax(logit[b])[label_b]

with theta = arccos(cosine). ArcFace is Deng et al. (arXiv:1801.07698), equation 3; the combined margin is its
equation 4; CosFace is Wang et al. (arXiv:1801.09414), equation 4.
"""

from typing import NamedTuple, Tuple

import numpy as np

from frameworks.common.case import Case, Loss, Rank

# The true class's cosine is clamped to this before arccos, whose slope is infinite at the ends. In float32 it
# is two steps below 1.
COSINE_LIMIT = 1 - 1e-7

# Rows shorter than this are divided by it instead of their length, as in torch.nn.functional.normalize.
_SHORTEST = 1e-12


class MarginSoftmax(NamedTuple):
    """The loss, the mean over the batch, and its gradients: [B, E] and [C, E]."""

    loss: float
    embedding_gradient: np.ndarray
    weight_gradient: np.ndarray


def has_angular_margin(loss: Loss) -> bool:
    """Whether the true class's angle changes; if not, there is no arccos and no clamp."""
    return loss.m1 != 1 or loss.m2 != 0


def class_range(num_classes: int, world_size: int, rank: int) -> Tuple[int, int]:
    """First and past-the-last class of a rank; shares differ by at most one, the first ranks have the larger.

    Raises:
        ValueError: a rank would have no class.
    """
    if num_classes < world_size:
        raise ValueError(f"{num_classes} classes over {world_size} ranks leave some none; take fewer ranks")
    share, rest = divmod(num_classes, world_size)
    return rank * share + min(rank, rest), (rank + 1) * share + min(rank + 1, rest)


def held_classes(case: Case, rank: Rank) -> range:
    """The classes whose weights a process holds: all of them in data parallel, else those of its devices."""
    if case.parallelism == "data":
        return range(case.num_classes)
    first, _ = class_range(case.num_classes, case.world_size, rank.rank)
    _, last = class_range(case.num_classes, case.world_size, rank.rank + rank.devices - 1)
    return range(first, last)


def margin_softmax(
    embeddings: np.ndarray, weight: np.ndarray, labels: np.ndarray, loss: Loss
) -> MarginSoftmax:
    """Loss and gradients of embeddings [B, E], class weights [C, E] and labels int [B] in [0, C)."""
    unit_embeddings, embedding_lengths = _unit(np.asarray(embeddings, np.float64))
    unit_weight, weight_lengths = _unit(np.asarray(weight, np.float64))
    cosine = unit_embeddings @ unit_weight.T
    is_true = labels[:, None] == np.arange(len(weight))
    target, slope = _with_margin(cosine, loss)
    logits = loss.scale * np.where(is_true, target, cosine)
    logits -= logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    by_logit = (np.exp(logits - log_total) - is_true) / len(labels)
    by_cosine = loss.scale * by_logit * np.where(is_true, slope, 1.0)
    return MarginSoftmax(
        loss=float(np.mean(log_total - logits[is_true][:, None])),
        embedding_gradient=_through_unit(by_cosine @ unit_weight, unit_embeddings, embedding_lengths),
        weight_gradient=_through_unit(by_cosine.T @ unit_embeddings, unit_weight, weight_lengths),
    )


def _with_margin(cosine: np.ndarray, loss: Loss) -> Tuple[np.ndarray, np.ndarray]:
    """cos(m1 theta + m2) - m3 and its slope in the cosine; the slope is 0 where the cosine is clamped."""
    if not has_angular_margin(loss):
        return cosine - loss.m3, np.ones_like(cosine)
    theta = np.arccos(np.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT))
    angle = loss.m1 * theta + loss.m2
    slope = loss.m1 * np.sin(angle) / np.sin(theta)
    return np.cos(angle) - loss.m3, np.where(np.abs(cosine) <= COSINE_LIMIT, slope, 0.0)


def _unit(rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Rows scaled to length 1, and their original lengths, [N, 1]."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SHORTEST)
    return rows / lengths, lengths


def _through_unit(gradient: np.ndarray, unit: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Gradient by rows from the gradient by their unit rows: only the tangential part passes."""
    return (gradient - (gradient * unit).sum(axis=1, keepdims=True) * unit) / lengths
