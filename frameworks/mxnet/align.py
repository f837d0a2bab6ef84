"""Train some steps in MXNet on given weights and batches and write what came out."""

from typing import Any, List

import numpy as np

from frameworks.common import align
from frameworks.common.align import Arrays, Inputs
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.margin import held_classes
from frameworks.mxnet.parallel import make_group
from frameworks.mxnet.train import MXNetTrainer, PendingStep


class MXNetAlign:
    """`AlignTrainer` of frameworks/common/align.py: the training program's trainer, looked into."""

    def __init__(self, case: Case, rank: Rank, inputs: Inputs) -> None:
        held = held_classes(case, rank)
        arrays = {**inputs.parameters, **inputs.buffers}
        arrays[CLASSIFIER] = arrays[CLASSIFIER][held.start : held.stop]
        self._trainer = MXNetTrainer(case, rank, make_group(case, rank), arrays)
        self._embeddings: List[Any] = []  # NDArrays, from the first step on

    def step(self, batch: Batch, iteration: int) -> PendingStep:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """What the last step's forward pass computed, float32 [D B, E]."""
        return np.concatenate([array.asnumpy() for array in self._embeddings])

    def gradients(self) -> Arrays:
        """Of the last step's loss; the optimizer reads them, and adds the weight decay in passing."""
        made = {name: parameter.grad().asnumpy() for name, parameter in self._trainer.trained.items()}
        head = self._trainer.head
        if head is not None:
            made[CLASSIFIER] = np.concatenate([shard.gradient() for shard in head.shards])
        return made

    def parameters(self) -> Arrays:
        """The network's parameters and the classifier, as they are now."""
        made = {name: parameter.list_data()[0].asnumpy() for name, parameter in self._trainer.trained.items()}
        head = self._trainer.head
        if head is not None:
            made[CLASSIFIER] = np.concatenate([shard.weight.asnumpy() for shard in head.shards])
        return made

    def buffers(self) -> Arrays:
        """The running statistics [channels], or [D, channels]; MXNet's running variance is biased already."""
        named = self._trainer.arrays
        made = {}
        for name in named:
            if ".running_" in name:
                of_devices = [array.asnumpy() for array in named[name].list_data()]
                made[name] = of_devices[0] if len(of_devices) == 1 else np.stack(of_devices)
        return made


if __name__ == "__main__":
    align.run(MXNetAlign)
