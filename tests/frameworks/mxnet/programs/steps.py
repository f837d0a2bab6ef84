"""CASE_FILE: three steps of the trainer; every trained array before and after, and its gradient, a step."""

import sys

import numpy as np

from frameworks.common.case import rank_from_environment, read_case
from frameworks.common.data import batches
from frameworks.mxnet.train import make_trainer


def main() -> None:
    case = read_case(sys.argv[1])
    trainer = make_trainer(case, rank_from_environment())
    results = {}
    for iteration, batch in enumerate(batches(case, 0, 3)):
        results.update({f"{iteration}/before/{n}": p.data().asnumpy() for n, p in trainer.trained.items()})
        loss, _ = trainer.forward_backward(batch)
        results.update({f"{iteration}/gradient/{n}": p.grad().asnumpy() for n, p in trainer.trained.items()})
        trainer.update(loss, iteration).wait()
        results.update({f"{iteration}/after/{n}": p.data().asnumpy() for n, p in trainer.trained.items()})
    np.savez(sys.argv[2], **results)


main()
