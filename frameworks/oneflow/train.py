"""Train a case with OneFlow: one nn.Graph from the uint8 images to the updated parameters."""

import os
import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import oneflow as flow
from oneflow import Tensor, nn

from frameworks.common import program
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import initial_arrays
from frameworks.common.margin import held_classes
from frameworks.common.networks import INPUT_SHAPE, layers_of, parameters
from frameworks.common.phases import DATA, GRAPH, Phases
from frameworks.oneflow import blas
from frameworks.oneflow.head import MarginSoftmax
from frameworks.oneflow.network import build_network, named_arrays
from frameworks.oneflow.optimizer import Momentum, make_optimizer, make_schedule


class TrainingModule(nn.Module):
    """Images uint8 [B, 3, 112, 112] and labels int64 [B] -> loss, a scalar, and embeddings float32 [B, E]."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Scale the images on the device."""
        embeddings = self.network((images.to(flow.float32) - 127.5) / 128)
        return self.head(embeddings, labels), embeddings.detach()


class TrainingGraph(nn.Graph):
    """The module's loss and embeddings; a call also computes the gradients and updates the parameters."""

    def __init__(self, module: TrainingModule, optimizer: flow.optim.SGD, schedule: Any) -> None:
        super().__init__()
        self.module = module
        self.add_optimizer(optimizer, lr_sch=schedule)
        self.config.allow_fuse_add_to_output(True)  # noqa: FBT003 - OneFlow's signature
        self.config.allow_fuse_model_update_ops(True)  # noqa: FBT003
        # On CUDA: time cuDNN's algorithms and take the fastest; shapes never change, so the search pays.
        self.config.enable_cudnn_conv_heuristic_search_algo(False)  # noqa: FBT003

    def build(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """What OneFlow compiles."""
        loss, embeddings = self.module(images, labels)
        loss.backward()
        return loss, embeddings


class PendingStep:
    """A step in the engine's queue."""

    def __init__(self, loss: Tensor, token: Tensor) -> None:
        self._loss, self._token = loss, token

    def wait(self) -> float:
        """Block until the step's updates are done; return its loss."""
        self._token.numpy()
        return float(self._loss.numpy())

    def seconds_since(self, previous: "Optional[PendingStep]") -> Optional[float]:  # noqa: ARG002
        """None: OneFlow shows no device events to Python, the loop takes the host's clock."""
        return None


class OneFlowTrainer:
    """`Trainer` of frameworks/common/loop.py on one device."""

    def __init__(self, case: Case, arrays: Dict[str, np.ndarray]) -> None:
        """Build and compile the case's graph; `arrays` holds every parameter and buffer by table name."""
        flow.manual_seed(case.seed)  # dropout
        self._device, self._iterations = device(case), 0
        module = make_module(case, arrays)
        self.arrays = named_arrays(module)
        self.trained = {name: array for name, array in self.arrays.items() if isinstance(array, nn.Parameter)}
        spared = _spared(case)
        decayed = [array for name, array in self.trained.items() if name not in spared]
        others = [self.trained[name] for name in spared]
        optimizer = make_optimizer(case.optimizer, case.schedule, decayed=decayed, others=others)
        self._graph = TrainingGraph(module, optimizer, make_schedule(optimizer, case.schedule))
        self._compile(case)
        self._momentum = Momentum(self._graph, case.schedule)
        self.phases = Phases(self.start_window)

    def _compile(self, case: Case) -> None:
        """Make the graph's plan now, without running it: the first step is a step like every other."""
        images = np.zeros((case.batch_size_per_device, *INPUT_SHAPE), np.uint8)
        labels = np.zeros(case.batch_size_per_device, np.int64)
        self._graph._compile(*to_device((images, labels), self._device))  # noqa: SLF001 - a call also steps

    def start_window(self) -> None:
        """Wait for everything in the engine's queue."""
        flow._oneflow_internal.eager.Sync()  # noqa: SLF001 - OneFlow's own synchronize is for CUDA alone

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Queue forward pass, backward pass and update."""
        return self.run(batch, iteration)[0]

    def run(self, batch: Batch, iteration: int) -> Tuple[PendingStep, Tensor]:
        """Queue a step; also return its embeddings, float32 [B, E]."""
        if iteration != self._iterations:  # the compiled schedule counts for itself
            raise ValueError(f"iteration {iteration} after {self._iterations} iterations")
        self._iterations += 1
        with self.phases(DATA):
            inputs = to_device(batch, self._device)
        with self.phases(GRAPH):
            self._momentum.follow(iteration)
            loss, embeddings = self._graph(*inputs)
        # The loss is there when the forward pass is done. The parameters are the graph's until its last
        # update: this copy of a small one comes after it, and before the next step, which may be queued
        # before anyone waits.
        token = self.trained["head.embedding_bn.bias"].to(copy=True)
        return PendingStep(loss, token), embeddings


def make_module(case: Case, arrays: Dict[str, np.ndarray]) -> TrainingModule:
    """The case's module on its device, holding the values of `arrays`."""
    layers = layers_of(case)
    head = MarginSoftmax(case.loss, case.num_classes, case.embedding_size)
    module = TrainingModule(build_network(layers), head).to(device(case))
    with flow.no_grad():
        for name, tensor in named_arrays(module).items():
            tensor.copy_(flow.tensor(arrays[name]))
    return module


def _spared(case: Case) -> List[str]:
    """Names of the parameters that do not decay."""
    layers = layers_of(case)
    return [spec.name for spec in parameters(layers) if spec.kind in case.optimizer.no_decay]


def to_device(batch: Batch, target: flow.device) -> List[Tensor]:
    """Images and labels as tensors of the device."""
    return [flow.from_numpy(array).to(target) for array in batch]


def device(case: Case) -> flow.device:
    """The device that this rank drives; the adapter lets it see one GPU alone."""
    return flow.device(case.device)


def make_trainer(case: Case, rank: Rank) -> OneFlowTrainer:
    """The trainer of a case; ValueError for what is not built yet."""
    if rank.world_size != 1 or case.parallelism != "data" or case.precision != "fp32":
        raise ValueError("the OneFlow program trains on one device, data parallel, in fp32")
    return OneFlowTrainer(case, initial_arrays(case, held_classes(case, rank)))


def facts(case: Case) -> Dict[str, Any]:
    """What runs: version, device, threads of OneFlow's own pool, and the options in effect."""
    found: Dict[str, Any] = {
        "version": flow.__version__,
        "device": str(device(case)),
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
    left = flow.rand(size, size, device=device(case))
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
    program.run(make_trainer, facts, matmul_flops_per_second, peak_device_bytes)
