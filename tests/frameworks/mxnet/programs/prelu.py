"""PReLU in graphs with a convolution before it and one or none after it: gradients, hybridized and not.

Arrays: x, factor, slope; and for each form (convolution, broadcast, native) and neighbour (3x3, 1x1, none)
`<form>/<neighbour>/{hybrid,eager}/{slope,input}`.
"""

from __future__ import annotations

import sys

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from frameworks.common.networks import PReLU
from frameworks.mxnet.network import NATIVE_PRELU, PRELU_FORMS, _PReLU

CHANNELS, SLOPE = 4, 0.25


def gradients(
    form: str, neighbour: str, x: np.ndarray, factor: np.ndarray, *, hybrid: bool
) -> tuple[np.ndarray, np.ndarray]:
    prelu = _PReLU(PReLU("prelu", CHANNELS), form)
    net = nn.HybridSequential(prefix="")
    # An identity before it: MXNet's fault appears behind a convolution.
    before = nn.Conv2D(CHANNELS, 1, in_channels=CHANNELS, use_bias=False, prefix="before.")
    net.add(before, prelu)
    if neighbour != "none":
        size = int(neighbour[0])
        after = nn.Conv2D(
            CHANNELS, size, padding=size // 2, in_channels=CHANNELS, use_bias=False, prefix="after."
        )
        net.add(after)
    net.initialize(mx.init.Zero())
    before.weight.set_data(mx.nd.array(np.eye(CHANNELS).reshape(CHANNELS, CHANNELS, 1, 1)))
    prelu.weight.set_data(mx.nd.full(CHANNELS, SLOPE))
    if neighbour != "none":
        weight = np.zeros((CHANNELS, CHANNELS, size, size))
        weight[:, :, size // 2, size // 2] = np.eye(CHANNELS)  # an identity too
        after.weight.set_data(mx.nd.array(weight))
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    data = mx.nd.array(x)
    data.attach_grad()
    with mx.autograd.record():
        loss = (net(data) * mx.nd.array(factor)).sum()
    loss.backward()
    return prelu.weight.grad().asnumpy(), data.grad.asnumpy()


def main() -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((3, CHANNELS, 6, 6)).astype(np.float32)
    x[0, :, 0, :] = 0.0
    factor = random.standard_normal(x.shape).astype(np.float32)
    arrays = {"x": x, "factor": factor, "slope": np.full(CHANNELS, SLOPE)}
    for form in (*PRELU_FORMS, NATIVE_PRELU):
        for neighbour in ("3x3", "1x1", "none"):
            for mode in ("hybrid", "eager"):
                slope, data = gradients(form, neighbour, x, factor, hybrid=mode == "hybrid")
                arrays[f"{form}/{neighbour}/{mode}/slope"] = slope
                arrays[f"{form}/{neighbour}/{mode}/input"] = data
    np.savez(sys.argv[1], **arrays)


main()
