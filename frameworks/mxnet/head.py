"""The margin softmax classifier with all classes on each device; `frameworks/common/margin.py` defines it."""

from typing import Any

from mxnet.gluon import HybridBlock

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin


class MarginSoftmax(HybridBlock):
    """Loss of embeddings [B, E] and labels int32 [B]: float32 [1], the mean over the batch."""

    def __init__(self, loss: Loss, num_classes: int, embedding_size: int) -> None:
        layer, _, part = CLASSIFIER.rpartition(".")
        super().__init__(prefix=layer + ".")
        self._loss, self._classes = loss, num_classes
        self.weight = self.params.get(part, shape=(num_classes, embedding_size))

    def hybrid_forward(self, F: Any, embeddings: Any, labels: Any, weight: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym, and with the parameters by keyword."""
        logits = margin_logits(F, self._loss, embeddings, weight, labels=labels, classes=self._classes)
        probabilities = F.log_softmax(logits, axis=1)
        return -F.mean(F.pick(probabilities, labels, axis=1))


def margin_logits(F: Any, loss: Loss, embeddings: Any, weight: Any, *, labels: Any, classes: int) -> Any:
    """Logits [B, C] of embeddings [B, E], class weights [C, E], labels int32 [B]: `scale` times the cosines.

    The true class's cosine becomes cos(m1 theta + m2) - m3. A label of -1 names no class.
    """
    cosine = F.FullyConnected(
        F.L2Normalization(embeddings), F.L2Normalization(weight), num_hidden=classes, no_bias=True
    )
    if loss.kind == "softmax":
        return cosine * loss.scale
    target = F.pick(cosine, labels, axis=1, keepdims=True)
    difference = _with_margin(F, loss, target) - target
    return (cosine + F.broadcast_mul(F.one_hot(labels, classes), difference)) * loss.scale


def _with_margin(F: Any, loss: Loss, target: Any) -> Any:
    if not has_angular_margin(loss):
        return target - loss.m3
    theta = F.arccos(F.clip(target, -COSINE_LIMIT, COSINE_LIMIT))
    return F.cos(theta * loss.m1 + loss.m2) - loss.m3
