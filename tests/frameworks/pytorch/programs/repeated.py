"""CASE_FILE, STEPS: this rank's first batch, again and again; prints one loss per line."""

import sys

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.pytorch.rendezvous import run_and_leave
from frameworks.pytorch.settings import configure
from frameworks.pytorch.train import make_trainer


def main() -> None:
    case, rank = read_case(sys.argv[1]), rank_from_environment()
    configure(case)
    trainer = make_trainer(case, rank)
    (batch,) = batches(case, rank.rank, 1)
    for step in range(int(sys.argv[2])):
        print(trainer.step(batch, step).wait(), flush=True)  # noqa: T201


run_and_leave(main)
