"""The margin softmax classifier on one device."""

from typing import Any

from mxnet.gluon import HybridBlock

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin


class MarginSoftmax(HybridBlock):
    """Loss of embeddings [B, E] and labels int32 [B]: float32 [1], the mean over the batch.

    The true class's cosine becomes cos(m1 theta + m2) - m3; logits are `scale` times the cosines.
    """

    def __init__(self, loss: Loss, num_classes: int, embedding_size: int) -> None:
        layer, _, part = CLASSIFIER.rpartition(".")
        super().__init__(prefix=layer + ".")
        self._loss, self._classes = loss, num_classes
        self.weight = self.params.get(part, shape=(num_classes, embedding_size))

    def hybrid_forward(self, F: Any, embeddings: Any, labels: Any, weight: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym, and with the parameters by keyword."""
        cosine = F.FullyConnected(
            F.L2Normalization(embeddings), F.L2Normalization(weight), num_hidden=self._classes, no_bias=True
        )
        logits = cosine
        if self._loss.kind != "softmax":
            target = F.pick(cosine, labels, axis=1, keepdims=True)
            difference = self._with_margin(F, target) - target
            logits = cosine + F.broadcast_mul(F.one_hot(labels, self._classes), difference)
        probabilities = F.log_softmax(logits * self._loss.scale, axis=1)
        return -F.mean(F.pick(probabilities, labels, axis=1))

    def _with_margin(self, F: Any, target: Any) -> Any:
        if not has_angular_margin(self._loss):
            return target - self._loss.m3
        theta = F.arccos(F.clip(target, -COSINE_LIMIT, COSINE_LIMIT))
        return F.cos(theta * self._loss.m1 + self._loss.m2) - self._loss.m3
