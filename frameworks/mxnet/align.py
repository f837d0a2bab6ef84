"""Train given steps with MXNet and write what it computed."""

from typing import Any, List

import numpy as np

from frameworks.common import align
from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.initial import CLASSIFIER
from frameworks.common.loop import Pending
from frameworks.mxnet.network import NATIVE_PRELU
from frameworks.mxnet.parallel import join
from frameworks.mxnet.settings import prelu_form
from frameworks.mxnet.train import MXNetTrainer


class MXNetAlign:
    """`AlignTrainer` of frameworks/common/align.py, on the training program's trainer."""

    def __init__(self, case: Case, rank: Rank, inputs: align.Inputs) -> None:
        if prelu_form(case) == NATIVE_PRELU:
            raise ValueError(
                "option prelu: native: MXNet's own operator can compute a wrong gradient of the slope; align "
                "convolution or broadcast"
            )
        arrays = {**inputs.parameters, **inputs.buffers}
        self._trainer = MXNetTrainer(case, rank, join(case, rank), arrays)
        self._embeddings: List[Any] = []  # NDArrays, from the first step on

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Train one iteration."""
        loss, self._embeddings = self._trainer.forward_backward(batch)
        return self._trainer.update(loss, iteration)

    def embeddings(self) -> np.ndarray:
        """The embeddings of the last step, float32 [D B, E]."""
        return np.concatenate([array.asnumpy() for array in self._embeddings])

    def gradients(self) -> align.Arrays:
        """The gradients of the last loss; the optimizer does not write its weight decay into them."""
        found = {name: parameter.grad().asnumpy() for name, parameter in self._trainer.trained.items()}
        head = self._trainer.head
        if head is not None:
            found[CLASSIFIER] = np.concatenate([shard.gradient() for shard in head.shards])
        return found

    def parameters(self) -> align.Arrays:
        """The network's parameters and the classifier, as they are now."""
        trained = self._trainer.trained.items()
        found = {name: parameter.list_data()[0].asnumpy() for name, parameter in trained}
        head = self._trainer.head
        if head is not None:
            found[CLASSIFIER] = np.concatenate([shard.weight.asnumpy() for shard in head.shards])
        return found

    def buffers(self) -> align.Arrays:
        """The running statistics [channels], or [D, channels]; MXNet's variances are biased already."""
        found = {}
        for name, parameter in self._trainer.arrays.items():
            if ".running_" in name:
                per_device = [array.asnumpy() for array in parameter.list_data()]
                found[name] = per_device[0] if len(per_device) == 1 else np.stack(per_device)
        return found


if __name__ == "__main__":
    align.run(MXNetAlign)
