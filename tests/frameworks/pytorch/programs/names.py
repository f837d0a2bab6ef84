"""Names, shapes and the multiply-accumulates that PyTorch does, of every network with every head: JSON."""

import itertools
import json
import sys

import numpy as np
import torch
from torch import nn

from frameworks.common.networks import HEADS, NETWORKS, build
from frameworks.pytorch.network import build_network, named_arrays


def macs(network: nn.Module) -> int:
    """Counted at each call of a convolution or linear layer, from its weight and output."""
    counted = []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        counted.append(output[0].numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.device("meta"):
        images = torch.empty(2, 3, 112, 112)
    network.to("meta")(images)
    return sum(counted)


def main() -> None:
    found = {}
    for network, head in itertools.product(NETWORKS, HEADS):
        module = build_network(build(network, head, 128, 0.4))
        arrays = named_arrays(module)
        found[f"{network}/{head}"] = {
            "arrays": {n: (list(array.shape), array.requires_grad) for n, array in arrays.items()},
            "macs": macs(module),
        }
    np.savez(sys.argv[1], found=json.dumps(found))


main()
