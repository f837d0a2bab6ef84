"""A small network in fp16 and bf16 on CPU: losses on one batch, loss scales, and what type its maps have."""

import sys

import numpy as np
import torch

from frameworks.common.case import Loss, Optimizer
from frameworks.common.networks import BatchNorm, Conv, Flatten, Linear, PReLU, parameters
from frameworks.common.phases import Phases
from frameworks.pytorch.head import MarginSoftmax
from frameworks.pytorch.model import Backbone
from frameworks.pytorch.network import build_network, named_arrays
from frameworks.pytorch.optimizer import CaseSGD
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.precision import AgreedGradScaler

LAYERS = (
    Conv("a.conv", 3, 8, 3, 4, 1, 1),
    BatchNorm("a.bn", 8, 1e-3),
    PReLU("a.prelu", 8),
    Conv("b.conv", 8, 8, 3, 4, 1, 8),
    BatchNorm("b.bn", 8, 1e-3),
    Flatten("flatten"),
    Linear("c.linear", 8 * 7 * 7, 16),
    BatchNorm("c.bn", 16, 2e-5, fixed_gamma=True),
)
STEPS = 20


def train(half: torch.dtype) -> "dict[str, object]":
    torch.manual_seed(0)
    network, kinds = build_network(LAYERS), {spec.name: spec.kind for spec in parameters(LAYERS)}
    head = MarginSoftmax(Loss("arcface", 64.0, 1.0, 0.5, 0.0), 20, 16)
    torch.nn.init.normal_(head.weight, std=0.01)
    backbone = Backbone(network, torch.float32, torch.channels_last, half)
    seen = []
    network[3].register_forward_hook(lambda _module, _inputs, output: seen.append(str(output.dtype)))
    trained = {name: array for name, array in named_arrays(network).items() if array.requires_grad}
    trained["classifier"] = head.weight
    ranks = Ranks(1, Phases(lambda: None))
    scaler = AgreedGradScaler(torch.device("cpu"), ranks, enabled=half == torch.float16)
    sgd = Optimizer("sgd", 0.9, 0.0005, "coupled", ())
    optimizer = CaseSGD(trained, {**kinds, "classifier": "classifier"}, sgd, scaler)
    images = torch.randint(0, 256, (8, 3, 112, 112), dtype=torch.uint8)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = head(backbone(images), torch.arange(8))
        scaler.scale(loss).backward()
        optimizer.step(0.01)
        losses.append(loss.item())
    return {"losses": losses, "scale": scaler.get_scale(), "maps": sorted(set(seen))}


def main() -> None:
    made = {"fp16": train(torch.float16), "bf16": train(torch.bfloat16)}
    found = {f"{half}/{name}": value for half, of in made.items() for name, value in of.items()}
    np.savez(sys.argv[1], **found)


main()
