"""The margin softmax classifier with its classes split over the devices: model parallel and Partial FC.

As InsightFace's trainers for MXNet do it: the margin and the norms go through autograd; the softmax, whose
sums come from all devices, is written out (An et al., arXiv:2010.05222, section 3). With R B samples in the
global batch and logits z [R B, C_r] on each device:

    m = max over all classes,  S = sum over all classes of exp(z - m)
    loss = mean of log S + m - z_true,  d loss / d z = (exp(z - m) / S - one_hot) / (R B)
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from frameworks.common.case import Case, Loss, Rank
from frameworks.common.margin import class_range
from frameworks.common.sampling import sample_size, sampled_classes, sampling_stream
from frameworks.mxnet.head import margin_logits
from frameworks.mxnet.optimizer import make_optimizer
from frameworks.mxnet.parallel import Devices


class ShardLogits(HybridBlock):
    """Embeddings float32 [R B, E], labels int32 [R B], class weights [C_r, E] -> logits [R B, C_r].

    A label is the number of a row of the weights, or -1 where its class is another device's.
    """

    def __init__(self, loss: Loss, classes: int) -> None:
        super().__init__(prefix="")
        self._loss, self._classes = loss, classes

    def hybrid_forward(self, F: Any, embeddings: Any, labels: Any, weight: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        return margin_logits(F, embeddings, labels, weight, loss=self._loss, classes=self._classes)


class Gradients(NamedTuple):
    """The loss float32 [1], the mean over the global batch, and its gradients by embeddings [B, E]."""

    loss: mx.nd.NDArray
    embeddings: List[mx.nd.NDArray]


class ShardedHead:
    """The shards of the process's own devices."""

    def __init__(self, case: Case, rank: Rank, group: Devices, weight: np.ndarray) -> None:
        """Take the weights of the classes that the process holds, float32 [held, E]."""
        self._group = group
        self._first_row = rank.rank * case.batch_size_per_device
        self._batch = case.batch_size_per_device
        ranks = range(rank.rank, rank.rank + rank.devices)
        ranges = [range(*class_range(case.num_classes, case.world_size, number)) for number in ranks]
        first = ranges[0].start
        rows = [
            mx.nd.array(weight[held.start - first : held.stop - first], ctx=device)
            for held, device in zip(ranges, group.devices)
        ]
        if case.parallelism == "partial_fc":
            self.shards = [PartialShard(case, *shard) for shard in zip(ranges, rows, ranks)]
        else:
            self.shards = [Shard(case, *shard) for shard in zip(ranges, rows)]

    def gradients(self, embeddings: List[mx.nd.NDArray], labels: np.ndarray) -> Gradients:
        """Queue forward and backward pass of embeddings float32 [B, E] a device; labels int [D B].

        Raises:
            ValueError: with Partial FC, the labels name more classes of a device than it samples.
        """
        all_labels = self._group.gather_labels(labels)
        features = [shard.features for shard in self.shards]
        self._group.gather(embeddings, features, "embeddings")
        own_labels = [shard.own_labels(all_labels) for shard in self.shards]
        with mx.autograd.record():
            logits = [shard.logits(labels) for shard, labels in zip(self.shards, own_labels)]
        loss, by_logits = self._softmax(logits, own_labels)
        mx.autograd.backward(logits, by_logits)
        by_features = self._group.total([array.grad for array in features], "by_embeddings")
        starts = range(self._first_row, self._first_row + len(self.shards) * self._batch, self._batch)
        own = [whole[start : start + self._batch] for whole, start in zip(by_features, starts)]
        return Gradients(loss, own)

    def _softmax(
        self, logits: List[mx.nd.NDArray], labels: List[mx.nd.NDArray]
    ) -> Tuple[mx.nd.NDArray, List[mx.nd.NDArray]]:
        maxima = self._group.maximum([mx.nd.max(z, axis=1) for z in logits], "maximum")
        exponentials = [mx.nd.exp(mx.nd.broadcast_sub(z, m.reshape((-1, 1)))) for z, m in zip(logits, maxima)]
        parts = [
            mx.nd.stack(mx.nd.sum(e, axis=1), mx.nd.pick(z, own, axis=1) * (own >= 0).astype("float32"))
            for e, z, own in zip(exponentials, logits, labels)
        ]
        parts = self._group.total(parts, "sums")  # S and z_true, [2, R B]
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


class Shard:
    """The classes of one device, all trained in each step."""

    def __init__(self, case: Case, held: range, weight: mx.nd.NDArray) -> None:
        """Take the weights float32 [C_r, E] of the classes `held`."""
        self._set_up(case, held, weight, rows=weight)

    def _set_up(self, case: Case, held: range, weight: mx.nd.NDArray, *, rows: mx.nd.NDArray) -> None:
        self.weight, self._held, self._context, self._rows = weight, held, weight.context, rows
        self._rows.attach_grad()
        self._block = ShardLogits(case.loss, len(rows))
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


class PartialShard(Shard):
    """The classes of one device, of which each step trains a sample (`frameworks/common/sampling.py`)."""

    def __init__(self, case: Case, held: range, weight: mx.nd.NDArray, rank: int) -> None:
        """Take the weights float32 [C_r, E] of the classes `held`, and the device's rank."""
        self._size, self._stream = sample_size(case, rank), sampling_stream(case, rank)
        self._index: Optional[mx.nd.NDArray] = None
        rows = mx.nd.empty((self._size, case.embedding_size), ctx=weight.context)
        self._set_up(case, held, weight, rows=rows)

    def own_labels(self, labels: mx.nd.NDArray) -> mx.nd.NDArray:
        """Draw the sample, which needs the labels on the host; the labels' places in it, or -1."""
        on_host = labels.asnumpy()
        index = sampled_classes(on_host, self._held, self._size, self._stream)
        places = np.searchsorted(index, on_host - self._held.start).clip(max=self._size - 1)
        found = index[places] == on_host - self._held.start
        self._index = mx.nd.array(index, ctx=self._context, dtype="int64")
        mx.nd.take(self.weight, self._index, out=self._rows)
        return mx.nd.array(np.where(found, places, -1), ctx=self._context, dtype="int32")

    def update(self, rate: float) -> None:
        """Queue SGD on the sampled rows and on their momentum alone, and write both back."""
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
        """Of the last step, float32 [C_r, E]; 0 where a row was not sampled."""
        whole = np.zeros(self.weight.shape, np.float32)
        whole[self._index.asnumpy()] = self._rows.grad.asnumpy()
        return whole
