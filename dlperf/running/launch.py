"""`launch.json`: what the supervisor of a node is told. docs/formats.md, "Supervisor", describes it."""

from __future__ import annotations

import fnmatch
import itertools
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from dlperf.adapters.base import Adapter, EnvironmentSpec, Launch, RankCommand, RankPlacement
from dlperf.layout import log_name
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.plan.plan import Plan
from dlperf.plan.sweep import Limits
from dlperf.plan.versions import specification_of

_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/{item}"

# (package, core): logical CPUs with the same pair share one core.
Core = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What a node of a run offers its ranks; see `Node` in transports/base.py."""

    cores: Mapping[int, Core]
    address: str
    interface: str | None


def places(case: Case, *, sites: Sequence[NodeInfo], port: int) -> tuple[RankPlacement, ...]:
    """The places of a case on its nodes, by rank; `port` is one of the first node."""
    devices = case.topology.devices_per_node
    return tuple(
        RankPlacement(
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


def local_places(case: Case, *, port: int) -> tuple[RankPlacement, ...]:
    """The places of a case that runs on this machine alone."""
    here = NodeInfo(cores=physical_cores(), address="127.0.0.1", interface=None)
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


# Environment variables: which reach the ranks, which are secret, which are misspelt.


# What a rank gets of the user's environment, as shell patterns: where things lie, the language, the tuning of
# engines and devices. All else stays out, so that two shells on one machine measure the same.
INHERITED: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "CUDA_*",
    "NVIDIA_*",
    "NCCL_*",
    "GLOO_*",
    "UCX_*",
    "HOROVOD_*",
    "ONEFLOW_*",
    "MXNET_*",
    "TORCH_*",
    "TORCHINDUCTOR_*",
    "CC",  # torch.compile builds with it
    "CXX",
    "PYTORCH_*",
    "TRITON_*",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "ONEDNN_*",
    "DNNL_*",
)

_SECRET = ("*TOKEN*", "*KEY*", "*SECRET*", "*PASSWORD*", "*PASSWD*", "*CREDENTIAL*")
REDACTED: Final = "(redacted)"

# Where a tuning that was meant for an engine is lost without a word when its prefix is misspelt.
_ENGINE_PREFIXES = ("HOROVOD", "NCCL", "ONEFLOW", "MXNET")


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a rank takes over; the supervisor on the node applies the same patterns."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in INHERITED)
    }


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with the values of secrets left out."""
    return {name: REDACTED if _is_secret(name) else value for name, value in environment.items()}


def _is_secret(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in _SECRET)


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables whose prefix is one slip away from an engine's: their name -> the prefix that was meant."""
    found = {}
    for name in sorted(environment):
        prefix = name.partition("_")[0]
        meant = next((right for right in _ENGINE_PREFIXES if _one_slip(prefix, right)), None)
        if meant is not None:
            found[name] = f"{meant}_"
    return found


def _one_slip(word: str, right: str) -> bool:
    """Whether one letter is missing, doubled, added or wrong, or two neighbours are swapped."""
    if word == right or abs(len(word) - len(right)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, right, strict=False)) if a != b), len(right))
    mine, theirs = word[start:], right[start:]
    return (
        mine[1:] == theirs[1:]  # wrong
        or mine[1:] == theirs  # added
        or mine == theirs[1:]  # missing
        or (mine[:2] == theirs[1::-1] and mine[2:] == theirs[2:])  # swapped
    )


# `launch.json`: what the supervisor of a node is told. docs/formats.md, "Supervisor", describes it.


LAUNCH_SCHEMA_VERSION: Final = 1
LEASE_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 3.0


class RankProcess(Model):
    """One process to start; `env` is added to what is inherited, `cpus` empty leaves it unbound.

    `memory_bytes` is its budget, of all devices that it drives; not written where there is none.
    """

    rank: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cpus: tuple[int, ...]
    log: str
    memory_bytes: Annotated[int | None, Field(exclude_if=lambda size: size is None)] = None


