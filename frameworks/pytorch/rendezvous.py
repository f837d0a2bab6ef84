"""How the ranks of a case meet with torch.distributed, and how they part."""

import socket
from datetime import timedelta
from typing import Callable

import torch
import torch.distributed as dist

from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Rank
from frameworks.common.program import exit_at_once


def meet(rank: Rank, device: torch.device) -> dist.Store:
    """Wait for the other ranks; the store through which they met.

    Raises:
        OSError: the port is taken.
        RuntimeError: the others did not come within RENDEZVOUS_SECONDS.
    """
    store = _store(rank)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        device_id=device if device.type == "cuda" else None,
    )
    return store


def _store(rank: Rank) -> dist.TCPStore:
    """Where the ranks find each other. Within one node it accepts only connections from that node."""
    listener = None
    if rank.rank == 0 and rank.world_size == rank.local_world_size:
        address = (rank.master_address, rank.master_port)
        listener = socket.create_server(address).detach()  # now the store's
    return dist.TCPStore(
        rank.master_address,
        rank.master_port,
        rank.world_size,
        rank.rank == 0,
        timeout=timedelta(seconds=RENDEZVOUS_SECONDS),
        master_listen_fd=listener,
    )


def run_and_leave(program: Callable[[], None]) -> None:
    """Run this rank's program; one of several ranks then waits for the others and ends its process at once.

    The interpreter is not shut down: a thread of gloo that releases its last tensor meanwhile would abort a
    rank that has done all its work ("terminate called without an active exception").
    """
    program()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        exit_at_once(0)
