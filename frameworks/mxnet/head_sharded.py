"""The margin softmax over classes that are split over the devices; `frameworks/common/margin.py` defines it.

As in InsightFace's trainers for MXNet, the margin and the norms go through autograd, and the softmax, whose
sums come from all devices, is written out (An et al., arXiv:2010.05222, section 3). With R B images in the
global batch and logits z [R B, C_r] on each device:

    m = max over all classes,  S = sum over all classes of exp(z - m)
    loss = mean of log S + m - z_true,  d loss / d z = (exp(z - m) / S - one_hot) / (R B)
"""

from typing import Any, Optional, Tuple, Union

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from frameworks.common.case import Case, Loss, Rank
from frameworks.common.margin import held_classes
from frameworks.common.sampling import HostSampler
from frameworks.mxnet.head import MarginSoftmax, margin_logits
from frameworks.mxnet.optimizer import make_optimizer
from frameworks.mxnet.parallel import NDArrays, Ranks


class ShardedMarginSoftmax:
    """The classifier of the process's own devices, with a shard on each."""

    def __init__(self, case: Case, rank: Rank, ranks: Ranks, weight: np.ndarray) -> None:
        """Take the weights of the classes that the process holds, float32 [held, E]."""
        self._ranks, self._batch = ranks, case.batch_size_per_device
        self._first_row = rank.rank * self._batch
        each = [rank._replace(rank=rank.rank + number, devices=1) for number in range(rank.devices)]
        held, first = [held_classes(case, own) for own in each], held_classes(case, rank).start
        rows = [
            mx.nd.array(weight[own.start - first : own.stop - first], ctx=device)
            for own, device in zip(held, ranks.devices)
        ]
        self.shards = [self._shard(case, *parts) for parts in zip(each, held, rows)]

    def _shard(self, case: Case, _rank: Rank, held: range, weight: mx.nd.NDArray) -> "_Shard":
        return _Shard(case, held, weight, rows=weight)

    def gradients(self, embeddings: NDArrays, labels: np.ndarray) -> Tuple[mx.nd.NDArray, NDArrays]:
        """Queue forward and backward pass of embeddings float32 [B, E] per device, and labels int [D B].

        Returns:
            The loss float32 [1], the mean over the global batch, and its gradients by the embeddings.

        Raises:
            ValueError: with Partial FC, the labels name more classes of a device than it samples.
        """
        all_labels = self._ranks.gather_labels(labels)
        features = [shard.features for shard in self.shards]
        self._ranks.gather(embeddings, features, "embeddings")
        own_labels = [shard.own_labels(all_labels) for shard in self.shards]
        with mx.autograd.record():
            logits = [shard.logits(labels) for shard, labels in zip(self.shards, own_labels)]
        loss, by_logits = self._softmax(logits, own_labels)
        mx.autograd.backward(logits, by_logits)
        by_features = self._ranks.total([array.grad for array in features], "by_embeddings")
        starts = range(self._first_row, self._first_row + len(self.shards) * self._batch, self._batch)
        own = [whole[start : start + self._batch] for whole, start in zip(by_features, starts)]
        return loss, own

    def _softmax(self, logits: NDArrays, labels: NDArrays) -> Tuple[mx.nd.NDArray, NDArrays]:
        maxima = self._ranks.maximum([mx.nd.max(z, axis=1) for z in logits], "maximum")
        exponentials = [mx.nd.exp(mx.nd.broadcast_sub(z, m.reshape((-1, 1)))) for z, m in zip(logits, maxima)]
        parts = [
            mx.nd.stack(mx.nd.sum(e, axis=1), mx.nd.pick(z, own, axis=1) * (own >= 0).astype("float32"))
            for e, z, own in zip(exponentials, logits, labels)
        ]
        parts = self._ranks.total(parts, "sums")  # S and z_true, [2, R B]
        loss = mx.nd.mean(mx.nd.log(parts[0][0]) + maxima[0] - parts[0][1])
        by_logits = []
        for e, part, own in zip(exponentials, parts, labels):
            probabilities = mx.nd.broadcast_div(e, part[0].reshape((-1, 1)), out=e)
            difference = mx.nd.elemwise_sub(probabilities, mx.nd.one_hot(own, e.shape[1]), out=e)
            by_logits.append(mx.nd._internal._div_scalar(difference, scalar=len(own), out=e))  # noqa: SLF001
        return loss, by_logits

    def update(self, rate: float) -> None:
        """Queue the update by the last gradients."""
        for shard in self.shards:
            shard.update(rate)


class SampledMarginSoftmax(ShardedMarginSoftmax):
    """The same over the rows of a sample per device; no other row is touched."""

    def _shard(self, case: Case, rank: Rank, held: range, weight: mx.nd.NDArray) -> "_Shard":
        return _SampledShard(case, held, weight, HostSampler(case, rank))


