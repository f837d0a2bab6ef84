"""No argument but the output: how many tensors are pinned before the first batch is fed, and by feeding.

Pinned memory and streams need a GPU. What torch offers for them is replaced here by what only counts.
"""

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from frameworks.pytorch.train import Feeder

PINNED = 0


def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
    global PINNED  # noqa: PLW0603
    PINNED += 1
    return tensor.clone()


def main() -> None:
    torch.Tensor.pin_memory = pin_memory
    torch.Tensor.record_stream = lambda *_: None
    torch.Tensor.to = lambda tensor, *_, **__: tensor
    torch.cuda.Stream = lambda _device: "a stream"
    torch.cuda.stream = lambda _stream: nullcontext()
    current: Any = SimpleNamespace(wait_stream=lambda _stream: None)
    torch.cuda.current_stream = lambda _device: current
    batches = [(np.full((2, 3), number, np.uint8), np.full(2, number)) for number in range(10)]
    feed = Feeder(torch.device("cuda"), batches)
    before = PINNED
    fed = [int(feed(batch)[0][0, 0]) for batch in (*batches, *batches)]
    repeated = PINNED
    for _ in range(2):
        feed((np.zeros((2, 3), np.uint8), np.zeros(2)))
    np.savez(sys.argv[1], before=before, repeated=repeated, other=PINNED, fed=fed)


main()
