"""The names and shapes that OneFlow makes of every network with every head: a JSON text."""

import itertools
import json
import sys

import numpy as np
from oneflow import nn

from frameworks.common.networks import HEADS, NETWORKS, build
from frameworks.oneflow.network import build_network, named_arrays


def main() -> None:
    found = {}
    for network, head in itertools.product(NETWORKS, HEADS):
        module = build_network(build(network, head, 128, 0.4))
        named = named_arrays(module).items()
        arrays = [(name, list(array.shape), isinstance(array, nn.Parameter)) for name, array in named]
        trained = sum(parameter.requires_grad for parameter in module.parameters())
        found[f"{network}/{head}"] = {"arrays": arrays, "trained": trained}
    np.savez(sys.argv[1], names=json.dumps(found))


main()
