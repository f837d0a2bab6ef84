"""Train a case with MXNet: hybridized Gluon, one graph from the uint8 images to the loss."""

import time
from typing import Any, Dict, List, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, Parameter

from frameworks.common import program
from frameworks.common.case import Case, Rank, rank_from_environment
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.margin import held_classes
from frameworks.common.networks import layers_of, parameters
from frameworks.common.phases import DATA, FORWARD_BACKWARD, OPTIMIZER, Phases
from frameworks.common.schedule import learning_rate
from frameworks.mxnet.head import MarginSoftmax
from frameworks.mxnet.network import build_network, named_parameters
from frameworks.mxnet.optimizer import make_optimizer


class TrainingGraph(HybridBlock):
    """Images uint8 [B, 3, 112, 112] and labels int32 [B] -> loss float32 [1], embeddings float32 [B, E]."""

    def __init__(self, network: HybridBlock, head: HybridBlock) -> None:
        super().__init__(prefix="")
        self.network, self.head = network, head

    def hybrid_forward(self, F: Any, images: Any, labels: Any) -> Any:
        """Gluon calls this with F = mx.nd or mx.sym."""
        embeddings = self.network((F.cast(images, "float32") - 127.5) / 128)
        return self.head(embeddings, labels), F.stop_gradient(embeddings)


class PendingStep:
    """A step in the engine's queue; `token` starts with its loss and is written once all its updates are."""

    def __init__(self, token: Any) -> None:
        self._token = token

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss."""
        return float(self._token.asnumpy()[0])

    def seconds_since(self, previous: "Optional[PendingStep]") -> Optional[float]:  # noqa: ARG002
        """None: MXNet has no device events, the loop takes the host's clock."""
        return None


class MXNetTrainer:
    """`Trainer` of frameworks/common/loop.py on one device."""

    def __init__(self, case: Case, arrays: Dict[str, np.ndarray]) -> None:
        """Build the case's graph; `arrays` holds every parameter and buffer by the table's name."""
        mx.random.seed(case.seed)  # dropout
        self._schedule, self._context = case.schedule, context(case)
        self.phases = Phases(mx.nd.waitall)
        layers = layers_of(case)
        network = build_network(layers, prelu_form(case))
        self._graph = TrainingGraph(network, MarginSoftmax(case.loss, case.num_classes, case.embedding_size))
        self.arrays = named_parameters(self._graph)
        _load(self.arrays, arrays, self._context)
        self._graph.hybridize(static_alloc=True, static_shape=True)
        specs = parameters(layers)
        for spec in specs:
            self.arrays[spec.name].wd_mult = 0.0 if spec.kind in case.optimizer.no_decay else 1.0
        self.trained = {name: self.arrays[name] for name in (*(spec.name for spec in specs), CLASSIFIER)}
        trained = list(self.trained.values())
        self._optimizer = mx.gluon.Trainer(trained, make_optimizer(case.optimizer), kvstore=None)
        # One element of every trained array, as views: to the engine they are the arrays themselves.
        self._corners = [parameter.data().reshape((-1,))[0:1] for parameter in trained]

    def start_window(self) -> None:
        """Wait for everything in the engine's queue."""
        mx.nd.waitall()

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Queue forward pass, backward pass and update."""
        loss, _ = self.forward_backward(batch)
        return self.update(loss, iteration)

    def forward_backward(self, batch: Batch) -> List[mx.nd.NDArray]:
        """Queue both passes; loss float32 [1], embeddings float32 [B, E]. The gradients are in `trained`."""
        with self.phases(DATA):
            images = mx.nd.array(batch[0], ctx=self._context, dtype="uint8")
            labels = mx.nd.array(batch[1], ctx=self._context, dtype="int32")
        with self.phases(FORWARD_BACKWARD):
            with mx.autograd.record():
                loss, embeddings = self._graph(images, labels)
            loss.backward()
        return [loss, embeddings]

    def update(self, loss: mx.nd.NDArray, iteration: int) -> PendingStep:
        """Queue the update by the last gradients."""
        with self.phases(OPTIMIZER):
            self._optimizer.set_learning_rate(learning_rate(self._schedule, iteration))
            self._optimizer.step(1)  # the loss is the batch's mean already
        # The engine runs what is queued in any order that respects who reads and writes which array. This
        # read of every trained array comes behind all updates of this step and before those of the next one,
        # which may be queued before anyone waits: waiting for the arrays themselves would wait for that one.
        return PendingStep(mx.nd.concat(loss, *self._corners, dim=0))


def _load(named: Dict[str, Parameter], arrays: Dict[str, np.ndarray], device: mx.Context) -> None:
    for name, parameter in named.items():
        # Only the gammas that are fixed at 1 are not in the table.
        parameter.initialize(mx.init.Zero() if name in arrays else mx.init.One(), ctx=device)
        if name in arrays:
            parameter.set_data(mx.nd.array(arrays[name], dtype="float32"))


def prelu_form(case: Case) -> str:
    """The option `prelu`, else what is fast on the case's device."""
    return case.options.get("prelu", "convolution" if case.device == "cpu" else "broadcast")


def context(case: Case) -> mx.Context:
    """The device that this rank drives."""
    return mx.gpu(rank_from_environment().local_rank) if case.device == "cuda" else mx.cpu(0)


def make_trainer(case: Case, rank: Rank) -> MXNetTrainer:
    """The trainer of a case; ValueError for what is not built yet."""
    if rank.world_size != 1 or case.parallelism != "data" or case.precision != "fp32":
        raise ValueError("the MXNet program trains on one device, data parallel, in fp32")
    return MXNetTrainer(case, initial_arrays(case, held_classes(case, rank)))


def facts(case: Case) -> Dict[str, Any]:
    """The engine as it runs: version, device, threads that its OpenMP would take, features built in."""
    features = mx.runtime.Features()
    return {
        "version": mx.__version__,
        "device": str(context(case)),
        # MXNet has no call for it; its library's own OpenMP answers.
        "threads": mx.base._LIB.omp_get_max_threads(),  # noqa: SLF001
        "features": sorted(name for name in features if features.is_enabled(name)),
        "prelu": prelu_form(case),
    }


def matmul_flops_per_second(case: Case) -> float:
    """The best of some products of two square float32 matrices, n = 2048 on CPU and 8192 on a GPU.

    The matrices are gone from the device before training, so that its peak memory is the training's own.
    """
    rate = _best_product(case)
    if case.device == "cuda":
        mx.nd.waitall()
        context(case).empty_cache()
    return rate


def _best_product(case: Case) -> float:
    size, repeats = (2048, 5) if case.device == "cpu" else (8192, 20)
    left = mx.nd.random.uniform(shape=(size, size), ctx=context(case))
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        mx.nd.waitall()
        start = time.perf_counter()
        mx.nd.dot(left, left).wait_to_read()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def peak_device_bytes(case: Case) -> Optional[int]:
    """What the device's memory pool took, which it keeps until the end; None on CPU."""
    if case.device == "cpu":
        return None
    free, total = mx.context.gpu_memory_info(context(case).device_id)
    return total - free


if __name__ == "__main__":
    program.run(make_trainer, facts, matmul_flops_per_second, peak_device_bytes)
