"""The margin softmax classifier with all classes on each device; `frameworks/common/margin.py` defines it."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

from frameworks.common.case import Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin


class MarginSoftmax(nn.Module):
    """Loss of embeddings [B, E] and labels int64 [B]: a scalar, the mean over the batch."""

    def __init__(self, loss: Loss, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.table_name = CLASSIFIER.rpartition(".")[0]
        self._loss = loss
        self.weight = nn.Parameter(torch.zeros(num_classes, embedding_size))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute in the dtype of the weights."""
        return cross_entropy(margin_logits(self._loss, embeddings, self.weight, labels), labels)


def margin_logits(
    loss: Loss, embeddings: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Logits [B, C] of embeddings [B, E], class weights [C, E], labels int64 [B]: `scale` times the cosines.

    The true class's cosine becomes cos(m1 theta + m2) - m3.
    """
    cosine = linear(normalize(embeddings), normalize(weight))
    if loss.kind != "softmax":
        index = labels.unsqueeze(1)
        cosine = cosine.scatter(1, index, _with_margin(loss, cosine.gather(1, index)))
    return cosine * loss.scale


def _with_margin(loss: Loss, target: torch.Tensor) -> torch.Tensor:
    if has_angular_margin(loss):
        theta = torch.arccos(target.clamp(-COSINE_LIMIT, COSINE_LIMIT))
        target = torch.cos(theta * loss.m1 + loss.m2)
    return target - loss.m3
