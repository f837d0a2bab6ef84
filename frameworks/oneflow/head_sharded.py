"""The margin softmax over classes that are split over the ranks; `frameworks/common/margin.py` defines it.

Capitals say how a tensor is spread (`parallel.py`). Embeddings and labels come BY_ROWS, each rank's own.
OneFlow's sampler of Partial FC exists only for CUDA; on CPU the samples are drawn on the host.
"""

from functools import partial
from typing import Callable, Optional, Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common.case import Case, Loss, Rank
from frameworks.common.sampling import HostSampler, sample_sizes
from frameworks.oneflow.head import MarginSoftmax
from frameworks.oneflow.parallel import BY_ROWS, REPLICATED


class ShardedMarginSoftmax(MarginSoftmax):
    """The same with the class weights BY_ROWS, which splits the logits by columns."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Gather embeddings and labels."""
        everyones = labels.to_global(sbp=REPLICATED)
        loss = self._loss_of(_gathered(embeddings), self.weight, everyones)
        return loss, loss


class SampledMarginSoftmax(MarginSoftmax):
    """Partial FC: the same over sampled rows of the class weights, which are BY_ROWS.

    Weight decay that goes through the momentum is added here: the optimizer would decay all rows.
    """

    def __init__(self, loss: Loss, weight: Tensor, decay: float) -> None:
        super().__init__(loss, weight)
        self._decay = decay

    def forward(self, embeddings: Tensor, columns: Tensor, index: Tensor) -> Tuple[Tensor, Tensor]:
        """Take the rows `index`, int64 [S], BY_ROWS; `columns`, int64 [B], has each label's place among them.

        `columns` comes AS_SUM: each rank knows the places of the labels whose class it holds. The rows are
        gathered as a sum over the ranks, to which all ranks but one add zeros, and are split again.
        """
        rows = flow._C.gather(self.weight, index.to_global(sbp=REPLICATED), axis=0)  # noqa: SLF001
        return self._of_rows(embeddings, rows.to_global(sbp=BY_ROWS), columns.to_global(sbp=REPLICATED))

    def _of_rows(self, embeddings: Tensor, rows: Tensor, columns: Tensor) -> Tuple[Tensor, Tensor]:
        loss = self._loss_of(_gathered(embeddings), rows, columns)
        if not self._decay:
            return loss, loss
        return loss, loss + (rows * rows).sum() * (self._decay / 2)


class DeviceSampledMarginSoftmax(SampledMarginSoftmax):
    """Partial FC with OneFlow's own sampler, on CUDA."""

    def __init__(self, loss: Loss, weight: Tensor, decay: float, sampled: int) -> None:
        """Take the number of classes that all ranks sample together."""
        super().__init__(loss, weight, decay)
        self._sample = nn.DistributedPariticalFCSample(sampled)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Sample on the device; the rows stay on their ranks."""
        columns, _, rows = self._sample(self.weight, labels.to_global(sbp=REPLICATED))
        return self._of_rows(embeddings, rows, columns)


def _gathered(embeddings: Tensor) -> Tensor:
    """Every rank's embeddings on every rank, [R B, E].

    The gradient that comes back is a sum over the ranks. Without `grad_sbp` OneFlow would give every rank the
    whole sum for its own rows: a wrong gradient, without an error.
    """
    return embeddings.to_global(sbp=REPLICATED, grad_sbp=BY_ROWS)


def make_head(case: Case, weight: Tensor) -> MarginSoftmax:
    """The case's classifier with the class weights [C, E], REPLICATED in data parallel, else BY_ROWS."""
    if case.parallelism == "data":
        return MarginSoftmax(case.loss, weight)
    if case.parallelism == "model":
        return ShardedMarginSoftmax(case.loss, weight)
    decay = case.optimizer.weight_decay if case.optimizer.decay == "coupled" else 0.0
    if case.device == "cuda":
        return DeviceSampledMarginSoftmax(case.loss, weight, decay, sum(sample_sizes(case)))
    return SampledMarginSoftmax(case.loss, weight, decay)


class HostSamples:
    """One rank's inputs of SampledMarginSoftmax: columns int64 [R B], and the rank's index int64 [S]."""

    def __init__(self, case: Case, rank: Rank) -> None:
        self._sampler, self._batch = HostSampler(case, rank), case.global_batch_size
        self._first_column = sum(sample_sizes(case)[: rank.rank])

    def example(self) -> Tuple[np.ndarray, np.ndarray]:
        """Arrays of the same shape as a sample, without a draw."""
        first, size = self._sampler.held.start, self._sampler.size
        return np.zeros(self._batch, np.int64), first + np.arange(size, dtype=np.int64)

    def sample(self, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Draw for the labels int64 [R B] of the global batch.

        A column is the place of a label's class among the samples of all ranks; 0 if another rank has it.

        Raises:
            ValueError: the labels name more classes of this rank than it samples.
        """
        rows = self._sampler.sample(labels)
        places = self._sampler.places(labels, rows)
        return np.where(places < 0, 0, self._first_column + places), rows + self._sampler.held.start


def samples_on_host(case: Case) -> bool:
    """Whether the case needs HostSamples."""
    return case.parallelism == "partial_fc" and case.device == "cpu"


def positives_counter(case: Case) -> "Optional[Callable[[Tensor], Tensor]]":
    """What counts a step's positives if the device samples: its sampler silently drops surplus ones."""
    if case.parallelism != "partial_fc" or samples_on_host(case):
        return None
    return partial(most_positives, num_classes=case.num_classes, ranks=case.world_size)


def most_positives(labels: Tensor, num_classes: int, ranks: int) -> Tensor:
    """The most classes of one rank that labels int64 [N] name, a scalar; all ranks hold the same number."""
    ordered, _ = flow.sort(labels)
    owners = (ordered.to(flow.float64) / (num_classes // ranks)).floor().to(flow.int64)
    first = flow.cat([flow.ones_like(ordered[:1]), (ordered[1:] != ordered[:-1]).to(flow.int64)])
    counts = nn.functional.one_hot(owners, ranks) * first.reshape(-1, 1)
    return counts.sum(dim=0).max()
