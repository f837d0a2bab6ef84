"""OUTPUTS: dropout of ones, in two calls of a graph of two ranks; OUTPUTS.RANK.npz."""

import sys

import numpy as np
import oneflow as flow

from frameworks.common.case import rank_from_environment
from frameworks.common.networks import Dropout, Flatten, Linear
from frameworks.oneflow.network import build_network
from frameworks.oneflow.parallel import BY_ROWS, REPLICATED, own_part
from frameworks.oneflow.rendezvous import run_and_leave


class Graph(flow.nn.Graph):
    def __init__(self, network: flow.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dropout = build_network((Dropout("dropout", 0.4),))
        self.add_optimizer(flow.optim.SGD(network.parameters(), lr=0.0))

    def build(self, x: flow.Tensor) -> flow.Tensor:
        left = self.dropout(x)
        self.network(left).sum().backward()
        return left


def main() -> None:
    flow.manual_seed(7)
    everyone = flow.placement("cpu", [0, 1])
    network = build_network((Flatten("flatten"), Linear("linear", 1000, 10)))
    graph = Graph(network.to_global(placement=everyone, sbp=REPLICATED))
    x = flow.ones(100, 1000).to_global(placement=everyone, sbp=BY_ROWS)
    calls = [own_part(graph(x)).numpy().copy() for _ in range(2)]
    np.savez(f"{sys.argv[1]}.{rank_from_environment().rank}.npz", calls=calls)


run_and_leave(main)
