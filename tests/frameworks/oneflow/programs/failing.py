"""One of several ranks fails while the others wait for it."""

import oneflow as flow

from frameworks.common.case import rank_from_environment
from frameworks.oneflow.parallel import BY_ROWS, REPLICATED
from frameworks.oneflow.rendezvous import run_and_leave


def main() -> None:
    everyone = flow.placement("cpu", [0, 1])
    for attempt in range(2):
        if attempt and rank_from_environment().rank == 1:
            raise ValueError("planted")
        flow.ones(1).to_global(placement=everyone, sbp=BY_ROWS).to_global(sbp=REPLICATED).numpy()


run_and_leave(main)