def make_head(
    case: Case, rank: Rank, ranks: Ranks, weight: np.ndarray
) -> Union[MarginSoftmax, ShardedMarginSoftmax]:
    """The case's classifier; only one that is split takes `weight` here, float32 [held, E]."""
    if case.parallelism == "data":
        return MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
    head = SampledMarginSoftmax if case.parallelism == "partial_fc" else ShardedMarginSoftmax
    return head(case, rank, ranks, weight)


class _ShardLogits(HybridBlock):
    """Embeddings float32 [R B, E], labels int32 [R B], class weights [C_r, E] -> logits [R B, C_r].

    A label is the number of a row of the weights, or -1 if another device has its class.
    """

    def __init__(self, loss: Loss, classes: int) -> None:
        super().__init__(prefix="")
        self._loss, self._classes = loss, classes

    def hybrid_forward(self, F: Any, embeddings: Any, labels: Any, weight: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        return margin_logits(F, self._loss, embeddings, weight, labels=labels, classes=self._classes)


class _Shard:
    """The classes of one device, all trained in each step."""

    def __init__(self, case: Case, held: range, weight: mx.nd.NDArray, *, rows: mx.nd.NDArray) -> None:
        """Take the weights float32 [C_r, E] of the classes `held`, and the rows that a step trains."""
        self.weight, self._held, self._context, self._rows = weight, held, weight.context, rows
        self._rows.attach_grad()
        self._block = _ShardLogits(case.loss, len(rows))
        self._block.hybridize(static_alloc=True, static_shape=True)
        self._optimizer = make_optimizer(case.optimizer)
        self.momentum: Optional[mx.nd.NDArray] = self._optimizer.create_state(0, weight)
        shape = (case.global_batch_size, case.embedding_size)
        self.features = mx.nd.empty(shape, ctx=self._context)
        self.features.attach_grad()

    def own_labels(self, labels: mx.nd.NDArray) -> mx.nd.NDArray:
        """Labels of the global batch, int32 [R B] in host memory -> rows of this device, or -1."""
        own = labels.as_in_context(self._context) - self._held.start
        inside = (own >= 0) * (own < len(self._held))
        return own * inside + (inside - 1)

    def logits(self, own_labels: mx.nd.NDArray) -> mx.nd.NDArray:
        """The margin logits of `features` [R B, E] with the rows that are trained."""
        return self._block(self.features, own_labels, self._rows)

    def update(self, rate: float) -> None:
        """Queue SGD on the rows that are trained."""
        self._optimizer.set_learning_rate(rate)
        self._optimizer.update_multi_precision([0], [self._rows], [self._rows.grad], [self.momentum])

    def gradient(self) -> np.ndarray:
        """Of the last step, float32 [C_r, E]."""
        return self._rows.grad.asnumpy()


class _SampledShard(_Shard):
    """The classes of one device, of which each step trains a sample (`frameworks/common/sampling.py`)."""

    def __init__(self, case: Case, held: range, weight: mx.nd.NDArray, sampler: HostSampler) -> None:
        """Take the weights float32 [C_r, E] of the classes `held`, and what draws the device's samples."""
        rows = mx.nd.empty((sampler.size, case.embedding_size), ctx=weight.context)
        super().__init__(case, held, weight, rows=rows)
        self._sampler = sampler
        self._index: Optional[mx.nd.NDArray] = None

    def own_labels(self, labels: mx.nd.NDArray) -> mx.nd.NDArray:
        """Draw the sample, which needs the labels on the host; the labels' places in it, or -1."""
        on_host = labels.asnumpy()
        index = self._sampler.sample(on_host)
        self._index = mx.nd.array(index, ctx=self._context, dtype="int64")
        mx.nd.take(self.weight, self._index, out=self._rows)
        return mx.nd.array(self._sampler.places(on_host, index), ctx=self._context, dtype="int32")

    def update(self, rate: float) -> None:
        """Queue SGD on only the sampled rows and their momentum, and write both back."""
        momentum = None if self.momentum is None else mx.nd.take(self.momentum, self._index)
        self._optimizer.set_learning_rate(rate)
        self._optimizer.update_multi_precision([0], [self._rows], [self._rows.grad], [momentum])
        self._write(self.weight, self._rows)
        if momentum is not None:
            self._write(self.momentum, momentum)

    def _write(self, whole: mx.nd.NDArray, rows: mx.nd.NDArray) -> None:
        index = self._index.reshape((1, -1))
        mx.nd._internal._scatter_set_nd(whole, rows, index, shape=whole.shape, out=whole)  # noqa: SLF001

    def gradient(self) -> np.ndarray:
        """Of the last step, float32 [C_r, E]; 0 in rows that were not sampled."""
        whole = np.zeros(self.weight.shape, np.float32)
        whole[self._index.asnumpy()] = self._rows.grad.asnumpy()
        return whole
