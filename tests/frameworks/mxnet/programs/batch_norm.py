"""A BatchNorm of the table on given input [B, C, 1, 1], trained once: output and running statistics."""

import sys

import mxnet as mx
import numpy as np

from frameworks.common.networks import BatchNorm
from frameworks.mxnet.network import build_network, named_parameters


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        x, eps, gamma = arrays["x"], float(arrays["eps"]), arrays["gamma"]
    results = {}
    for fixed in (False, True):
        norm = build_network((BatchNorm("bn", x.shape[1], eps, fixed_gamma=fixed),), "convolution")
        named = named_parameters(norm)
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
    np.savez(sys.argv[2], **results)


main()
