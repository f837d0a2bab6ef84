"""Train given steps with PyTorch and write what came out.

A fourth argument `float64` makes the reference. Of several devices one process is the reference: with
DLPERF_DEVICES = DLPERF_WORLD_SIZE it sends each device's share of the batch through the network by itself and
has one full head.
"""

import sys

import numpy as np
import torch

from frameworks.common import align
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.common.margin import held_classes
from frameworks.common.networks import BATCH_NORM_MOMENTUM, layers_of, map_sides
from frameworks.pytorch.rendezvous import run_and_leave
from frameworks.pytorch.settings import configure
from frameworks.pytorch.train import PyTorchTrainer


class PyTorchAlign:
    """`AlignTrainer` of frameworks/common/align.py."""

    def __init__(self, case: Case, rank: Rank, inputs: align.Inputs, dtype: torch.dtype) -> None:
        configure(case)
        self._frozen = case.batch_norm == "frozen"
        self._initial, self._dtype, self._steps = inputs.buffers, dtype, 0
        layers = layers_of(case)
        self._values = {
            name: case.batch_size_per_device * side**2 for name, side in map_sides(layers).items()
        }
        held = held_classes(case, rank)
        classifier = inputs.parameters[CLASSIFIER][held.start : held.stop]
        arrays = {**inputs.parameters, **inputs.buffers, CLASSIFIER: classifier}
        self._trainer = PyTorchTrainer(case, rank, arrays, dtype)

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        self._steps += 1
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """What the last forward pass computed, [D B, E]."""
        return self._embeddings.cpu().numpy()

    def gradients(self) -> align.Arrays:
        """Of the last loss, zeros for rows that were not sampled.

        Torch's optimizer adds the weight decay to a copy.
        """
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
        """The running statistics; the variance in the biased convention."""
        arrays = {name: array.detach().cpu().numpy() for name, array in self._trainer.arrays.items()}
        means = {name: array for name, array in arrays.items() if name.endswith(".running_mean")}
        variances = {name: array for name, array in arrays.items() if name.endswith(".running_var")}
        return {**means, **{name: self._biased(name, array) for name, array in variances.items()}}

    def _biased(self, name: str, array: np.ndarray) -> np.ndarray:
        """Every batch had the same n, so that all of what the batches gave scales by (n - 1) / n."""
        if self._frozen:
            return array
        values = self._values[name.rpartition(".")[0]]
        kept = BATCH_NORM_MOMENTUM**self._steps * self._initial[name].astype(np.float64)
        running = array.astype(np.float64)
        return (kept + (running - kept) * (values - 1) / values).astype(array.dtype)


def main() -> None:
    """Align in float32, or in the dtype that the fourth argument names."""
    dtype = getattr(torch, sys.argv[4]) if len(sys.argv) > 4 else torch.float32  # noqa: PLR2004
    align.run(lambda case, rank, inputs: PyTorchAlign(case, rank, inputs, dtype))


if __name__ == "__main__":
    run_and_leave(main)
