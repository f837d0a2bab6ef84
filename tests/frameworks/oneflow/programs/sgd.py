"""CASE_FILE, INPUTS.npz, LOSS (`plain` or `scaled`): the case's optimizer in a graph, one row of `x` a step.

The loss is mean((x weight + bias)^2); `weight` decays and `bias` does not. Arrays: both after every step; the
rate that the compiled schedule gave each step, found from a parameter whose gradient is 1.
"""

from __future__ import annotations

import sys

import numpy as np
import oneflow as flow
from oneflow import nn

from frameworks.common.case import Case, Optimizer, Schedule, read_case
from frameworks.oneflow.optimizer import Momentum, Share, add_optimizers
from frameworks.oneflow.precision import make_scaler


class Model(nn.Module):
    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(flow.tensor(weight)), nn.Parameter(flow.tensor(bias))

    def forward(self, x: flow.Tensor) -> flow.Tensor:
        return ((flow.matmul(x, self.weight) + self.bias) ** 2).mean()


class Slope(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(flow.zeros(1))

    def forward(self, x: flow.Tensor) -> flow.Tensor:
        return (self.weight * x).sum()


class Graph(nn.Graph):
    """The model, and beside it a product that nobody needs.

    OneFlow corrupts its memory where a graph ends before the thread that started it has noted that it runs
    (docs/engines/oneflow.md). With the product a step takes some milliseconds, as small as the model is.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, schedule: Schedule, shares: list[Share]
    ) -> None:
        super().__init__()
        self.model = model
        add_optimizers(self, optimizer, schedule, shares)

    def build(self, x: flow.Tensor, ballast: flow.Tensor) -> tuple[flow.Tensor, flow.Tensor]:
        loss = self.model(x)
        loss.backward()
        return loss, flow.matmul(ballast, ballast).sum()


BALLAST = 1024


def trained(case: Case, inputs: dict[str, np.ndarray], *, scaled: bool) -> dict[str, np.ndarray]:
    optimizer, schedule = case.optimizer, case.schedule
    model = Model(inputs["weight"], inputs["bias"])
    shares = [Share([model.weight], optimizer.weight_decay), Share([model.bias], 0.0)]
    graph = Graph(model, optimizer, schedule, shares)
    if scaled:
        graph.set_grad_scaler(make_scaler(case._replace(precision="fp16")))
    rows = [flow.tensor(row) for row in inputs["x"]]
    ballast = flow.ones(BALLAST, BALLAST)
    graph._compile(rows[0], ballast)
    momentum = Momentum(graph, schedule)
    weights, biases = [], []
    for iteration, row in enumerate(rows):
        momentum.follow(iteration)
        graph(row, ballast)
        weights.append(model.weight.numpy().copy())
        biases.append(model.bias.numpy().copy())
    return {"weights": np.stack(weights), "biases": np.stack(biases)}


def rates(schedule: Schedule, steps: int) -> np.ndarray:
    model = Slope()
    plain = Optimizer("sgd", momentum=0.0, weight_decay=0.0, decay="coupled", no_decay=())
    graph = Graph(model, plain, schedule, [Share([model.weight], 0.0)])
    found, ballast = [], flow.ones(BALLAST, BALLAST)
    for _ in range(steps):
        before = float(model.weight.numpy()[0])
        graph(flow.ones(1), ballast)
        found.append(before - float(model.weight.numpy()[0]))
    return np.array(found)


def main() -> None:
    case = read_case(sys.argv[1])
    with np.load(sys.argv[2]) as arrays:
        inputs = dict(arrays)
    results = trained(case, inputs, scaled=sys.argv[3] == "scaled")
    np.savez(sys.argv[-1], rates=rates(case.schedule, len(inputs["x"])), **results)


main()
