"""CASE_FILE: steps of Partial FC on one device; classifier, its momentum and the sample after each."""

import sys

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.common.initial import CLASSIFIER
from frameworks.pytorch.train import make_trainer


def main() -> None:
    case = read_case(sys.argv[1])
    trainer = make_trainer(case, rank_from_environment())
    results = {"0/weight": trainer.arrays[CLASSIFIER].numpy().copy()}
    results["0/momentum"] = trainer.rows.momentum.numpy().copy()
    for step, batch in enumerate(batches(case, 0, 3), 1):
        trainer.step(batch, step - 1).wait()
        results[f"{step}/weight"] = trainer.arrays[CLASSIFIER].numpy().copy()
        results[f"{step}/momentum"] = trainer.rows.momentum.numpy().copy()
        results[f"{step}/gradient"] = trainer.trained[CLASSIFIER].grad.numpy().copy()
        results[f"{step}/index"] = trainer.sampled_index()
        results[f"{step}/labels"] = batch[1]
    np.savez(sys.argv[2], **results)


main()
