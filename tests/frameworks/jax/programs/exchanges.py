"""This rank's number is added to the others', again and again; prints one sum per line."""

import jax
import numpy as np

from frameworks.common.case import rank_from_environment
from frameworks.jax.parallel import Ranks
from frameworks.jax.rendezvous import run_and_leave


def main() -> None:
    rank = rank_from_environment()
    ranks = Ranks(rank.world_size)
    ranks.wait_for_all("started")
    while True:
        print(ranks.everyones(np.array([rank.rank], np.int32)).sum(), flush=True)  # noqa: T201


jax.config.update("jax_platforms", "cpu")
run_and_leave(main)
