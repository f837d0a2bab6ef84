"""SGD as the case defines it: MXNet's own, which keeps the learning rate inside the momentum buffer."""

from typing import Any

import mxnet as mx
import numpy as np

from frameworks.common.case import Optimizer


def make_optimizer(optimizer: Optimizer) -> mx.optimizer.Optimizer:
    """The case's optimizer; its learning rate is set at each step.

    It keeps a float32 copy of a float16 weight, updates that and copies it back.
    """
    common = {"momentum": optimizer.momentum, "multi_precision": True}
    if optimizer.decay == "decoupled":
        return DecoupledSGD(optimizer.weight_decay, **common)
    return mx.optimizer.SGD(wd=optimizer.weight_decay, **common)


class DecoupledSGD(mx.optimizer.SGD):
    """v = momentum v - rate g; w = w + v - rate decay w, with the w before the step in the last term."""

    def __init__(self, decay: float, **kwargs: Any) -> None:
        super().__init__(wd=0, **kwargs)
        self._decay = decay

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update the arrays of a group; all arguments are sequences of the same length."""
        # Shrinking w first gives the same sum: without weight decay the momentum step does not read w.
        for position, array, kept in zip(index, weight, state):
            decay = self._decay * getattr(self.param_dict.get(position), "wd_mult", 1.0)
            master = kept[1] if array.dtype == np.float16 else array
            master *= 1 - self.learning_rate * decay
        super().update_multi_precision(index, weight, grad, state)
