"""CASE_FILE: with CUDA graphs, the calls of the compiled module before the first step, and in two steps.

Graphs need a GPU. Here torch.compile is replaced by what keeps a record of each call: whether gradients are
alive before it; how many steps were announced so far; and whether its outputs live until the backward pass is
over. Torch records again where the first or the last is not as in the call that it recorded.

Arrays: `before`, the number of calls before the first step; `calls` [calls, 3]; `left/NAME`, whether the
array is as it was given; `random`, whether compiling changed no random number.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.common.initial import initial_arrays
from frameworks.common.margin import held_classes
from frameworks.pytorch import model, train

CALLS: list[list[int]] = []
STEPS = 0


class Recorded(nn.Module):
    """Stands for a compiled module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> Any:
        gradients = any(parameter.grad is not None for parameter in self.module.parameters())
        outputs = self.module(*inputs)
        made = outputs if isinstance(outputs, tuple) else (outputs,)
        alive = [StorageWeakRef(output.untyped_storage()) for output in made]
        call = [int(gradients), STEPS, 0]
        CALLS.append(call)

        def at_the_end(_gradient: torch.Tensor) -> None:
            call[2] = int(not any(storage.expired() for storage in alive))
            handle.remove()

        handle = next(self.module.parameters()).register_hook(at_the_end)
        return outputs


def mark_step_begin() -> None:
    global STEPS  # noqa: PLW0603
    STEPS += 1


def main() -> None:
    torch.compile = lambda made, **_settings: Recorded(made) if isinstance(made, nn.Module) else made
    torch.compiler.cudagraph_mark_step_begin = mark_step_begin
    case, rank, random = read_case(sys.argv[1]), rank_from_environment(), []

    def compile_now(*arguments: Any) -> None:
        state = torch.get_rng_state()
        model.compile_now(*arguments)
        random.append(torch.equal(state, torch.get_rng_state()))

    train.compile_now = compile_now
    trainer = train.make_trainer(case, rank)
    before = len(CALLS)
    given = initial_arrays(case, held_classes(case, rank))
    left = {
        f"left/{name}": np.array_equal(given[name], array.detach().numpy())
        for name, array in trainer.arrays.items()
    }
    (batch,) = batches(case, 0, 1)
    for iteration in range(2):
        trainer.step(batch, iteration).wait()
    np.savez(sys.argv[2], before=before, calls=np.array(CALLS), random=all(random), **left)


main()
