"""Train given steps with PyTorch and write what came out; a fourth argument `float64` makes the reference."""

import sys

import numpy as np
import torch

from frameworks.common import align
from frameworks.common.case import Case
from frameworks.common.data import Batch
from frameworks.common.loop import Pending
from frameworks.common.networks import BATCH_NORM_MOMENTUM, layers_of, map_sides
from frameworks.pytorch.train import PyTorchTrainer, configure


class PyTorchAlign:
    """`AlignTrainer` of frameworks/common/align.py."""

    def __init__(self, case: Case, inputs: align.Inputs, dtype: torch.dtype) -> None:
        configure(case)
        self._initial, self._dtype, self._steps = inputs.buffers, dtype, 0
        layers = layers_of(case)
        self._values = {
            name: case.batch_size_per_device * side**2 for name, side in map_sides(layers).items()
        }
        self._trainer = PyTorchTrainer(case, {**inputs.parameters, **inputs.buffers}, dtype)

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        self._steps += 1
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """What the last forward pass computed, [B, E]."""
        return self._embeddings.cpu().numpy()

    def gradients(self) -> align.Arrays:
        """Of the last loss; torch's optimizer adds the weight decay to a copy."""
        return {name: array.grad.cpu().numpy() for name, array in self._trained()}

    def parameters(self) -> align.Arrays:
        """The network's parameters and the classifier, as they are now."""
        return {name: array.detach().cpu().numpy() for name, array in self._trained()}

    def buffers(self) -> align.Arrays:
        """The running statistics; the variance in the biased convention."""
        arrays = self._trainer.arrays.items()
        found = {name: array.cpu().numpy() for name, array in arrays if name.endswith(".running_mean")}
        found.update(
            {name: self._biased(name, array) for name, array in arrays if name.endswith(".running_var")}
        )
        return found

    def _biased(self, name: str, array: torch.Tensor) -> np.ndarray:
        """Every batch had the same n, so that all of what the batches gave scales by (n - 1) / n."""
        values = self._values[name.rpartition(".")[0]]
        kept = BATCH_NORM_MOMENTUM**self._steps * self._initial[name].astype(np.float64)
        running = array.cpu().numpy().astype(np.float64)
        return (kept + (running - kept) * (values - 1) / values).astype(array.cpu().numpy().dtype)

    def _trained(self) -> "list[tuple[str, torch.Tensor]]":
        arrays = self._trainer.arrays.items()
        return [(name, array) for name, array in arrays if isinstance(array, torch.nn.Parameter)]


def main() -> None:
    """Align in float32, or in the dtype that the fourth argument names."""
    dtype = getattr(torch, sys.argv[4]) if len(sys.argv) > 4 else torch.float32  # noqa: PLR2004
    align.run(lambda case, _rank, inputs: PyTorchAlign(case, inputs, dtype))


if __name__ == "__main__":
    main()
