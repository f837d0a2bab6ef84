"""How the processes of a case meet with Horovod: through Gloo and environment variables, without MPI.

dlperf's supervisor starts the processes. Rank 0 runs Horovod's own rendezvous server at the master's address.
"""

import http.client
import os
import threading
import time
from typing import Any, Dict, Tuple

from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Rank

_RETRY_SECONDS = 0.05


class RendezvousError(Exception):
    """The processes did not find each other; the text says which one is missing, or what went wrong."""


def meet(rank: Rank) -> Any:
    """Wait for the other processes; Horovod's MXNet module, ready for use.

    Raises:
        RendezvousError: rank 0 cannot serve at the master's address, or a rank does not come in time.
    """
    required, defaults = horovod_variables(rank)
    os.environ.update(required)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if rank.rank == 0:
        _serve(rank)
    _await_all(rank)
    import horovod.mxnet as hvd  # noqa: PLC0415 - it reads the environment when it is imported

    hvd.init()
    if hvd.size() != rank.world_size:
        raise RendezvousError(f"Horovod found {hvd.size()} processes of {rank.world_size}")
    return hvd


def horovod_variables(rank: Rank) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Horovod's environment variables: what this process needs, and defaults that a user may override."""
    nodes = rank.world_size // rank.local_world_size
    required = {
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
    defaults = {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(COLLECTIVE_SECONDS),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(COLLECTIVE_SECONDS),
    }
    interface = rank.interface or ("lo" if nodes == 1 else None)
    if interface:
        defaults["HOROVOD_GLOO_IFACE"] = interface
    if rank.interface:
        defaults["NCCL_SOCKET_IFNAME"] = rank.interface
    return required, defaults


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
    """Meet the other ranks at rank 0's server: Horovod gives up too early on ranks that still import."""
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    for method, about in (("PUT", rank.rank), *(("GET", other) for other in range(rank.world_size))):
        while not _answered(rank, method, about):
            if time.monotonic() > deadline:
                missing = 0 if method == "PUT" else about
                raise RendezvousError(f"rank {missing} did not come within {RENDEZVOUS_SECONDS} s")
            time.sleep(_RETRY_SECONDS)


def _answered(rank: Rank, method: str, about: int) -> bool:
    connection = http.client.HTTPConnection(rank.master_address, rank.master_port, timeout=RENDEZVOUS_SECONDS)
    try:
        connection.request(method, f"/arrived/{about}", body="1" if method == "PUT" else None)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # the server is not up yet, or overloaded
        return False
    finally:
        connection.close()
