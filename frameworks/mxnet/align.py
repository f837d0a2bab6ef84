"""Train some steps in MXNet on given weights and batches and write what came out."""

from typing import Any

import numpy as np

from frameworks.common import align
from frameworks.common.align import Arrays, Inputs
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.mxnet.train import MXNetTrainer, PendingStep


class MXNetAlign:
    """`AlignTrainer` of frameworks/common/align.py: the training program's trainer, looked into."""

    def __init__(self, case: Case, _rank: Rank, inputs: Inputs) -> None:
        self._trainer = MXNetTrainer(case, {**inputs.parameters, **inputs.buffers})
        self._embeddings: Any = None  # an NDArray, from the first step on

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """What the last step's forward pass computed, float32 [B, E]."""
        return self._embeddings.asnumpy()

    def gradients(self) -> Arrays:
        """Of the last step's loss; the optimizer reads them, and adds the weight decay in passing."""
        return {name: parameter.grad().asnumpy() for name, parameter in self._trainer.trained.items()}

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""
        return {name: parameter.data().asnumpy() for name, parameter in self._trainer.trained.items()}

    def buffers(self) -> Arrays:
        """The running statistics; MXNet's running variance is biased already."""
        named = self._trainer.arrays
        return {name: named[name].data().asnumpy() for name in named if ".running_" in name}


if __name__ == "__main__":
    align.run(MXNetAlign)
