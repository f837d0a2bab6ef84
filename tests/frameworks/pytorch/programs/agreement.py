"""Two ranks with gradients of their own: one overflows, then both, then none; prints weights and scales."""

import torch
from torch import nn

from frameworks.common.case import Optimizer, rank_from_environment
from frameworks.common.phases import Phases
from frameworks.pytorch.optimizer import CaseSGD
from frameworks.pytorch.parallel import join
from frameworks.pytorch.precision import AgreedGradScaler
from frameworks.pytorch.rendezvous import run_and_leave

INFINITE = float("inf")


def main() -> None:
    rank, cpu = rank_from_environment(), torch.device("cpu")
    ranks = join(rank, cpu, Phases(lambda: None))
    weight = nn.Parameter(torch.ones(1))
    scaler = AgreedGradScaler(cpu, ranks, enabled=True)
    optimizer = CaseSGD({"w": weight}, {"w": "linear"}, Optimizer("sgd", 0.9, 0.0, "coupled", ()), scaler)
    weights, scales = [], []
    for of_ranks in ((1.0, INFINITE), (INFINITE, INFINITE), (1.0, 2.0)):
        optimizer.zero_grad()
        scaler.scale((weight * of_ranks[rank.rank]).sum()).backward()
        optimizer.step(0.1)
        weights.append(weight.item())
        scales.append(scaler.get_scale())
    print([weights, scales])  # noqa: T201


run_and_leave(main)
