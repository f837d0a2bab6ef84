"""The margin softmax classifier with all classes on a device; `frameworks/common/margin.py` defines it."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

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
        self._loss = loss
        self.weight = nn.Parameter(torch.zeros(num_classes, embedding_size))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute in the dtype of the weights."""
        logits = linear(normalize(embeddings), normalize(self.weight))
        if self._loss.kind != "softmax":
            index = labels.unsqueeze(1)
            logits = logits.scatter(1, index, self._with_margin(logits.gather(1, index)))
        return cross_entropy(logits * self._loss.scale, labels)

    def _with_margin(self, target: torch.Tensor) -> torch.Tensor:
        if has_angular_margin(self._loss):
            theta = torch.arccos(target.clamp(-COSINE_LIMIT, COSINE_LIMIT))
            target = torch.cos(theta * self._loss.m1 + self._loss.m2)
        return target - self._loss.m3
