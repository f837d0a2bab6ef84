"""CASE_FILE, STEPS, WAIT, OUTPUTS.npz: train that often on one batch; losses and arrays, a file a rank.

WAIT `at_once` reads each loss before the next step and also notes `rest`: which share of the step's time was
still to come when `wait` returned. `behind` queues the next step first, as the measured loop does.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from frameworks.common.align import outputs_name
from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import Batch, batches
from frameworks.oneflow.parallel import own_part
from frameworks.oneflow.rendezvous import run_and_leave
from frameworks.oneflow.train import OneFlowTrainer, make_trainer


def losses_at_once(trainer: OneFlowTrainer, batch: Batch, steps: int) -> tuple[list[float], list[float]]:
    losses, rest = [], []
    for iteration in range(steps):
        start = time.perf_counter()
        losses.append(trainer.step(batch, iteration).wait())
        waited = time.perf_counter()
        trainer.start_window()
        rest.append((time.perf_counter() - waited) / (time.perf_counter() - start))
    return losses, rest


def losses_behind(trainer: OneFlowTrainer, batch: Batch, steps: int) -> list[float]:
    losses, running = [], None
    for iteration in range(steps):
        started = trainer.step(batch, iteration)
        if running is not None:
            losses.append(running.wait())
        running = started
    return [*losses, running.wait()]


def main() -> None:
    case, steps = read_case(sys.argv[1]), int(sys.argv[2])
    rank = rank_from_environment()
    (batch,) = batches(case, rank.rank, 1)
    trainer = make_trainer(case, rank)
    before = {f"before/{name}": own_part(array).numpy().copy() for name, array in trainer.arrays.items()}
    if sys.argv[3] == "at_once":
        losses, rest = losses_at_once(trainer, batch, steps)
    else:
        losses, rest = losses_behind(trainer, batch, steps), []
    after = {f"after/{name}": own_part(array).numpy() for name, array in trainer.arrays.items()}
    np.savez(outputs_name(sys.argv[4], rank.rank), losses=losses, rest=rest, **before, **after)


run_and_leave(main)
