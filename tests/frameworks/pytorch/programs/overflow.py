"""Loss scaling with the fused SGD: a skipped first step, then two others. And how the TF32 settings read."""

import sys

import numpy as np
import torch
from torch import nn

from frameworks.common.case import Optimizer
from frameworks.common.phases import Phases
from frameworks.pytorch.optimizer import CaseSGD
from frameworks.pytorch.parallel import Ranks
from frameworks.pytorch.precision import AgreedGradScaler, set_fp32_precision


def main() -> None:
    results = {}
    for decay in ("coupled", "decoupled"):
        weight = nn.Parameter(torch.ones(4))
        scaler = AgreedGradScaler(torch.device("cpu"), Ranks(1, Phases(lambda: None)), enabled=True)
        optimizer = CaseSGD({"w": weight}, {"w": "linear"}, Optimizer("sgd", 0.9, 0.5, decay, ()), scaler)
        for step, gradient in enumerate((float("inf"), 2.0, 2.0), 1):
            optimizer.zero_grad()
            scaler.scale((weight * gradient).sum()).backward()
            optimizer.step(0.1)
            results[f"{decay}/{step}"] = weight.detach().numpy().copy()
            results[f"{decay}/{step}/scale"] = scaler.get_scale()
    for tf32 in (False, True):
        set_fp32_precision(tf32=tf32)
        read = [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
        results[f"tf32/{tf32}"] = [*read, torch.get_float32_matmul_precision() == "high"]
    np.savez(sys.argv[1], **results)


main()
