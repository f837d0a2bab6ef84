"""The margin softmax classifier on one device."""

import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin


class MarginSoftmax(nn.Module):
    """Loss of embeddings [B, E] and labels int64 [B]: a scalar, the mean over the batch.

    The true class's cosine becomes cos(m1 theta + m2) - m3; logits are `scale` times the cosines.
    """

    def __init__(self, loss: Loss, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.table_name = CLASSIFIER.rpartition(".")[0]
        self._loss, self._classes = loss, num_classes
        self.weight = nn.Parameter(flow.empty(num_classes, embedding_size))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Normalise, multiply, add the margin, take the cross entropy."""
        normalize = nn.functional.normalize
        cosine = flow.matmul(normalize(embeddings, dim=1), normalize(self.weight, dim=1), transpose_b=True)
        if self._loss.kind != "softmax":
            cosine = self._with_margin(cosine, labels)
        losses = flow._C.sparse_softmax_cross_entropy(cosine * self._loss.scale, labels)  # noqa: SLF001
        return losses.mean()

    def _with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        m1, m2, m3 = self._loss.m1, self._loss.m2, self._loss.m3
        if not has_angular_margin(self._loss):
            return cosine - nn.functional.one_hot(labels, self._classes, on_value=m3, off_value=0.0)
        # The fused operator divides by sin(theta): without the clamp its gradient is no number at the ends.
        return flow._C.combined_margin_loss(  # noqa: SLF001
            cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT), labels, m1=m1, m2=m2, m3=m3
        )
