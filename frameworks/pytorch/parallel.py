"""The ranks of a case and what they exchange: torch.distributed, with gloo on CPU and NCCL on CUDA."""

from datetime import timedelta
from inspect import signature
from typing import Any, Optional, Tuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frameworks.common.case import RENDEZVOUS_SECONDS, Rank
from frameworks.common.phases import COMMUNICATION, Phases
from frameworks.pytorch.rendezvous import meet

# By the names of torch 2.13, which deprecates the older ones, or else by those.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_new_name = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
_OWN_BUFFERS = {"forward_sync_buffers" if _new_name else "broadcast_buffers": False}


def join(rank: Rank, device: torch.device, phases: Phases) -> "Ranks":
    """Meet the other ranks, as `meet` does; a process that stands for all devices has none to meet."""
    if rank.devices == rank.world_size:
        return Ranks(1, phases)
    return Ranks(rank.world_size, phases, meet(rank, device))


class Ranks:
    """All ranks together. On CUDA every call is queued in the current stream, and the host does not wait.

    A single rank gets back what it gave, and sends nothing.
    """

    def __init__(self, size: int, phases: Phases, store: Optional[dist.Store] = None) -> None:
        self.size, self._phases, self._store = size, phases, store

    def wait_for_all(self, point: str) -> None:
        """Wait up to RENDEZVOUS_SECONDS for all ranks, which compile at different speeds."""
        if self._store is None:
            return
        self._store.set(f"{point}/{dist.get_rank()}", "here")
        everyone = [f"{point}/{rank}" for rank in range(self.size)]
        self._store.wait(everyone, timedelta(seconds=RENDEZVOUS_SECONDS))

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """[N, ...] of every rank -> [R N, ...] in the order of the ranks."""
        if self.size == 1:
            return own
        everyones = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        with self._phases(COMMUNICATION):
            _all_gather(everyones, own.contiguous())
        return everyones

    def own_sum(self, everyones: torch.Tensor) -> torch.Tensor:
        """This rank's part, [N, ...], of the sum over the ranks of [R N, ...]."""
        if self.size == 1:
            return everyones
        own = everyones.new_empty(everyones.shape[0] // self.size, *everyones.shape[1:])
        with self._phases(COMMUNICATION):
            _reduce_scatter(own, everyones.contiguous())
        return own

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def mean_(self, values: torch.Tensor) -> torch.Tensor:
        """Average over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.AVG)

    def maximum_(self, values: torch.Tensor) -> torch.Tensor:
        """Maximum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: torch.Tensor, operation: Any) -> torch.Tensor:
        if self.size > 1:
            with self._phases(COMMUNICATION):
                dist.all_reduce(values, operation)
        return values

    def reducing(self, module: nn.Module, *, mean: bool, dtype: Optional[torch.dtype] = None) -> nn.Module:
        """`module`, its gradients averaged or summed over the ranks, bucket by bucket in the backward pass.

        They travel in `dtype`; None: as they are. Use sums if the loss already is the mean over the global
        batch. While phases are timed each bucket is
        waited for; otherwise it travels while the backward pass goes on.
        """
        if self.size == 1:
            return module
        wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True, **_OWN_BUFFERS)
        operation = dist.ReduceOp.AVG if mean else dist.ReduceOp.SUM
        wrapped.register_comm_hook((operation, dtype), self._reduce_bucket)
        return wrapped

    def _reduce_bucket(
        self, way: Tuple[Any, Optional[torch.dtype]], bucket: dist.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        operation, dtype = way
        gradients = bucket.buffer()
        with self._phases(COMMUNICATION):
            sent = gradients if dtype is None else gradients.to(dtype)
            work = dist.all_reduce(sent, operation, async_op=True)
            if self._phases.on:
                work.wait()
        return work.get_future().then(
            lambda done: done.value()[0] if dtype is None else gradients.copy_(done.value()[0])
        )
