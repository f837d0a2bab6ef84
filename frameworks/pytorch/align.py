"""Train given steps with PyTorch and write what it computed.

A fourth argument `float64` makes the reference. For several devices one process is the reference: with
DLPERF_DEVICES = DLPERF_WORLD_SIZE it sends each device's share of the batch through the network separately,
and has one full head.
"""

import sys

import numpy as np
import torch

from frameworks.common import align
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.pytorch.rendezvous import run_and_leave
from frameworks.pytorch.settings import configure
from frameworks.pytorch.train import PyTorchTrainer

# In fp16: small enough that no step overflows and is skipped, which would be another function.
LOSS_SCALE = 1.0


class PyTorchAlign:
    """`AlignTrainer` of frameworks/common/align.py, on the training program's trainer."""

    def __init__(self, case: Case, rank: Rank, inputs: align.Inputs, dtype: torch.dtype) -> None:
        configure(case)
        self._case, self._initial, self._steps = case, inputs.buffers, 0
        arrays = {**inputs.parameters, **inputs.buffers}
        self._trainer = PyTorchTrainer(case, rank, arrays, dtype, first_scale=LOSS_SCALE)

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        self._steps += 1
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """The embeddings of the last step, [D B, E]."""
        return self._embeddings.cpu().numpy()

    def gradients(self) -> align.Arrays:
        """The gradients of the last loss, without weight decay; 0 in rows that were not sampled."""
        found = {name: array.grad.cpu().numpy() for name, array in self._trainer.trained.items()}
        index = self._trainer.sampled_index()
        if index is not None:
            whole = np.zeros(self._trainer.arrays[CLASSIFIER].shape, found[CLASSIFIER].dtype)
            whole[index] = found[CLASSIFIER]
            found[CLASSIFIER] = whole
        return found

    def parameters(self) -> align.Arrays:
        """The network's parameters and the classifier, as they are now."""
        arrays = self._trainer.arrays
        return {name: arrays[name].detach().cpu().numpy() for name in self._trainer.trained}

    def buffers(self) -> align.Arrays:
        """The running statistics, with biased variances."""
        arrays = self._trainer.arrays.items()
        running = {name: array.detach().cpu().numpy() for name, array in arrays if ".running_" in name}
        return align.with_biased_variances(self._case, self._steps, self._initial, running)


def main() -> None:
    """Align in float32, or in the dtype that the fourth argument names."""
    dtype = getattr(torch, sys.argv[4]) if len(sys.argv) > 4 else torch.float32  # noqa: PLR2004
    align.run(lambda case, rank, inputs: PyTorchAlign(case, rank, inputs, dtype))


if __name__ == "__main__":
    run_and_leave(main)
