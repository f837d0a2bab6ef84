"""The margin softmax classifier with all classes on each device; `frameworks/common/margin.py` defines it."""

from functools import partial
from typing import Tuple

import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin


class MarginSoftmax(nn.Module):
    """Loss of embeddings [B, E] and labels int64 [B]: a scalar, the mean over the batch.

    A head returns two scalars: the loss, and what is differentiated, which may have terms added.
    """

    def __init__(self, loss: Loss, weight: Tensor) -> None:
        """Take the class weights [C, E], REPLICATED if there are several ranks."""
        super().__init__()
        self.table_name = CLASSIFIER.rpartition(".")[0]
        self._loss = loss
        self.weight = nn.Parameter(weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Compute in the dtype of the weights."""
        loss = self._loss_of(embeddings, self.weight, labels)
        return loss, loss

    def _loss_of(self, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        logits = margin_logits(self._loss, embeddings, weight, labels)
        return flow._C.sparse_softmax_cross_entropy(logits, labels).mean()  # noqa: SLF001


def margin_logits(loss: Loss, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, C] of embeddings [B, E], class weights [C, E], labels int64 [B]: `scale` times the cosines.

    The true class's cosine becomes cos(m1 theta + m2) - m3.
    """
    normalize = nn.functional.normalize
    cosine = flow.matmul(normalize(embeddings, dim=1), normalize(weight, dim=1), transpose_b=True)
    if loss.kind != "softmax":
        cosine = _with_margin(loss, cosine, labels)
    return cosine * loss.scale


def _with_margin(loss: Loss, cosine: Tensor, labels: Tensor) -> Tensor:
    margin = partial(flow._C.combined_margin_loss, label=labels, m1=loss.m1, m2=loss.m2, m3=loss.m3)  # noqa: SLF001
    if not has_angular_margin(loss):
        # For cosines of 0 the operator returns -m3 for the true class, and 0 for the others.
        return cosine + margin(_zeros_as(cosine))
    # Its gradient divides by sin(theta): without the clamp it is NaN at the ends.
    return margin(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT))


def _zeros_as(values: Tensor) -> Tensor:
    """Zeros of the same shape, spread the same; graphs of 0.8 fail to differentiate `zeros_like`."""
    if values.is_global:
        return flow.zeros(*values.shape, placement=values.placement, sbp=values.sbp)
    return flow.zeros(*values.shape, device=values.device)
