"""A BatchNorm of the table on given input [B, C, 1, 1], trained once: output and running statistics.

For a frozen one also the gradients of sum(factor x output) by the input, gamma and beta.
"""

from __future__ import annotations

import sys

import mxnet as mx
import numpy as np

from frameworks.common.networks import BatchNorm
from frameworks.mxnet.network import build_network, named_arrays


def frozen(x: np.ndarray, gamma: np.ndarray, eps: float, factor: np.ndarray) -> dict[str, np.ndarray]:
    norm = build_network((BatchNorm("bn", x.shape[1], eps, frozen=True),), "convolution")
    named = named_arrays(norm)
    norm.initialize(mx.init.Zero())
    named["bn.running_mean"].set_data(mx.nd.array([0.1, -0.2]))
    named["bn.running_var"].set_data(mx.nd.array([0.5, 2.0]))
    named["bn.weight"].set_data(mx.nd.array(gamma))
    norm.hybridize(static_alloc=True, static_shape=True)
    data = mx.nd.array(x)
    data.attach_grad()
    with mx.autograd.record():
        output = norm(data)
    output.backward(mx.nd.array(factor))
    return {
        "frozen/output": output.asnumpy(),
        "frozen/mean": named["bn.running_mean"].data().asnumpy(),
        "frozen/variance": named["bn.running_var"].data().asnumpy(),
        "frozen/by_input": data.grad.asnumpy(),
        "frozen/by_gamma": named["bn.weight"].grad().asnumpy(),
        "frozen/by_beta": named["bn.bias"].grad().asnumpy(),
    }


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        x, eps, gamma, factor = arrays["x"], float(arrays["eps"]), arrays["gamma"], arrays["factor"]
    results = {}
    for fixed in (False, True):
        norm = build_network((BatchNorm("bn", x.shape[1], eps, fixed_gamma=fixed),), "convolution")
        named = named_arrays(norm)
        norm.initialize(mx.init.Zero())
        named["bn.running_var"].set_data(mx.nd.ones(x.shape[1]))
        named["bn.weight"].set_data(mx.nd.array(gamma))
        norm.hybridize(static_alloc=True, static_shape=True)
        with mx.autograd.record():
            output = norm(mx.nd.array(x))
        output.backward()
        results[f"{fixed}/output"] = output.asnumpy()
        results[f"{fixed}/mean"] = named["bn.running_mean"].data().asnumpy()
        results[f"{fixed}/variance"] = named["bn.running_var"].data().asnumpy()
    results.update(frozen(x, gamma, eps, factor))
    np.savez(sys.argv[2], **results)


main()
