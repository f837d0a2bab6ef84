"""CASE_FILE: a small network with the case's split classifier, eager and compiled: losses, gradients.

`left`: whether compiling changed no array, and left nothing to compile for the step.
"""

import sys

import numpy as np
import torch
from torch._dynamo.utils import counters

from frameworks.common.case import read_case
from frameworks.common.networks import BatchNorm, Conv, Flatten, Linear, PReLU
from frameworks.common.phases import Phases
from frameworks.pytorch.head_sharded import ShardedMarginSoftmax
from frameworks.pytorch.model import Backbone, TrainingModule, compile_now, ready
from frameworks.pytorch.network import build_network, named_arrays
from frameworks.pytorch.parallel import Ranks

LAYERS = (
    Conv("a.conv", 3, 8, 3, 16, 1, 1),
    BatchNorm("a.bn", 8, 1e-3),
    PReLU("a.prelu", 8),
    Flatten("flatten"),
    Linear("b.linear", 8 * 7 * 7, 16),
    BatchNorm("b.bn", 16, 2e-5, fixed_gamma=True),
)


def main() -> None:
    case, alone, results = read_case(sys.argv[1]), Ranks(1, Phases(lambda: None)), {}
    random = np.random.default_rng(3)
    images = torch.from_numpy(random.integers(0, 256, (case.batch_size_per_device, 3, 112, 112), np.uint8))
    labels = torch.arange(case.batch_size_per_device)
    for form in ("eager", "compiled"):
        torch.manual_seed(1)
        own = case if form == "compiled" else case._replace(options={})
        backbone = Backbone(build_network(LAYERS), torch.float32, torch.channels_last, None)
        head = ShardedMarginSoftmax(case.loss, range(20), 16, alone, compiled=form == "compiled")
        torch.nn.init.normal_(head.weight, std=0.01)
        module = TrainingModule(backbone, head)
        arrays = named_arrays(module)
        made = ready(own, module, alone)
        before = {name: array.detach().clone() for name, array in arrays.items()}
        compile_now(own, made, alone)
        for name, array in arrays.items():
            results[f"{form}/left/{name}"] = torch.equal(before[name], array.detach())
        compiled = counters["stats"]["unique_graphs"]
        loss, _ = made(images, labels)
        loss.backward()
        results[f"{form}/left/for later"] = counters["stats"]["unique_graphs"] == compiled
        results[f"{form}/loss"] = loss.item()
        for name, array in arrays.items():
            results[f"{form}/after/{name}"] = array.grad if array.requires_grad else array
    np.savez(sys.argv[2], **{name: np.asarray(value) for name, value in results.items()})


main()
