"""Train some steps in OneFlow on given weights and batches and write what came out."""

from functools import partial
from typing import Any

import numpy as np

from frameworks.common import align
from frameworks.common.align import Arrays, Inputs
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import held_classes
from frameworks.common.networks import BATCH_NORM_MOMENTUM, layers_of, map_sides, parameters
from frameworks.common.schedule import learning_rate
from frameworks.oneflow.optimizer import momentum_buffers, rate_outside_buffer
from frameworks.oneflow.parallel import end_at_once, own_part
from frameworks.oneflow.train import OneFlowTrainer, PendingStep


class OneFlowAlign:
    """`AlignTrainer` of frameworks/common/align.py: the training program's trainer, looked into.

    A graph keeps its gradients to itself. Those of the first step stand in what it made of them: in the
    momentum, which was 0, or without momentum in the change of the parameters.
    """

    def __init__(self, case: Case, rank: Rank, inputs: Inputs) -> None:
        self._case, self._initial, self._steps = case, inputs.buffers, 0
        held = held_classes(case, rank)
        classifier = inputs.parameters[CLASSIFIER][held.start : held.stop]
        self._before = {**inputs.parameters, CLASSIFIER: classifier}
        self._trainer = OneFlowTrainer(case, rank, {**self._before, **inputs.buffers})
        layers = layers_of(case)
        self._values = {
            name: case.batch_size_per_device * side**2 for name, side in map_sides(layers).items()
        }
        spared = {spec.name for spec in parameters(layers) if spec.kind in case.optimizer.no_decay}
        # Decoupled, the decay is in the change of the parameters, and not in the momentum.
        inside = case.optimizer.decay == "coupled" or not case.optimizer.momentum
        decay = case.optimizer.weight_decay if inside else 0.0
        self._decays = {name: 0.0 if name in spared else decay for name in self._before}
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
        """Of the first step's loss; 0 in rows that Partial FC did not sample."""
        steps = self._first_steps()
        return {name: self._gradient(name, step) for name, step in steps.items()}

    def _gradient(self, name: str, step: np.ndarray) -> np.ndarray:
        """Without the weight decay; rows that were not sampled have neither that nor a gradient."""
        gradient = step - self._decays[name] * self._before[name]
        if name == CLASSIFIER and self._case.parallelism == "partial_fc":
            gradient[~step.any(axis=1)] = 0
        return gradient

    def _first_steps(self) -> Arrays:
        """What the first step was made of, the rate taken out; the weight decay may be inside."""
        rate = learning_rate(self._case.schedule, 0)
        if not self._case.optimizer.momentum:
            return {name: (self._before[name] - now) / rate for name, now in self.parameters().items()}
        buffers, names = momentum_buffers(self._trainer.graph), self._trainer.graph_names()
        kept = {name: own_part(buffers[names[name]]).numpy() for name in self._before}
        return kept if rate_outside_buffer() else {name: array / -rate for name, array in kept.items()}

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier's own rows, as they are now."""
        return {name: own_part(array).numpy() for name, array in self._trainer.trained.items()}

    def buffers(self) -> Arrays:
        """The running statistics, this rank's own; the variance in the biased convention."""
        arrays = self._trainer.arrays.items()
        kept = {name: own_part(array).numpy() for name, array in arrays if ".running_" in name}
        return {name: self._biased(name, array) for name, array in kept.items()}

    def _biased(self, name: str, array: np.ndarray) -> np.ndarray:
        """OneFlow's is unbiased. Every batch had the same n: what they gave scales by (n - 1) / n."""
        if name.endswith(".running_mean") or self._case.batch_norm == "frozen":
            return array
        values = self._values[name.rpartition(".")[0]]
        initial = BATCH_NORM_MOMENTUM**self._steps * self._initial[name].astype(np.float64)
        return (initial + (array - initial) * (values - 1) / values).astype(np.float32)


if __name__ == "__main__":
    end_at_once(partial(align.run, OneFlowAlign))
