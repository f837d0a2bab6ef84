"""Train given steps with OneFlow and write what it computed."""

from functools import partial
from typing import Any

import numpy as np

from frameworks.common import align
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.common.networks import layers_of, parameters
from frameworks.common.schedule import learning_rate
from frameworks.oneflow.optimizer import momentum_buffers, rate_outside_buffer
from frameworks.oneflow.parallel import own_part
from frameworks.oneflow.rendezvous import run_and_leave
from frameworks.oneflow.train import OneFlowTrainer


class OneFlowAlign:
    """`AlignTrainer` of frameworks/common/align.py, on the training program's trainer.

    A graph does not show its gradients. Those of the first step are computed from their effect: from the
    momentum, which was 0 before, or without momentum from the change of the parameters.
    """

    def __init__(self, case: Case, rank: Rank, inputs: align.Inputs) -> None:
        self._case, self._initial, self._steps = case, inputs.buffers, 0
        self._before = inputs.parameters
        self._trainer = OneFlowTrainer(case, rank, {**inputs.parameters, **inputs.buffers})
        spared = {spec.name for spec in parameters(layers_of(case)) if spec.kind in case.optimizer.no_decay}
        # Decoupled decay is in the change of the parameters, but not in the momentum.
        inside = case.optimizer.decay == "coupled" or not case.optimizer.momentum
        decay = case.optimizer.weight_decay if inside else 0.0
        self._decays = {name: 0.0 if name in spared else decay for name in self._before}
        self._embeddings: Any = None  # a tensor, from the first step on

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        pending, self._embeddings = self._trainer.run(batch, iteration)
        self._steps += 1
        return pending

    def embeddings(self) -> np.ndarray:
        """The embeddings of the last step, float32 [B, E]."""
        return self._embeddings.numpy()

    def gradients(self) -> align.Arrays:
        """The gradients of the first loss; 0 in rows that Partial FC did not sample."""
        steps = self._first_steps()
        return {name: self._gradient(name, step) for name, step in steps.items()}

    def _gradient(self, name: str, step: np.ndarray) -> np.ndarray:
        """Without the weight decay; rows that were not sampled have neither decay nor gradient."""
        gradient = step - self._decays[name] * self._before[name]
        if name == CLASSIFIER and self._case.parallelism == "partial_fc":
            gradient[~step.any(axis=1)] = 0
        return gradient

    def _first_steps(self) -> align.Arrays:
        """The first step of every parameter divided by -rate; it may include the weight decay."""
        rate = learning_rate(self._case.schedule, 0)
        if not self._case.optimizer.momentum:
            return {name: (self._before[name] - now) / rate for name, now in self.parameters().items()}
        buffers, names = momentum_buffers(self._trainer.graph), self._trainer.graph_names()
        kept = {name: own_part(buffers[names[name]]).numpy() for name in self._before}
        return kept if rate_outside_buffer() else {name: array / -rate for name, array in kept.items()}

    def parameters(self) -> align.Arrays:
        """The network's parameters and the classifier's own rows, as they are now."""
        return {name: own_part(array).numpy() for name, array in self._trainer.trained.items()}

    def buffers(self) -> align.Arrays:
        """The running statistics of this rank, with biased variances."""
        arrays = self._trainer.arrays.items()
        running = {name: own_part(array).numpy() for name, array in arrays if ".running_" in name}
        return align.with_biased_variances(self._case, self._steps, self._initial, running)


if __name__ == "__main__":
    run_and_leave(partial(align.run, OneFlowAlign))
