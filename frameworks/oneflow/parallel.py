"""The ranks of a case and what they exchange: tensors on one placement, and how each is spread (its SBP).

OneFlow finds the other ranks when it is imported (`rendezvous.py`). A single rank is a placement of one, and
runs the same program.
"""

import numpy as np
import oneflow as flow
from oneflow import Tensor

from frameworks.common.case import Case, Rank
from frameworks.oneflow.settings import device

# How a tensor is spread: the same on every rank; by rows, each rank its own; as a sum of the ranks' parts.
REPLICATED, BY_ROWS, AS_SUM = flow.sbp.broadcast, flow.sbp.split(0), flow.sbp.partial_sum


def join(case: Case, rank: Rank) -> "Ranks":
    """The case's ranks.

    Raises:
        ValueError: OneFlow met another number of ranks, or as another rank, than the case says.
    """
    met = (flow.env.get_rank(), flow.env.get_world_size())
    if met != (rank.rank, rank.world_size):
        raise ValueError(
            f"OneFlow is rank {met[0]} of {met[1]}, this process rank {rank.rank} of {rank.world_size}; "
            "RANK and WORLD_SIZE must say the same as DLPERF_RANK and DLPERF_WORLD_SIZE"
        )
    return Ranks(device(case), rank.world_size)


class Ranks:
    """All ranks of a case; each of them makes every call, in the same order."""

    def __init__(self, device: flow.device, size: int) -> None:
        self.device, self.size = device, size
        self.placement = flow.placement(device.type, list(range(size)))

    def spread(self, own: np.ndarray, sbp: flow.sbp.sbp) -> Tensor:
        """The global tensor on the case's devices of which this rank has `own`.

        With BY_ROWS the first ranks must have the longer parts, as `class_range` cuts them. On a CPU it uses
        the memory of `own`.
        """
        return flow.from_numpy(own).to(self.device).to_global(placement=self.placement, sbp=sbp)

    def everyones(self, own: np.ndarray) -> np.ndarray:
        """[N, ...] of every rank -> [R N, ...] in the order of the ranks, both on the host."""
        if self.size == 1:
            return own
        hosts = flow.placement("cpu", list(range(self.size)))
        return flow.from_numpy(own).to_global(placement=hosts, sbp=BY_ROWS).to_global(sbp=REPLICATED).numpy()


def own_part(array: Tensor) -> Tensor:
    """This rank's part of a global tensor, on its device."""
    return array.to_local()
