"""Where the ranks of a case run: on which node, which cores, which port."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.base import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dlperf.plan.case import Case

_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/{item}"

# (package, core): logical CPUs with the same pair share one core.
Core = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a node of a run offers its ranks; see `Node` in transports/base.py."""

    cores: Mapping[int, Core]
    address: str
    interface: str | None


def places(case: Case, *, sites: Sequence[Site], port: int) -> tuple[Place, ...]:
    """The places of a case on its nodes, by rank; `port` is one of the first node."""
    devices = case.topology.devices_per_node
    return tuple(
        Place(
            rank=node_rank * devices + local_rank,
            local_rank=local_rank,
            node_rank=node_rank,
            cpus=cpus,
            master_address=sites[0].address if len(sites) > 1 else "127.0.0.1",
            master_port=port,
            interface=site.interface if len(sites) > 1 else None,
        )
        for node_rank, site in enumerate(sites)
        for local_rank, cpus in enumerate(bind(site.cores, ranks=devices, threads=case.threads_per_device))
    )


def local_places(case: Case, *, port: int) -> tuple[Place, ...]:
    """The places of a case that runs on this machine alone."""
    here = Site(cores=physical_cores(), address="127.0.0.1", interface=None)
    return places(case, sites=[here], port=port)


def bind(cores: Mapping[int, Core], *, ranks: int, threads: int) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs for each rank, `threads` each and none twice while there are enough.

    Neighbours in one package go to one rank. Every thread gets a core of its own while these last; only when
    there are more threads than cores do two share one, and then two of the same rank. Where there are too few
    CPUs, ranks share them, each CPU as many as the next one; () for all where that does not come out even.

    Args:
        cores: logical CPU -> its core, for the CPUs that may be used.
        ranks: processes.
        threads: of each.
    """
    wanted = ranks * threads
    by_core: dict[Core, list[int]] = {}
    for cpu in sorted(cores, key=lambda cpu: (cores[cpu], cpu)):
        by_core.setdefault(cores[cpu], []).append(cpu)
    first = [siblings[0] for siblings in by_core.values()]
    line = first if wanted <= len(first) else [cpu for siblings in by_core.values() for cpu in siblings]
    if wanted > len(line) and (wanted % len(line) or threads > len(line)):
        return ((),) * ranks
    shared = line * -(-wanted // len(line))
    return tuple(tuple(sorted(shared[rank * threads : (rank + 1) * threads])) for rank in range(ranks))


def physical_cores() -> dict[int, Core]:
    """The logical CPUs that this process may use and the core of each; a CPU that does not say is its own."""
    return {cpu: _core_of(cpu) for cpu in sorted(os.sched_getaffinity(0))}


def _core_of(cpu: int) -> Core:
    with suppress(OSError, ValueError):
        package, core = (
            int(Path(_TOPOLOGY.format(cpu=cpu, item=item)).read_text())
            for item in ("physical_package_id", "core_id")
        )
        return package, core
    return 0, cpu


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on a TCP port at the moment."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
