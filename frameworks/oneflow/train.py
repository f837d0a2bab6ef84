"""Train a case with OneFlow: one nn.Graph from the uint8 images to the updated parameters, over all ranks."""

import os
import time
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common import program
from frameworks.common.case import Case, Rank, rank_from_environment
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER, initial_arrays
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE, layers_of, parameters
from frameworks.common.phases import COMMUNICATION, DATA, GRAPH, Phases
from frameworks.common.sampling import too_many_positives
from frameworks.oneflow import blas
from frameworks.oneflow.graph import TrainingGraph, TrainingModule, counted_positives
from frameworks.oneflow.head import make_head
from frameworks.oneflow.network import build_network, named_arrays
from frameworks.oneflow.optimizer import Momentum, Share, add_optimizers
from frameworks.oneflow.parallel import AS_SUM, BY_ROWS, REPLICATED, Ranks, device, end_at_once, own_part
from frameworks.oneflow.precision import network_dtype, scale_loss
from frameworks.oneflow.sampling import HostSampler, sample_sizes, samples_on_host


class PendingStep:
    """A step in the engine's queue."""

    def __init__(self, loss: Tensor, token: Tensor, positives: List[Tensor], sampled: int) -> None:
        """`positives` holds the step's count of them, where the device samples; `sampled` is its limit."""
        self._loss, self._token = loss, token
        self._positives, self._sampled = positives, sampled

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss, the mean over the global batch.

        Raises:
            ValueError: the batch named more classes of a rank than it samples.
        """
        self._token.numpy()
        for count in self._positives:
            found = int(own_part(count).numpy())
            if found > self._sampled:
                raise ValueError(too_many_positives(found, self._sampled))
        return float(own_part(self._loss).numpy())

    def seconds_since(self, previous: "Optional[PendingStep]") -> Optional[float]:  # noqa: ARG002
        """None: OneFlow shows no device events to Python, the loop takes the host's clock."""
        return None


class OneFlowTrainer:
    """`Trainer` of frameworks/common/loop.py: this rank's part of it."""

    def __init__(self, case: Case, rank: Rank, arrays: Dict[str, np.ndarray]) -> None:
        """Build and compile the case's graph.

        `arrays` holds every parameter and buffer by table name, of the classifier the classes that the rank
        holds.
        """
        flow.manual_seed(case.seed)  # dropout
        self._ranks, self._iterations = Ranks(case, rank), 0
        sizes = sample_sizes(case)
        self._sampler = HostSampler(case, rank, sizes) if samples_on_host(case) else None
        self._fewest_sampled = min(sizes)
        self.module = make_module(case, self._ranks, arrays)
        self.arrays = named_arrays(self.module)
        self.trained = {name: array for name, array in self.arrays.items() if isinstance(array, nn.Parameter)}
        self.phases = Phases(self.start_window)
        self.graph = self._compiled(case)
        self._momentum = Momentum(self.graph, case.schedule)

    def _compiled(self, case: Case) -> TrainingGraph:
        graph = TrainingGraph(self.module, counted_positives(case))
        add_optimizers(graph, case.optimizer, case.schedule, _shares(case, self.trained))
        scale_loss(graph, case)
        # Make the plan now, without running it: the first step is a step like every other.
        size = case.batch_size_per_device
        images, labels = np.zeros((size, *INPUT_SHAPE), np.uint8), np.zeros(size, np.int64)
        of_labels = [(labels, BY_ROWS)] if self._sampler is None else _spread_as(self._sampler.example())
        graph._compile(*self._inputs(images, of_labels))  # noqa: SLF001 - a call also steps
        return graph

    def start_window(self) -> None:
        """Wait for everything in the engine's queue."""
        flow._oneflow_internal.eager.Sync()  # noqa: SLF001 - OneFlow's own synchronize is for CUDA alone

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Queue forward pass, backward pass and update."""
        return self.run(batch, iteration)[0]

    def run(self, batch: Batch, iteration: int) -> Tuple[PendingStep, Tensor]:
        """Queue a step; also return this rank's embeddings, float32 [B, E]."""
        if iteration != self._iterations:  # the compiled schedule counts for itself
            raise ValueError(f"iteration {iteration} after {self._iterations} iterations")
        self._iterations += 1
        with self.phases(DATA):
            images, labels = batch
            inputs = self._inputs(images, self._of_labels(labels))
        with self.phases(GRAPH):
            self._momentum.follow(iteration)
            loss, embeddings, *positives = self.graph(*inputs)
        # The loss is there when the forward pass is done. The parameters are the graph's until its last
        # update: this copy of a small one comes after it, and before the next step, which may be queued
        # before anyone waits.
        token = own_part(self.trained["head.embedding_bn.bias"]).to(copy=True)
        return PendingStep(loss, token, positives, self._fewest_sampled), own_part(embeddings)

    def graph_names(self) -> Dict[str, str]:
        """The graph's names of the parameters, by the table's."""
        names = {id(array): "module." + name for name, array in self.module.named_parameters()}
        return {name: names[id(array)] for name, array in self.trained.items()}

    def _of_labels(self, labels: np.ndarray) -> List[Tuple[np.ndarray, Any]]:
        """What the head takes of the labels, and how it is spread."""
        if self._sampler is None:
            return [(labels, BY_ROWS)]
        with self.phases(COMMUNICATION):
            everyones = self._ranks.everyones(labels)
        return _spread_as(self._sampler.sample(everyones))

    def _inputs(self, images: np.ndarray, of_labels: List[Tuple[np.ndarray, Any]]) -> List[Tensor]:
        return [self._ranks.spread(own, sbp) for own, sbp in ((images, BY_ROWS), *of_labels)]


