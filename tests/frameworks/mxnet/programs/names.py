"""The names and shapes that Gluon makes of every network with every head: a JSON text."""

import itertools
import json
import sys

import numpy as np

from frameworks.common.networks import HEADS, NETWORKS, build
from frameworks.mxnet.network import build_network, named_arrays


def main() -> None:
    found = {}
    for network, head in itertools.product(NETWORKS, HEADS):
        block = build_network(build(network, head, 128, 0.4), "convolution")
        named = {name: (list(array.shape), array.grad_req) for name, array in named_arrays(block).items()}
        found[f"{network}/{head}"] = named
    np.savez(sys.argv[1], names=json.dumps(found))


main()
