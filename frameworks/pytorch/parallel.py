"""The ranks of a case and what they exchange: torch.distributed, with gloo on CPU and NCCL on CUDA."""

import time
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any, Iterator, List, Optional, Tuple

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
    return Ranks(rank.world_size, phases, meet(rank, device), device.type)


class Ranks:
    """All ranks together. On CUDA every call is queued in the current stream, and the host does not wait.

    A single rank gets back what it gave, and sends nothing.
    """

    def __init__(
        self, size: int, phases: Phases, store: Optional[dist.Store] = None, device: str = "cpu"
    ) -> None:
        self.size, self._phases, self._store, self._device = size, phases, store, device
        self._exchanges: List[Tuple[Any, Any]] = []
        self._last_bucket: Any = None

    def _now(self) -> Any:
        """The host's clock, or a place in the CUDA stream; it does not wait."""
        if self._device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """A block in which this rank does nothing but communicate."""
        with self._phases(COMMUNICATION):
            start = self._now()
            yield
            self._exchanges.append((start, self._now()))

    def gradients_arrived(self) -> None:
        """To be called behind the backward pass of a module from `reducing`, which waits for all buckets.

        When the last bucket is sent, all gradients of this rank are computed: from then on it waits.
        """
        if self._last_bucket is not None:
            self._exchanges.append((self._last_bucket, self._now()))
            self._last_bucket = None

    def exchanges(self) -> List[Tuple[Any, Any]]:
        """Starts and ends of the exchanges since the last call: `time.perf_counter()`, on CUDA events."""
        exchanges, self._exchanges = self._exchanges, []
        return exchanges

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
        with self._exchange():
            _all_gather(everyones, own.contiguous())
        return everyones

    def own_sum(self, everyones: torch.Tensor) -> torch.Tensor:
        """This rank's part, [N, ...], of the sum over the ranks of [R N, ...]."""
        if self.size == 1:
            return everyones
        own = everyones.new_empty(everyones.shape[0] // self.size, *everyones.shape[1:])
        with self._exchange():
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
            with self._exchange():
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
        self._last_bucket = self._now()
        with self._phases(COMMUNICATION):
            sent = gradients if dtype is None else gradients.to(dtype)
            work = dist.all_reduce(sent, operation, async_op=True)
            if self._phases.on:
                work.wait()
        return work.get_future().then(
            lambda done: done.value()[0] if dtype is None else gradients.copy_(done.value()[0])
        )
