"""SGD as the case defines it: MXNet's own, which keeps the learning rate inside the momentum buffer."""

from typing import Any

import mxnet as mx

from frameworks.common.case import Optimizer


def make_optimizer(optimizer: Optimizer) -> mx.optimizer.Optimizer:
    """The case's optimizer; its learning rate is set at each step."""
    if optimizer.decay == "decoupled":
        return DecoupledSGD(optimizer.weight_decay, momentum=optimizer.momentum)
    return mx.optimizer.SGD(momentum=optimizer.momentum, wd=optimizer.weight_decay)


class DecoupledSGD(mx.optimizer.SGD):
    """v = momentum v - lr g; w = w + v - lr decay w, with the w of before the step in the last term."""

    def __init__(self, decay: float, **kwargs: Any) -> None:
        super().__init__(wd=0, **kwargs)
        self._decay = decay

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Update the arrays of a group; all arguments are sequences of the same length."""
        # Shrinking w first gives the same sum: without weight decay the momentum step does not read w.
        for position, array in zip(index, weight):
            decay = self._decay * self.param_dict[position].wd_mult
            array *= 1 - self.learning_rate * decay  # noqa: PLW2901 - in place
        super().update_multi_precision(index, weight, grad, state)
