"""The ranks of a case and what they send each other: torch.distributed, by gloo on CPU and NCCL on CUDA."""

import os
import socket
import sys
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Rank
from frameworks.common.phases import COMMUNICATION, Phases


def processes(rank: Rank) -> int:
    """How many processes train the case: one a device, or one alone that stands for all devices."""
    return 1 if rank.devices == rank.world_size else rank.world_size


def join(rank: Rank, device: torch.device, phases: Phases) -> "Ranks":
    """Meet the other ranks; a process alone has none to meet.

    Raises:
        OSError: the port of the meeting is taken.
        RuntimeError: the others did not come within RENDEZVOUS_SECONDS.
    """
    if processes(rank) == 1:
        return Ranks(1, phases)
    store = _meeting_place(rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        device_id=device if device.type == "cuda" else None,
    )
    return Ranks(rank.world_size, phases, store)


def _meeting_place(rank: Rank) -> dist.TCPStore:
    """The store where the ranks find each other. Within one node it hears nobody outside."""
    listener = None
    if rank.rank == 0 and rank.world_size == rank.local_world_size:
        address = (rank.master_address, rank.master_port)
        listener = socket.create_server(address).detach()  # from here on the store's
    return dist.TCPStore(
        rank.master_address,
        rank.master_port,
        rank.world_size,
        rank.rank == 0,
        timeout=timedelta(seconds=RENDEZVOUS_SECONDS),
        master_listen_fd=listener,
    )


def leave() -> None:
    """Part from the other ranks when all are done, and end the process; a process alone just goes on.

    The interpreter is not taken down: a thread of gloo that gives back its last tensor meanwhile would abort
    a rank that has done all its work ("terminate called without an active exception").
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Ranks:
    """All ranks together. On CUDA every call is queued behind the current stream, and the host goes on.

    A rank alone gets back what it gave, and sends nothing.
    """

    def __init__(self, size: int, phases: Phases, store: Optional[dist.Store] = None) -> None:
        self.size, self._phases, self._store = size, phases, store

    def meet(self, where: str) -> None:
        """Wait for all ranks, up to RENDEZVOUS_SECONDS: they may be far apart where each has compiled."""
        if self._store is None:
            return
        self._store.set(f"{where}/{dist.get_rank()}", "here")
        everyone = [f"{where}/{rank}" for rank in range(self.size)]
        self._store.wait(everyone, timedelta(seconds=RENDEZVOUS_SECONDS))

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """What all ranks gave, [R N, ...], in the order of the ranks; every rank gives [N, ...]."""
        if self.size == 1:
            return own
        everyones = own.new_empty(self.size * own.shape[0], *own.shape[1:])
        with self._phases(COMMUNICATION):
            dist.all_gather_single(everyones, own.contiguous())
        return everyones

    def own_sum(self, everyones: torch.Tensor) -> torch.Tensor:
        """Of the sum over the ranks of [R N, ...] this rank's part, [N, ...]."""
        if self.size == 1:
            return everyones
        own = everyones.new_empty(everyones.shape[0] // self.size, *everyones.shape[1:])
        with self._phases(COMMUNICATION):
            dist.reduce_scatter_single(own, everyones.contiguous())
        return own

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Add up over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def mean_(self, values: torch.Tensor) -> torch.Tensor:
        """Average over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.AVG)

    def maximum_(self, values: torch.Tensor) -> torch.Tensor:
        """Take the largest over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: torch.Tensor, operation: Any) -> torch.Tensor:
        if self.size > 1:
            with self._phases(COMMUNICATION):
                dist.all_reduce(values, operation)
        return values

    def reducing(self, module: nn.Module, *, mean: bool) -> nn.Module:
        """`module`, its gradients averaged or summed over the ranks, bucket by bucket as backward gives them.

        Sums are for a loss that is the mean over the global batch already. While phases are taken a bucket
        is waited for; otherwise it travels while backward goes on.
        """
        if self.size == 1:
            return module
        wrapped = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(dist.ReduceOp.AVG if mean else dist.ReduceOp.SUM, self._reduce_bucket)
        return wrapped

    def _reduce_bucket(self, operation: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        with self._phases(COMMUNICATION):
            work = dist.all_reduce(bucket.buffer(), operation, async_op=True)
            if self._phases.on:
                work.wait()
        return work.get_future().then(lambda done: done.value()[0])
