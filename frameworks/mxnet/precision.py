"""The scale of the loss in fp16, where small gradients would otherwise be 0.

The network's gradients come out multiplied by it, and the optimizer divides them again. It is MXNet's own
dynamic scale, or one number.
"""

from typing import Any, List

import mxnet as mx
from mxnet.contrib.amp.loss_scaler import LossScaler
from mxnet.gluon import Parameter

from frameworks.common.case import Case


def loss_scale(case: Case) -> "LossScale":
    """The scale that the case's precision and its option `loss_scale` ask for."""
    if case.precision != "fp16":
        return LossScale(1.0)
    option = case.options.get("loss_scale", "dynamic")
    return DynamicLossScale() if option == "dynamic" else LossScale(float(option))


class LossScale:
    """One number, always."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def overflowed(self, parameters: List[Parameter]) -> bool:  # noqa: ARG002 - of the dynamic one
        """Whether the step must be left out; its gradients are not looked at here."""
        return False


class DynamicLossScale:
    """MXNet's: half as large when a gradient overflows, twice as large after 2000 steps without."""

    def __init__(self) -> None:
        self._scaler: Any = LossScaler()

    @property
    def factor(self) -> float:
        """What the gradients that are made next are multiplied by."""
        return self._scaler._next_loss_scale  # noqa: SLF001 - `loss_scale` is that of the last ones

    def overflowed(self, parameters: List[Parameter]) -> bool:
        """Whether a gradient is infinite or no number, so that the step must be left out.

        It waits for the gradients: MXNet's scale is kept on the host.
        """
        with mx.autograd.pause():
            return self._scaler.has_overflow(parameters)
