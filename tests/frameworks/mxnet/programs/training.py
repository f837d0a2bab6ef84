"""CASE_FILE, STEPS: train so many steps on one batch, waiting at once and one step behind: losses, arrays."""

from __future__ import annotations

import sys

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import Batch, batches
from frameworks.mxnet.train import MXNetTrainer, make_trainer


def losses_behind(trainer: MXNetTrainer, batch: Batch, steps: int) -> list[float]:
    """As in the measured loop: the next step is queued before the last one's loss is read."""
    losses, running = [], None
    for iteration in range(steps):
        started = trainer.step(batch, iteration)
        if running is not None:
            losses.append(running.wait())
        running = started
    return [*losses, running.wait()]


def main() -> None:
    case, steps = read_case(sys.argv[1]), int(sys.argv[2])
    (batch,) = batches(case, 0, 1)
    trainer = make_trainer(case, rank_from_environment())
    at_once = [trainer.step(batch, iteration).wait() for iteration in range(steps)]
    results = {f"array/{name}": array.data().asnumpy() for name, array in trainer.arrays.items()}
    again = make_trainer(case, rank_from_environment())
    behind = losses_behind(again, batch, steps)
    np.savez(sys.argv[3], at_once=at_once, behind=behind, **results)


main()
