"""INPUTS.npz (labels [K, N], num_classes, ranks): the most classes of a rank that each row names."""

import sys

import numpy as np
import oneflow as flow

from frameworks.oneflow.head_sharded import most_positives
from frameworks.oneflow.parallel import REPLICATED


class Graph(flow.nn.Graph):
    """Counts, and beside it multiplies, as a graph that ends at once corrupts memory (programs/sgd.py)."""

    def __init__(self, num_classes: int, ranks: int) -> None:
        super().__init__()
        self._num_classes, self._ranks = num_classes, ranks

    def build(self, labels: flow.Tensor, ballast: flow.Tensor) -> "tuple[flow.Tensor, flow.Tensor]":
        return most_positives(labels, self._num_classes, self._ranks), flow.matmul(ballast, ballast).sum()


def main() -> None:
    alone = flow.placement("cpu", [0])
    with np.load(sys.argv[1]) as arrays:
        graph = Graph(int(arrays["num_classes"]), int(arrays["ranks"]))
        labels = [flow.tensor(row).to_global(placement=alone, sbp=REPLICATED) for row in arrays["labels"]]
    ballast = flow.ones(1024, 1024).to_global(placement=alone, sbp=REPLICATED)
    np.savez(sys.argv[2], most=[graph(row, ballast)[0].to_local().numpy() for row in labels])


main()
