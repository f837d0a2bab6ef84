"""A large gradient and 1, of two ranks, added up and averaged in each dtype: prints what both get.

Float16 has no 2049, and bfloat16 no 257.
"""

import json

import torch
from torch import nn

from frameworks.common.case import rank_from_environment
from frameworks.common.phases import Phases
from frameworks.pytorch.parallel import join
from frameworks.pytorch.rendezvous import run_and_leave

DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    rank = rank_from_environment()
    ranks = join(rank, torch.device("cpu"), Phases(lambda: None))
    found = {}
    for name, dtype in DTYPES.items():
        for mean in (False, True):
            layer = nn.Linear(1, 1, bias=False)
            reduced = ranks.reducing(layer, mean=mean, dtype=dtype)
            large = 256.0 if name == "bfloat16" else 2048.0
            reduced(torch.full((1, 1), (large, 1.0)[rank.rank])).sum().backward()
            assert layer.weight.grad.dtype == torch.float32
            found[f"{name} {'mean' if mean else 'sum'}"] = layer.weight.grad.item()
    print(json.dumps(found))  # noqa: T201


run_and_leave(main)