class LaunchFile(Model):
    """The processes of one node and their limits; a limit of None does not exist."""

    schema_version: Literal[1] = LAUNCH_SCHEMA_VERSION
    case_id: str
    node_rank: int
    ranks: tuple[RankProcess, ...]
    inherit: tuple[str, ...] = Field(default=INHERITED)  # patterns of variables of the node's environment
    time_limit_seconds: float | None
    stall_limit_seconds: float | None
    lease_seconds: float | None = LEASE_SECONDS
    grace_seconds: float = GRACE_SECONDS


def launch_file(
    case: Case,
    *,
    places: Sequence[RankPlacement],
    commands: Sequence[RankCommand],
    limits: Limits,
    node_rank: int,
    variables: tuple[str, ...] = (),
) -> LaunchFile:
    """The launch file of one node; `commands` are those of the whole case, in the order of `places`.

    `variables` are names of more that the ranks inherit.
    """
    ranks = (
        RankProcess(
            rank=driven[0].rank,
            argv=command.argv,
            env=command.env,
            cpus=tuple(sorted({cpu for place in driven for cpu in place.cpus})),
            log=log_name(driven[0].rank),
            memory_bytes=None if case.memory_bytes is None else case.memory_bytes * len(driven),
        )
        for command, driven in _driven(places, commands)
        if driven[0].node_rank == node_rank
    )
    return LaunchFile(
        case_id=case.case_id,
        node_rank=node_rank,
        ranks=tuple(ranks),
        inherit=(*INHERITED, *variables),
        time_limit_seconds=limits.time,
        stall_limit_seconds=limits.stall,
    )


def _driven(
    places: Sequence[RankPlacement], commands: Sequence[RankCommand]
) -> Iterator[tuple[RankCommand, tuple[RankPlacement, ...]]]:
    """Each command with the places that its process drives; ValueError where some are left or missing."""
    left = iter(places)
    for command in commands:
        driven = tuple(itertools.islice(left, command.devices))
        if len(driven) < command.devices or len({place.node_rank for place in driven}) > 1:
            raise ValueError(f"the adapter's processes do not fit {len(places)} places on their nodes")
        yield command, driven
    if next(left, None) is not None:
        raise ValueError(f"the adapter's processes leave some of {len(places)} places without one")


# From a case to its launch file: the same way for a run and for showing what a run would start.


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLaunch:
    """One node of a run: what it offers, and where the run's things lie on it."""

    site: NodeInfo
    python: Path
    case_file: Path
    code: Path
    variables: tuple[str, ...] = ()  # set by the user for this node


def launch_files(
    case: Case, *, adapter: Adapter, node_launches: Sequence[NodeLaunch], limits: Limits, port: int
) -> tuple[LaunchFile, ...]:
    """What the supervisors are told, by node rank; `port` is one of the first node."""
    everywhere = places(case, sites=[seat.site for seat in node_launches], port=port)

    @cache  # nodes whose things lie in the same places, as they mostly do, are told the same
    def commands(case_file: Path, code: Path, python: Path) -> tuple[RankCommand, ...]:
        launch = Launch(case=case, case_file=case_file, code=code, python=python, places=everywhere)
        return adapter.rank_commands(launch)

    return tuple(
        launch_file(
            case,
            places=everywhere,
            commands=commands(seat.case_file, seat.code, seat.python),
            limits=limits,
            node_rank=node_rank,
            variables=seat.variables,
        )
        for node_rank, seat in enumerate(node_launches)
    )


def specification(case: Case, *, adapter: Adapter, plan: Plan) -> tuple[EnvironmentSpec, Path | None]:
    """What must be installed to run `case`, and the interpreter of the user's own that replaces it.

    Raises:
        ValueError: the adapter knows no environment for the version, and the user names none.
    """
    given = plan.interpreters.get(f"{case.framework}=={case.version}")
    parallel = case.topology.world_size > 1
    origin = plan.origins.get(f"{case.framework}=={case.version}")
    spec = specification_of(
        case.version,
        adapter=adapter,
        device=case.device,
        parallel=parallel,
        origin=origin,
        own_python=given is not None,
    )
    return spec, None if given is None else Path(given)
