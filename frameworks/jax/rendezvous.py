"""How the ranks of a case meet with jax.distributed, and how they part."""

import os
import socket
import traceback
from typing import Callable

import jax

from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Rank, rank_from_environment
from frameworks.common.program import exit_at_once


class RendezvousError(Exception):
    """What keeps the ranks from meeting."""


def meet(rank: Rank) -> None:
    """Wait up to RENDEZVOUS_SECONDS for the other ranks; before JAX looks for devices.

    A single rank has none to wait for. Within one node only that node is answered.

    Raises:
        RendezvousError: rank 0 cannot serve at the master's port.
        RuntimeError: the others did not come.
    """
    if rank.world_size == 1:
        return
    within = rank.world_size == rank.local_world_size
    serving = f"{rank.master_address if within else '0.0.0.0'}:{rank.master_port}"  # noqa: S104
    if rank.rank == 0:
        _refuse_a_taken_port(rank.master_port)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"{rank.master_address}:{rank.master_port}",
        rank.world_size,
        rank.rank,
        local_device_ids=[rank.local_rank],
        initialization_timeout=RENDEZVOUS_SECONDS,
        heartbeat_timeout_seconds=COLLECTIVE_SECONDS,
        coordinator_bind_address=serving,
    )


def _refuse_a_taken_port(port: int) -> None:
    """JAX would end with SIGABRT and a stack."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RendezvousError(f"rank 0 cannot serve the other ranks at port {port}: {reason}") from None


def run_and_leave(program: Callable[[], None]) -> None:
    """Meet the other ranks and run this rank's program; if it fails on one of several, end at once.

    JAX's shutdown waits for the other ranks, which wait for this one: the failure would show only when one of
    them gives up, and as that one's.
    """
    rank = rank_from_environment()
    try:
        meet(rank)
        program()
    except Exception:
        if rank.world_size == 1:
            raise
        traceback.print_exc()
        exit_at_once(1)
    if rank.world_size > 1:
        jax.distributed.shutdown()
