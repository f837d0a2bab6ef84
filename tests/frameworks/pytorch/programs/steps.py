"""CASE_FILE...: three steps of the trainer of each; every trained array before and after, and its gradient.

`<case>/<step>/` precedes the arrays of a case, which is named like its file.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from frameworks.common.case import Case, rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.pytorch.train import make_trainer


def steps(case: Case) -> "dict[str, np.ndarray]":
    trainer = make_trainer(case, rank_from_environment())
    trained = {name: a for name, a in trainer.arrays.items() if isinstance(a, torch.nn.Parameter)}
    found = {}
    for iteration, batch in enumerate(batches(case, 0, 3)):
        found.update({f"{iteration}/before/{n}": a.detach().numpy().copy() for n, a in trained.items()})
        loss, _ = trainer.forward_backward(batch)
        found.update({f"{iteration}/gradient/{n}": a.grad.numpy().copy() for n, a in trained.items()})
        trainer.update(loss, iteration).wait()
        found.update({f"{iteration}/after/{n}": a.detach().numpy().copy() for n, a in trained.items()})
    return found


def main() -> None:
    results = {}
    for path in map(Path, sys.argv[1:-1]):
        results.update({f"{path.stem}/{name}": array for name, array in steps(read_case(str(path))).items()})
    np.savez(sys.argv[-1], **results)


main()
