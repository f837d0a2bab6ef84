"""Train a case with MXNet: hybridized Gluon, one graph from the images to the embeddings or the loss."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.loop import HostTimed
from frameworks.common.margin import held_classes
from frameworks.common.networks import layers_of, parameters
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER
from frameworks.common.schedule import learning_rate
from frameworks.mxnet.data import MXNetReader
from frameworks.mxnet.head_sharded import ShardedMarginSoftmax, make_head
from frameworks.mxnet.model import make_module
from frameworks.mxnet.network import named_arrays
from frameworks.mxnet.optimizer import make_optimizer
from frameworks.mxnet.parallel import ExchangeTimes, NDArrays, Ranks, join
from frameworks.mxnet.precision import make_scaler
from frameworks.mxnet.settings import facts, matmul_flops_per_second

# The operator `multi_all_finite` has room for so many arrays. It does not check: more overwrite its memory.
_MOST_ARRAYS = 200


class PendingStep(HostTimed):
    """A step in the engine's queue; its tokens are written after its updates, the first holds the loss."""

    def __init__(self, tokens: NDArrays, exchanges: Optional[ExchangeTimes]) -> None:
        self._tokens, self._exchanges = tokens, exchanges

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss."""
        first, *_ = [token.asnumpy() for token in self._tokens]
        return float(first[0])

    def exchange_seconds(self) -> Optional[float]:
        """By the engine's own order of operations."""
        return None if self._exchanges is None else self._exchanges.seconds()


class MXNetTrainer:
    """`Trainer` of frameworks/common/loop.py on the devices of this process, nearly always one."""

    def __init__(self, case: Case, rank: Rank, ranks: Ranks, arrays: Dict[str, np.ndarray]) -> None:
        """Build the case's graph; `arrays` holds every parameter and buffer by the table's name.

        The classifier in it has only the rows of the process's own classes.
        """
        mx.random.seed(case.seed + rank.rank)  # dropout, different on each device
        self.phases = ranks.phases
        self._schedule, self._ranks, self._world_size = case.schedule, ranks, case.world_size
        self._scaler = make_scaler(case)
        head = make_head(case, rank, ranks, arrays[CLASSIFIER])
        self._module = make_module(case, ranks, arrays, head)
        self.head: Optional[ShardedMarginSoftmax] = head if case.parallelism != "data" else None
        self.arrays = named_arrays(self._module)
        # What is the same on all devices: without the classifier if that is split.
        names = (*(spec.name for spec in parameters(layers_of(case))), CLASSIFIER)
        self.trained = {name: self.arrays[name] for name in names if name in self.arrays}
        self._trained = list(self.trained.values())
        self._optimizer = mx.gluon.Trainer(
            self._trained, make_optimizer(case.optimizer), kvstore=ranks.kvstore, update_on_kvstore=False
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

    def forward_backward(self, batch: Batch) -> Tuple[mx.nd.NDArray, NDArrays]:
        """Queue both passes: the global batch's loss, float32 [1], and the embeddings [B, E] per device.

        The gradients, times the loss scale, are in `trained` and in the head; those of the network are summed
        over all devices.
        """
        with self.phases(DATA):
            images = self._on_devices(batch[0], "uint8")
        with self.phases(FORWARD_BACKWARD):
            if self.head is None:
                passes = self._whole_head(images, batch[1])
            else:
                passes = self._split_head(self.head, images, batch[1])
        self._ranks.total_gradients(self._optimizer, self._trained)
        return passes

    def _whole_head(self, images: NDArrays, labels: np.ndarray) -> Tuple[mx.nd.NDArray, NDArrays]:
        with self.phases(DATA):
            own_labels = self._on_devices(labels, "int32")
        with mx.autograd.record():
            outputs = [self._module(*inputs) for inputs in zip(images, own_labels)]
        losses = [loss for loss, _ in outputs]
        # Added over the devices, the gradients are those of the mean over all of them.
        seed = self._scaler.factor / self._world_size
        mx.autograd.backward(losses, [mx.nd.full(1, seed, ctx=loss.context) for loss in losses])
        totals = self._ranks.total([loss / self._world_size for loss in losses], "loss")
        return totals[0], [embeddings for _, embeddings in outputs]

    def _split_head(
        self, head: ShardedMarginSoftmax, images: NDArrays, labels: np.ndarray
    ) -> Tuple[mx.nd.NDArray, NDArrays]:
        with mx.autograd.record():
            embeddings = [self._module(array) for array in images]
        loss, by_embeddings = head.gradients(embeddings, labels)
        mx.autograd.backward(embeddings, [gradient * self._scaler.factor for gradient in by_embeddings])
        return loss, embeddings

    def _on_devices(self, array: np.ndarray, dtype: str) -> NDArrays:
        shares = np.split(array, len(self._ranks.devices))
        return [mx.nd.array(share, ctx=c, dtype=dtype) for share, c in zip(shares, self._ranks.devices)]

    def update(self, loss: mx.nd.NDArray, iteration: int) -> PendingStep:
        """Queue the update by the last gradients; with a dynamic loss scale, none if they overflowed."""
        with self.phases(OPTIMIZER):
            rate, factor = learning_rate(self._schedule, iteration), self._scaler.factor
            if not self._scaler.overflowed(self._trained):
                self._optimizer.set_learning_rate(rate)
                self._optimizer.update(factor)
                if self.head is not None:
                    self.head.update(rate)
        # The engine runs what is queued in any order that respects who reads and writes which array. The next
        # step may be queued before anyone waits, so waiting for the arrays themselves would wait for it too.
        # This read of every trained array comes after all updates of this step and before those of the next.
        tokens = [_token(corners) for corners in self._corners]
        return PendingStep([mx.nd.concat(loss, tokens[0], dim=0), *tokens[1:]], self._ranks.exchanges())


def _token(corners: NDArrays) -> mx.nd.NDArray:
    """An array float32 [1] that the engine writes once it may read all of `corners`, of one device and dtype.

    What it holds does not matter. On a GPU one kernel checks up to 200 arrays for infinities and NaNs;
    `concat` and `add_n` would start a kernel for each.
    """
    token = None
    for first in range(0, len(corners), _MOST_ARRAYS):
        some = corners[first : first + _MOST_ARRAYS]
        token = mx.nd.multi_all_finite(*some, num_arrays=len(some), init_output=first == 0, out=token)
    return token


def _corners(arrays: NDArrays) -> List[NDArrays]:
    """A view of one element of every array, by device and dtype; to the engine it is the array itself."""
    found: Dict[Any, NDArrays] = {}
    for array in arrays:
        found.setdefault((str(array.context), str(array.dtype)), []).append(array.reshape((-1,))[0:1])
    return [found[key] for key in sorted(found, key=lambda key: "float32" not in key[1])]


def make_trainer(case: Case, rank: Rank, _batches: Sequence[Batch] = ()) -> MXNetTrainer:
    """A trainer with the initial weights of the case's seed, after its processes have met."""
    ranks = join(case, rank)
    return MXNetTrainer(case, rank, ranks, initial_arrays(case, held_classes(case, rank)))


if __name__ == "__main__":
    program.run(make_trainer, facts, matmul_flops_per_second, open_reader=MXNetReader)
