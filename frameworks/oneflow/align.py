"""Train some steps in OneFlow on given weights and batches and write what came out."""

from typing import Any

import numpy as np

from frameworks.common import align
from frameworks.common.align import Arrays, Inputs
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.networks import BATCH_NORM_MOMENTUM, layers_of, map_sides
from frameworks.oneflow.network import named_arrays
from frameworks.oneflow.train import OneFlowTrainer, PendingStep, device, make_module, to_device


class OneFlowAlign:
    """`AlignTrainer` of frameworks/common/align.py: the training program's trainer, looked into.

    A graph keeps its gradients to itself. Those of the first step come from a second copy of the module, in
    eager mode, before there is a graph: OneFlow 0.9 refuses eager gradients once one is compiled. What the
    graph made of its own shows in the parameters after the step.
    """

    def __init__(self, case: Case, _rank: Rank, inputs: Inputs) -> None:
        arrays = {**inputs.parameters, **inputs.buffers}
        self._gradients = eager_gradients(case, arrays, inputs.batches[0])
        self._trainer = OneFlowTrainer(case, arrays)
        layers = layers_of(case)
        self._values = {
            name: case.batch_size_per_device * side**2 for name, side in map_sides(layers).items()
        }
        self._initial, self._steps = inputs.buffers, 0
        self._embeddings: Any = None  # a tensor, from the first step on

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Train one iteration."""
        pending, self._embeddings = self._trainer.run(batch, iteration)
        self._steps += 1
        return pending

    def embeddings(self) -> np.ndarray:
        """What the last step's forward pass computed, float32 [B, E]."""
        return self._embeddings.numpy()

    def gradients(self) -> Arrays:
        """Of the first step's loss."""
        return self._gradients

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""
        return {name: array.numpy() for name, array in self._trainer.trained.items()}

    def buffers(self) -> Arrays:
        """The running statistics; the variance in the biased convention."""
        kept = {name: array.numpy() for name, array in self._trainer.arrays.items() if ".running_" in name}
        return {name: self._biased(name, array) for name, array in kept.items()}

    def _biased(self, name: str, array: np.ndarray) -> np.ndarray:
        """OneFlow's is unbiased. Every batch had the same n: what they gave scales by (n - 1) / n."""
        if name.endswith(".running_mean"):
            return array
        values = self._values[name.rpartition(".")[0]]
        initial = BATCH_NORM_MOMENTUM**self._steps * self._initial[name].astype(np.float64)
        return (initial + (array - initial) * (values - 1) / values).astype(np.float32)


def eager_gradients(case: Case, arrays: Arrays, batch: Batch) -> Arrays:
    """Gradients of a batch's loss by every parameter, at the values in `arrays`."""
    module = make_module(case, arrays)
    loss, _ = module(*to_device(batch, device(case)))
    loss.backward()
    named = named_arrays(module).items()
    return {name: array.grad.numpy() for name, array in named if array.grad is not None}


if __name__ == "__main__":
    align.run(OneFlowAlign)
