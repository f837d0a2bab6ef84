"""The margin softmax classifier with all classes on each device; `frameworks/common/margin.py` defines it."""

import jax
import jax.numpy as jnp
from jax import Array

from frameworks.common.case import Loss
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin

SHORTEST = 1e-12  # as in torch.nn.functional.normalize


class MarginSoftmax:
    """Loss of embeddings [B, E] and labels int32 [B]: a scalar, the mean over the batch."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def __call__(self, embeddings: Array, weight: Array, labels: Array) -> Array:
        """Compute in the dtype of the weights [C, E]."""
        probabilities = jax.nn.log_softmax(margin_logits(self._loss, embeddings, weight, labels))
        return -jnp.take_along_axis(probabilities, labels[:, None], axis=1).mean()


def margin_logits(loss: Loss, embeddings: Array, weight: Array, labels: Array) -> Array:
    """Logits [B, C] of embeddings [B, E], class weights [C, E], labels int32 [B]: `scale` times the cosines.

    The true class's cosine becomes cos(m1 theta + m2) - m3.
    """
    cosine = normalize(embeddings) @ normalize(weight).T
    if loss.kind != "softmax":
        true = labels[:, None] == jnp.arange(len(weight))
        target = jnp.take_along_axis(cosine, labels[:, None], axis=1)
        cosine = jnp.where(true, _with_margin(loss, target), cosine)
    return cosine * loss.scale


def normalize(rows: Array) -> Array:
    """Rows [N, E] divided by their lengths, or by SHORTEST if that is larger."""
    # The length's slope at 0 is not a number, also where `maximum` drops it.
    squares = jnp.square(rows).sum(axis=1, keepdims=True)
    return rows / jnp.sqrt(jnp.maximum(squares, SHORTEST**2))


def _with_margin(loss: Loss, target: Array) -> Array:
    if has_angular_margin(loss):
        theta = jnp.arccos(jnp.clip(target, -COSINE_LIMIT, COSINE_LIMIT))
        target = jnp.cos(theta * loss.m1 + loss.m2)
    return target - loss.m3