def _spread_as(sample: Tuple[np.ndarray, np.ndarray]) -> List[Tuple[np.ndarray, Any]]:
    """A sample's columns, of which each rank knows those of its own classes, and its index."""
    columns, index = sample
    return [(columns, AS_SUM), (index, BY_ROWS)]


def make_module(case: Case, ranks: Ranks, arrays: Dict[str, np.ndarray]) -> TrainingModule:
    """The case's module, spread over the ranks, holding the values of `arrays`."""
    network = build_network(layers_of(case))
    with flow.no_grad():
        for name, tensor in named_arrays(network).items():
            tensor.copy_(flow.tensor(arrays[name]))
    network = network.to(ranks.device).to_global(placement=ranks.placement, sbp=REPLICATED)
    # A copy: on a CPU a tensor lives in the memory of its array, and training would write into the caller's.
    own = arrays[CLASSIFIER].copy()
    weight = ranks.spread(own, REPLICATED if case.parallelism == "data" else BY_ROWS)
    return TrainingModule(network, make_head(case, weight, sample_sizes(case)), network_dtype(case))


def _shares(case: Case, trained: Dict[str, Tensor]) -> List[Share]:
    """The parameters by what the optimizer does with them."""
    kinds = {spec.name: spec.kind for spec in parameters(layers_of(case))}
    spared = [name for name, kind in kinds.items() if kind in case.optimizer.no_decay]
    sampled = [CLASSIFIER] if case.parallelism == "partial_fc" else []
    decayed = [name for name in trained if name not in (*spared, *sampled)]
    decay = case.optimizer.weight_decay
    return [
        Share([trained[name] for name in decayed], decay),
        Share([trained[name] for name in spared], 0.0),
        Share([trained[name] for name in sampled], decay, sparse=True),
    ]


def make_trainer(case: Case, rank: Rank) -> OneFlowTrainer:
    """A trainer with the initial weights of the case's seed."""
    return OneFlowTrainer(case, rank, initial_arrays(case, held_classes(case, rank)))


def facts(case: Case) -> Dict[str, Any]:
    """What runs: version, device, threads of OneFlow's own pool, and the options in effect."""
    found: Dict[str, Any] = {
        "version": flow.__version__,
        "device": str(device(case, rank_from_environment())),
        # OneFlow has no call for it; it takes this variable, else all processors.
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }
    if case.device == "cpu":
        return {**found, "openblas_core": os.environ.get(blas.CORE, "detected"), "blas_threads": 1}
    tf32 = os.environ.get("ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION", "1")
    return {**found, "fp32_precision": "ieee" if tf32 == "0" else "tf32"}


def matmul_flops_per_second(case: Case) -> float:
    """The best of some products of two square float32 matrices, n = 2048 on CPU and 8192 on a GPU.

    The matrices are gone from the device before training, so that its peak memory is the training's own.
    """
    rate = _best_product(case)
    if case.device == "cuda":
        flow.cuda.empty_cache()
    return rate


def _best_product(case: Case) -> float:
    size, repeats = (2048, 5) if case.device == "cpu" else (8192, 20)
    left = flow.rand(size, size, device=device(case, rank_from_environment()))
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        flow._oneflow_internal.eager.Sync()  # noqa: SLF001
        start = time.perf_counter()
        product = flow.matmul(left, left)
        product[0, 0].numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def peak_device_bytes(case: Case) -> Optional[int]:
    """What is in use on the device, which a compiled graph takes at once and keeps; None on CPU."""
    if case.device == "cpu":
        return None
    return int(flow._oneflow_internal.GetCUDAMemoryUsed() * 2**20)  # noqa: SLF001


if __name__ == "__main__":
    end_at_once(partial(program.run, make_trainer, facts, matmul_flops_per_second, peak_device_bytes))
