"""What fp32 and fp16 mean: what the network computes in, and how the loss is scaled.

In fp16 small gradients would become 0. So the network's gradients are multiplied by a scale, which the
optimizer divides out again: MXNet's own dynamic scale, or a constant.
"""

from typing import Any, List

import mxnet as mx
from mxnet.contrib.amp.loss_scaler import LossScaler
from mxnet.gluon import Parameter

from frameworks.common.case import Case


def network_dtype(case: Case) -> str:
    """The dtype of the network; its BatchNorms stay float32."""
    return "float16" if case.precision == "fp16" else "float32"


def loss_scale(case: Case) -> str:
    """What the loss is scaled by, for the log."""
    if case.precision != "fp16":
        return "none"
    option = case.options.get("loss_scale", "dynamic")
    return "dynamic" if option == "dynamic" else f"static {float(option):g}"


class LossScale:
    """A constant."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def overflowed(self, parameters: List[Parameter]) -> bool:  # noqa: ARG002 - the dynamic scale's
        """Whether the step must be skipped; the gradients are not checked here."""
        return False


class DynamicLossScale:
    """MXNet's own: halved if a gradient overflows, doubled after 2000 steps without an overflow."""

    def __init__(self) -> None:
        self._scaler: Any = LossScaler()

    @property
    def factor(self) -> float:
        """The scale of the next gradients."""
        return self._scaler._next_loss_scale  # noqa: SLF001 - `loss_scale` is that of the last ones

    def overflowed(self, parameters: List[Parameter]) -> bool:
        """Whether a gradient is infinite or NaN, so that the step must be skipped.

        It waits for the gradients: MXNet keeps the scale on the host.
        """
        with mx.autograd.pause():
            return self._scaler.has_overflow(parameters)


def make_scaler(case: Case) -> "LossScale | DynamicLossScale":
    """The scale for the case's precision and its option `loss_scale`."""
    if case.precision != "fp16":
        return LossScale(1.0)
    option = case.options.get("loss_scale", "dynamic")
    return DynamicLossScale() if option == "dynamic" else LossScale(float(option))
