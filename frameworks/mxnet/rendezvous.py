"""Bring the processes of a case together with Horovod: by Gloo and the environment, without MPI.

Rank 0 serves Horovod's own rendezvous at the master's address; dlperf's supervisor has started the processes.
"""

import http.client
import os
import threading
import time
from typing import Any, Dict

from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Rank

_ASK_AGAIN_SECONDS = 0.05


class RendezvousError(Exception):
    """The processes did not find each other; the text says which one is missing, or what is in the way."""


def join(rank: Rank) -> Any:
    """Wait for the other processes, give Horovod's MXNet module, ready for use.

    Raises:
        RendezvousError: rank 0 cannot serve at the master's address, or a rank does not come in time.
    """
    placed, tuned = horovod_variables(rank)
    os.environ.update(placed)
    for name, value in tuned.items():
        os.environ.setdefault(name, value)
    if rank.rank == 0:
        _serve(rank)
    _await_all(rank)
    import horovod.mxnet as hvd  # noqa: PLC0415 - it reads the environment when it is imported

    hvd.init()
    if hvd.size() != rank.world_size:
        raise RendezvousError(f"Horovod found {hvd.size()} processes of {rank.world_size}")
    return hvd


def horovod_variables(rank: Rank) -> "tuple[Dict[str, str], Dict[str, str]]":
    """What Horovod reads of its environment: this process's place, and what a user may set otherwise."""
    nodes = rank.world_size // rank.local_world_size
    placed = {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_RANK": str(rank.rank),
        "HOROVOD_SIZE": str(rank.world_size),
        "HOROVOD_LOCAL_RANK": str(rank.local_rank),
        "HOROVOD_LOCAL_SIZE": str(rank.local_world_size),
        "HOROVOD_CROSS_RANK": str(rank.node_rank),
        "HOROVOD_CROSS_SIZE": str(nodes),
        "HOROVOD_HOSTNAME": _host(rank.node_rank),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": rank.master_address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(rank.master_port),
    }
    tuned = {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(COLLECTIVE_SECONDS),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(COLLECTIVE_SECONDS),
    }
    interface = rank.interface or ("lo" if nodes == 1 else None)
    if interface:
        tuned["HOROVOD_GLOO_IFACE"] = interface
    if rank.interface:
        tuned["NCCL_SOCKET_IFNAME"] = rank.interface
    return placed, tuned


def _host(node_rank: int) -> str:
    return f"node{node_rank}"


def _serve(rank: Rank) -> None:
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments  # noqa: PLC0415
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer  # noqa: PLC0415

    nodes = rank.world_size // rank.local_world_size
    hosts = [HostInfo(_host(node), rank.local_world_size) for node in range(nodes)]
    address = rank.master_address if nodes == 1 else ""
    try:
        server = RendezvousHTTPServer((address, rank.master_port), RendezvousHandler, verbose=0)
    except OSError as error:
        where = f"{rank.master_address}:{rank.master_port}"
        raise RendezvousError(f"rank 0 cannot serve the other ranks at {where}: {error.strerror}") from None
    server.init(get_host_assignments(hosts, rank.world_size))
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _await_all(rank: Rank) -> None:
    """Meet the other ranks at rank 0's server: Horovod gives up on one that is still importing too early."""
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    _until(deadline, rank, "PUT", rank.rank)
    for other in range(rank.world_size):
        _until(deadline, rank, "GET", other)


def _until(deadline: float, rank: Rank, method: str, about: int) -> None:
    while not _answered(rank, method, about):
        if time.monotonic() > deadline:
            missing = 0 if method == "PUT" else about
            raise RendezvousError(f"rank {missing} did not come within {RENDEZVOUS_SECONDS} s")
        time.sleep(_ASK_AGAIN_SECONDS)


def _answered(rank: Rank, method: str, about: int) -> bool:
    connection = http.client.HTTPConnection(rank.master_address, rank.master_port, timeout=RENDEZVOUS_SECONDS)
    try:
        connection.request(method, f"/arrived/{about}", body="1" if method == "PUT" else None)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # its server is not there yet, or overrun
        return False
    finally:
        connection.close()
