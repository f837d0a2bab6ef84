"""Train given steps with JAX and write what it computed."""

from functools import partial

import numpy as np

from frameworks.common import align
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.jax.network import Arrays
from frameworks.jax.parallel import own_part
from frameworks.jax.rendezvous import run_and_leave
from frameworks.jax.settings import configure
from frameworks.jax.train import JAXTrainer

# In fp16: small enough that no step overflows and is skipped, which would be another function.
LOSS_SCALE = 1.0


class JAXAlign:
    """`AlignTrainer` of frameworks/common/align.py, on the training program's trainer."""

    def __init__(self, case: Case, rank: Rank, inputs: align.Inputs) -> None:
        configure(case)
        self._rows = len(inputs.parameters[CLASSIFIER])
        arrays = {**inputs.parameters, **inputs.buffers}
        kept = ("loss", "surplus", "embeddings", "gradients", "index")
        self._trainer = JAXTrainer(case, rank, arrays, first_scale=LOSS_SCALE, kept=kept)

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        pending, self._passes = self._trainer.run(batch, iteration)
        return pending

    def embeddings(self) -> np.ndarray:
        """The embeddings of the last step, float32 [B, E]."""
        return own_part(self._passes.embeddings)

    def gradients(self) -> align.Arrays:
        """The gradients of the last loss, without weight decay; 0 in rows that were not sampled."""
        found = {name: own_part(array) for name, array in self._passes.gradients.items()}
        if self._passes.index is not None:
            index, sampled = own_part(self._passes.index), found[CLASSIFIER]
            found[CLASSIFIER] = np.zeros((self._rows, sampled.shape[1]), sampled.dtype)
            found[CLASSIFIER][index[index < self._rows]] = sampled[index < self._rows]
        return {**found, CLASSIFIER: found[CLASSIFIER][: self._rows]}

    def parameters(self) -> align.Arrays:
        """The network's parameters and the classifier's own rows, as they are now."""
        found = _own_parts(self._trainer.state.parameters)
        return {**found, CLASSIFIER: found[CLASSIFIER][: self._rows]}

    def buffers(self) -> align.Arrays:
        """The running statistics of this rank, with biased variances."""
        return _own_parts(self._trainer.state.statistics)


def _own_parts(arrays: Arrays) -> align.Arrays:
    return {name: own_part(array) for name, array in arrays.items()}


if __name__ == "__main__":
    run_and_leave(partial(align.run, JAXAlign))
