"""How the processes find each other, and the error if one does not come."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from frameworks.common.case import Rank
from frameworks.mxnet import rendezvous
from frameworks.mxnet.rendezvous import RendezvousError, horovod_variables


def place(rank: int, *, nodes: int, per_node: int, interface: str | None = None, port: int = 1234) -> Rank:
    return Rank(
        rank=rank,
        local_rank=rank % per_node,
        node_rank=rank // per_node,
        world_size=nodes * per_node,
        local_world_size=per_node,
        devices=1,
        master_address="127.0.0.1",
        master_port=port,
        interface=interface,
    )


def test_horovod_gets_the_place_of_a_rank() -> None:
    placed, _ = horovod_variables(place(5, nodes=2, per_node=4))
    assert {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_RANK": "5",
        "HOROVOD_SIZE": "8",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "4",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_HOSTNAME": "node1",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "1234",
    } == placed


def test_time_outs_are_set_and_one_node_uses_loopback() -> None:
    _, tuned = horovod_variables(place(0, nodes=1, per_node=2))
    assert {
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "120",
        "HOROVOD_GLOO_IFACE": "lo",
    } == tuned


def test_several_nodes_use_the_named_interface() -> None:
    _, tuned = horovod_variables(place(0, nodes=2, per_node=1, interface="ib0"))
    assert ("ib0", "ib0") == (tuned["HOROVOD_GLOO_IFACE"], tuned["NCCL_SOCKET_IFNAME"])
    _, free = horovod_variables(place(0, nodes=2, per_node=1))
    assert {"HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"}.isdisjoint(free)


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr(rendezvous, "RENDEZVOUS_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "_RETRY_SECONDS", 0.01)
    with pytest.raises(RendezvousError, match=r"rank 0 did not come within 0\.2 s"):
        rendezvous._await_all(place(1, nodes=1, per_node=2, port=free_port))


@pytest.mark.engine
@pytest.mark.slow
def test_a_port_that_is_taken_ends_rank_0_with_one_line(
    parallel_case: Callable[..., Path],
    start_ranks: Callable[..., list[subprocess.Popen[str]]],
    taken_port: int,
) -> None:
    (process,) = start_ranks("-m", "frameworks.mxnet.train", parallel_case("taken"), ranks=2, only=0)
    _, errors = process.communicate(timeout=300)
    assert 1 == process.returncode
    where = f"127.0.0.1:{taken_port}"
    assert errors.endswith(
        f"RendezvousError: rank 0 cannot serve the other ranks at {where}: Address already in use\n"
    )
