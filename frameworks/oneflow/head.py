"""The margin softmax classifiers: replicated, split over the ranks, split with a sample of the classes.

How a tensor is spread stands in capitals (`parallel.py`). Embeddings and labels come BY_ROWS, each rank's.
"""

from functools import partial
from typing import List, Tuple

import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Case, Loss
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import COSINE_LIMIT, has_angular_margin
from frameworks.oneflow.parallel import BY_ROWS, REPLICATED


class MarginSoftmax(nn.Module):
    """Loss of embeddings [B, E] and labels int64 [B]: a scalar, the mean over the batch.

    The true class's cosine becomes cos(m1 theta + m2) - m3; logits are `scale` times the cosines. A head
    gives two scalars: the loss, and what the gradients are those of, which may be more.
    """

    def __init__(self, loss: Loss, weight: Tensor) -> None:
        """Take the class weights [C, E], REPLICATED where there are several ranks."""
        super().__init__()
        self.table_name = CLASSIFIER.rpartition(".")[0]
        self._loss = loss
        self.weight = nn.Parameter(weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Normalise, multiply, add the margin, take the cross entropy."""
        loss = margin_softmax(self._loss, embeddings, self.weight, labels)
        return loss, loss


class SplitMarginSoftmax(MarginSoftmax):
    """The same with the class weights BY_ROWS, which splits the logits by columns."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Gather embeddings and labels."""
        everyones = labels.to_global(sbp=REPLICATED)
        loss = margin_softmax(self._loss, gathered(embeddings), self.weight, everyones)
        return loss, loss


class SampledMarginSoftmax(MarginSoftmax):
    """Partial FC: of the class weights, BY_ROWS, those that an index names take part.

    Weight decay, where it goes through the momentum, is here: the optimizer would decay the rows that are not
    sampled, too.
    """

    def __init__(self, loss: Loss, weight: Tensor, decay: float) -> None:
        super().__init__(loss, weight)
        self._decay = decay

    def forward(self, embeddings: Tensor, columns: Tensor, index: Tensor) -> Tuple[Tensor, Tensor]:
        """Take the rows of `index`, int64 [S], BY_ROWS; `columns`, int64 [B], says which is each label's.

        `columns` comes AS_SUM: each rank knows the place of the labels whose class it holds. The rows are
        gathered into a sum over the ranks, of which all but one give zeros, and are split again.
        """
        rows = flow._C.gather(self.weight, index.to_global(sbp=REPLICATED), axis=0)  # noqa: SLF001
        return self._of_rows(embeddings, rows.to_global(sbp=BY_ROWS), columns.to_global(sbp=REPLICATED))

    def _of_rows(self, embeddings: Tensor, rows: Tensor, columns: Tensor) -> Tuple[Tensor, Tensor]:
        loss = margin_softmax(self._loss, gathered(embeddings), rows, columns)
        if not self._decay:
            return loss, loss
        return loss, loss + (rows * rows).sum() * (self._decay / 2)


class DeviceSampledMarginSoftmax(SampledMarginSoftmax):
    """Partial FC with the engine's own sampler, which OneFlow has for CUDA alone."""

    def __init__(self, loss: Loss, weight: Tensor, decay: float, sampled: int) -> None:
        """Take how many classes all ranks sample together."""
        super().__init__(loss, weight, decay)
        self._sample = nn.DistributedPariticalFCSample(sampled)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Sample on the device; the rows stay where they are."""
        columns, _, rows = self._sample(self.weight, labels.to_global(sbp=REPLICATED))
        return self._of_rows(embeddings, rows, columns)


def gathered(embeddings: Tensor) -> Tensor:
    """Every rank's embeddings on every rank, [R B, E].

    The gradients that come back are parts of a sum. Left to itself OneFlow would give every rank the whole
    sum for its own rows: a wrong gradient, and no error.
    """
    return embeddings.to_global(sbp=REPLICATED, grad_sbp=BY_ROWS)


def margin_softmax(loss: Loss, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The mean over the batch of embeddings [B, E], class weights [C, E] and labels int64 [B] in [0, C)."""
    normalize = nn.functional.normalize
    cosine = flow.matmul(normalize(embeddings, dim=1), normalize(weight, dim=1), transpose_b=True)
    if loss.kind != "softmax":
        cosine = _with_margin(loss, cosine, labels)
    losses = flow._C.sparse_softmax_cross_entropy(cosine * loss.scale, labels)  # noqa: SLF001
    return losses.mean()


def _with_margin(loss: Loss, cosine: Tensor, labels: Tensor) -> Tensor:
    margin = partial(flow._C.combined_margin_loss, label=labels, m1=loss.m1, m2=loss.m2, m3=loss.m3)  # noqa: SLF001
    if not has_angular_margin(loss):
        # Of cosines that are 0 the operator makes -m3 for the true class, and leaves the others.
        return cosine + margin(_zeros_as(cosine))
    # It divides by sin(theta): without the clamp its gradient is no number at the ends.
    return margin(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT))


def _zeros_as(values: Tensor) -> Tensor:
    """Of their shape, spread as they are; graphs of 0.8 want a gradient of `zeros_like`, and have none."""
    if values.is_global:
        return flow.zeros(*values.shape, placement=values.placement, sbp=values.sbp)
    return flow.zeros(*values.shape, device=values.device)


def most_positives(labels: Tensor, num_classes: int, ranks: int) -> Tensor:
    """The most classes of one rank that labels int64 [N] name, a scalar; every rank holds as many classes."""
    ordered, _ = flow.sort(labels)
    owners = (ordered.to(flow.float64) / (num_classes // ranks)).floor().to(flow.int64)
    first = flow.cat([flow.ones_like(ordered[:1]), (ordered[1:] != ordered[:-1]).to(flow.int64)])
    counts = nn.functional.one_hot(owners, ranks) * first.reshape(-1, 1)
    return counts.sum(dim=0).max()


def make_head(case: Case, weight: Tensor, sampled: List[int]) -> MarginSoftmax:
    """The case's classifier; `sampled` is how many classes each rank samples with Partial FC."""
    if case.parallelism == "data":
        return MarginSoftmax(case.loss, weight)
    if case.parallelism == "model":
        return SplitMarginSoftmax(case.loss, weight)
    decay = case.optimizer.weight_decay if case.optimizer.decay == "coupled" else 0.0
    if case.device == "cuda":
        return DeviceSampledMarginSoftmax(case.loss, weight, decay, sum(sampled))
    return SampledMarginSoftmax(case.loss, weight, decay)
