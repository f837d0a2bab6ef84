"""A BatchNorm of the table on given input, trained once in a graph: output and running statistics."""

import sys

import numpy as np
import oneflow as flow

from frameworks.common.networks import BatchNorm
from frameworks.oneflow.network import build_network, named_arrays


class Graph(flow.nn.Graph):
    def __init__(self, norm: flow.nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.add_optimizer(flow.optim.SGD([p for p in norm.parameters() if p.requires_grad], lr=0.5))

    def build(self, x: flow.Tensor, factor: flow.Tensor) -> flow.Tensor:
        output = self.norm(x)
        (output * factor).sum().backward()
        return output


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        inputs = dict(arrays)
    results = {}
    for fixed in (False, True):
        for shape in ("map", "vector"):
            x = inputs[shape]
            norm = build_network((BatchNorm("bn", x.shape[1], float(inputs["eps"]), fixed_gamma=fixed),))
            named = named_arrays(norm)
            with flow.no_grad():
                named["bn.bias"].copy_(flow.tensor(inputs["beta"]))
            output = Graph(norm)(flow.tensor(x), flow.tensor(inputs[shape + "_factor"])).numpy()
            results.update({f"{shape}/{fixed}/{name}": array.numpy() for name, array in named.items()})
            results[f"{shape}/{fixed}/output"] = output
            results[f"{shape}/{fixed}/gamma"] = norm[0].weight.numpy()
    np.savez(sys.argv[2], **results)


main()
