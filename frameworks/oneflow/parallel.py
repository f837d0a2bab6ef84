"""The ranks of a case as OneFlow sees them: tensors on one placement, and how each is spread (its SBP).

OneFlow finds the other ranks by the environment that the adapter sets, when it is imported. A rank alone is a
placement of one, and the same program.
"""

import os
import sys
import traceback
from typing import Callable

import numpy as np
import oneflow as flow
from oneflow import Tensor

from frameworks.common.case import Case, Rank, rank_from_environment

# How a tensor is spread: the same on every rank; by rows, each rank its own; as a sum of the ranks' parts.
REPLICATED, BY_ROWS, AS_SUM = flow.sbp.broadcast, flow.sbp.split(0), flow.sbp.partial_sum


class Ranks:
    """All ranks of a case together; every call is made by all of them, in the same order."""

    def __init__(self, case: Case, rank: Rank) -> None:
        """Check that OneFlow met those ranks.

        Raises:
            ValueError: OneFlow was told of another number of ranks, or of another rank, than the case has.
        """
        met = (flow.env.get_rank(), flow.env.get_world_size())
        if met != (rank.rank, rank.world_size):
            raise ValueError(
                f"OneFlow is rank {met[0]} of {met[1]}, this process rank {rank.rank} of {rank.world_size}; "
                "RANK and WORLD_SIZE must say the same as DLPERF_RANK and DLPERF_WORLD_SIZE"
            )
        self.size = rank.world_size
        self.device = device(case, rank)
        self._everyone = list(range(rank.world_size))
        self.placement = flow.placement(case.device, self._everyone)

    def spread(self, own: np.ndarray, sbp: flow.sbp.sbp) -> Tensor:
        """The global tensor on the case's devices of which this rank holds `own`.

        With BY_ROWS the first ranks must have the longer parts, as `class_range` cuts them. On a CPU it lives
        in the memory of `own`.
        """
        return flow.from_numpy(own).to(self.device).to_global(placement=self.placement, sbp=sbp)

    def everyones(self, own: np.ndarray) -> np.ndarray:
        """What all ranks gave, [R N, ...], in the order of the ranks; each gives [N, ...] of its host."""
        if self.size == 1:
            return own
        hosts = flow.placement("cpu", self._everyone)
        return flow.from_numpy(own).to_global(placement=hosts, sbp=BY_ROWS).to_global(sbp=REPLICATED).numpy()


def device(case: Case, rank: Rank) -> flow.device:
    """The device that this rank drives; CPUs are not told apart."""
    return flow.device("cuda", rank.local_rank) if case.device == "cuda" else flow.device("cpu", 0)


def own_part(array: Tensor) -> Tensor:
    """What this rank holds of a global tensor, on its device."""
    return array.to_local()


def end_at_once(program: Callable[[], None]) -> None:
    """Run a program; where it fails on one rank of several, end this process without a farewell.

    OneFlow's own waits for the other ranks, which wait for this one: the failure would show only when one of
    them gives up, and as that one's.
    """
    try:
        program()
    except Exception:
        if rank_from_environment().world_size == 1:
            raise
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
