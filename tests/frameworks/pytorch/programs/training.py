"""CASE_FILE, STEPS: train that many steps on one batch; losses and arrays."""

import sys

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.pytorch.settings import configure
from frameworks.pytorch.train import make_trainer


def main() -> None:
    case, steps = read_case(sys.argv[1]), int(sys.argv[2])
    configure(case)
    (batch,) = batches(case, 0, 1)
    trainer = make_trainer(case, rank_from_environment())
    losses = [trainer.step(batch, iteration).wait() for iteration in range(steps)]
    arrays = {f"array/{name}": array.detach().numpy() for name, array in trainer.arrays.items()}
    np.savez(sys.argv[3], losses=losses, **arrays)


main()
