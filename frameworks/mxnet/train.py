"""Train a case with MXNet: hybridized Gluon, one graph from the images to the embeddings or the loss."""

from typing import Any, Dict, List, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, Parameter

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.margin import held_classes
from frameworks.common.networks import layers_of, parameters
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER
from frameworks.common.schedule import learning_rate
from frameworks.mxnet.engine import facts, matmul_flops_per_second, peak_device_bytes, prelu_form
from frameworks.mxnet.head import MarginSoftmax
from frameworks.mxnet.head_sharded import ShardedHead
from frameworks.mxnet.network import build_network, named_parameters
from frameworks.mxnet.optimizer import make_optimizer
from frameworks.mxnet.parallel import Devices, NDArrays, make_group
from frameworks.mxnet.precision import loss_scale


class EmbeddingGraph(HybridBlock):
    """Images uint8 [B, 3, 112, 112] -> embeddings float32 [B, E]; the network computes in `dtype`."""

    def __init__(self, network: HybridBlock, dtype: str) -> None:
        super().__init__(prefix="")
        self.network, self._dtype = network, dtype

    def hybrid_forward(self, F: Any, images: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        scaled = (F.cast(images, "float32") - 127.5) / 128
        if self._dtype == "float32":
            return self.network(scaled)
        return F.cast(self.network(F.cast(scaled, self._dtype)), "float32")


class LossGraph(HybridBlock):
    """Images and labels int32 [B] -> loss float32 [1] and embeddings, through which no gradient goes back."""

    def __init__(self, embedding: HybridBlock, head: HybridBlock) -> None:
        super().__init__(prefix="")
        self.embedding, self.head = embedding, head

    def hybrid_forward(self, F: Any, images: Any, labels: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        embeddings = self.embedding(images)
        return self.head(embeddings, labels), F.stop_gradient(embeddings)


class Passes(NamedTuple):
    """The loss float32 [1], the mean over the global batch, and the embeddings float32 [B, E] a device."""

    loss: mx.nd.NDArray
    embeddings: NDArrays


class PendingStep:
    """A step in the engine's queue; its tokens are written once its updates are, the first has the loss."""

    def __init__(self, tokens: NDArrays) -> None:
        self._tokens = tokens

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss."""
        first, *_ = [token.asnumpy() for token in self._tokens]
        return float(first[0])

    def seconds_since(self, previous: "Optional[PendingStep]") -> Optional[float]:  # noqa: ARG002
        """None: MXNet has no device events, the loop takes the host's clock."""
        return None


class MXNetTrainer:
    """`Trainer` of frameworks/common/loop.py on the devices of this process, nearly always one."""

    def __init__(self, case: Case, rank: Rank, group: Devices, arrays: Dict[str, np.ndarray]) -> None:
        """Build the case's graphs; `arrays` holds every parameter and buffer by the table's name.

        Of the classifier it holds the rows of the process's own classes.
        """
        mx.random.seed(case.seed + rank.rank)  # dropout, of each device its own
        self.phases = group.phases
        self._schedule, self._group, self._world_size = case.schedule, group, case.world_size
        self._scale = loss_scale(case)
        layers = layers_of(case)
        network = build_network(layers, prelu_form(case))
        self._graph: HybridBlock = EmbeddingGraph(
            network, "float16" if case.precision == "fp16" else "float32"
        )
        self.head: Optional[ShardedHead] = None
        if case.parallelism == "data":
            head = MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
            self._graph = LossGraph(self._graph, head)
        else:
            self.head = ShardedHead(case, rank, group, arrays[CLASSIFIER])
        self.arrays = named_parameters(self._graph)
        _load(self.arrays, arrays, group.devices)
        if case.precision == "fp16":
            network.cast("float16")  # but for its BatchNorms
        self._graph.hybridize(static_alloc=True, static_shape=True)
        specs = parameters(layers)
        for spec in specs:
            self.arrays[spec.name].wd_mult = 0.0 if spec.kind in case.optimizer.no_decay else 1.0
        # What is the same on all devices: without the classifier where that is split.
        self.trained = {
            name: self.arrays[name] for name in (*(s.name for s in specs), CLASSIFIER) if name in self.arrays
        }
        self._trained = list(self.trained.values())
        self._optimizer = mx.gluon.Trainer(
            self._trained, make_optimizer(case.optimizer), kvstore=group.kvstore, update_on_kvstore=False
        )
        shards = [] if self.head is None else [shard.weight for shard in self.head.shards]
        copies = [array for parameter in self._trained for array in parameter.list_data()]
        self._corners = _corners([*copies, *shards])

    def start_window(self) -> None:
        """Wait for everything in the engine's queue."""
        mx.nd.waitall()

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Queue forward pass, backward pass and update."""
        loss, _ = self.forward_backward(batch)
        return self.update(loss, iteration)

    def forward_backward(self, batch: Batch) -> Passes:
        """Queue both passes and the reduction over all devices.

        The gradients, times the loss scale, are in `trained` and in the head.
        """
        with self.phases(DATA):
            images = self._on_devices(batch[0], "uint8")
        with self.phases(FORWARD_BACKWARD):
            if self.head is None:
                passes = self._whole_head(images, batch[1])
            else:
                passes = self._split_head(self.head, images, batch[1])
        self._group.total_gradients(self._optimizer, self._trained)
        return passes

    def _whole_head(self, images: NDArrays, labels: np.ndarray) -> Passes:
        with self.phases(DATA):
            own_labels = self._on_devices(labels, "int32")
        with mx.autograd.record():
            made = [self._graph(*inputs) for inputs in zip(images, own_labels)]
        losses = [loss for loss, _ in made]
        # The gradient of the mean over all devices, once they are added.
        seed = self._scale.factor / self._world_size
        mx.autograd.backward(losses, [mx.nd.full(1, seed, ctx=loss.context) for loss in losses])
        totals = self._group.total([loss / self._world_size for loss in losses], "loss")
        return Passes(totals[0], [embeddings for _, embeddings in made])

    def _split_head(self, head: ShardedHead, images: NDArrays, labels: np.ndarray) -> Passes:
        with mx.autograd.record():
            embeddings = [self._graph(array) for array in images]
        loss, by_embeddings = head.gradients(embeddings, labels)
        mx.autograd.backward(embeddings, [gradient * self._scale.factor for gradient in by_embeddings])
        return Passes(loss, embeddings)

    def _on_devices(self, array: np.ndarray, dtype: str) -> NDArrays:
        shares = np.split(array, len(self._group.devices))
        return [mx.nd.array(share, ctx=c, dtype=dtype) for share, c in zip(shares, self._group.devices)]

    def update(self, loss: mx.nd.NDArray, iteration: int) -> PendingStep:
        """Queue the update by the last gradients; with a dynamic loss scale, none where they overflowed."""
        with self.phases(OPTIMIZER):
            rate, factor = learning_rate(self._schedule, iteration), self._scale.factor
            if not self._scale.overflowed(self._trained):
                self._optimizer.set_learning_rate(rate)
                self._optimizer.update(factor)
                if self.head is not None:
                    self.head.update(rate)
        # The engine runs what is queued in any order that respects who reads and writes which array. This
        # read of every trained array comes behind all updates of this step and before those of the next one,
        # which may be queued before anyone waits: waiting for the arrays themselves would wait for that one.
        tokens = [mx.nd.concat(*corners, dim=0) for corners in self._corners]
        return PendingStep([mx.nd.concat(loss, tokens[0], dim=0), *tokens[1:]])


def _corners(arrays: NDArrays) -> List[NDArrays]:
    """One element of every array, by device and type, as views: to the engine the arrays themselves."""
    found: Dict[Any, NDArrays] = {}
    for array in arrays:
        found.setdefault((str(array.context), str(array.dtype)), []).append(array.reshape((-1,))[0:1])
    return [found[key] for key in sorted(found, key=lambda key: "float32" not in key[1])]


def _load(named: Dict[str, Parameter], arrays: Dict[str, np.ndarray], devices: List[mx.Context]) -> None:
    for name, parameter in named.items():
        # Only the gammas that are fixed at 1 are not in the table.
        parameter.initialize(mx.init.Zero() if name in arrays else mx.init.One(), ctx=devices)
        if name in arrays:
            parameter.set_data(mx.nd.array(arrays[name], dtype="float32"))


def make_trainer(case: Case, rank: Rank) -> MXNetTrainer:
    """The trainer of a case, its processes joined."""
    group = make_group(case, rank)
    return MXNetTrainer(case, rank, group, initial_arrays(case, held_classes(case, rank)))


if __name__ == "__main__":
    program.run(make_trainer, facts, matmul_flops_per_second, peak_device_bytes)
