"""From a case to its launch files: placement of ranks, inherited variables, processes, limits.

docs/formats.md, "Supervisor", describes `launch.json`. A dry run shows commands from the same functions.
"""

import difflib
import fnmatch
import itertools
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from dlperf.adapters.base import (
    PROGRAM_NAME,
    Adapter,
    EnvironmentSpec,
    Launch,
    RankCommand,
    RankPlacement,
    fp32_environment,
)
from dlperf.files import shipped_root
from dlperf.layout import CASE_NAME, TELEMETRY_NAME, log_name, node_file
from dlperf.model import Model
from dlperf.plan.case import Case
from dlperf.plan.machine import Gpu
from dlperf.plan.plan import Plan
from dlperf.plan.sweep import Limits
from dlperf.plan.versions import specification_of
from dlperf.redaction import redacted_variables
from dlperf.running.program import ProgramFile, program_file, program_of

_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/{item}"

# (package, core): logical CPUs with the same pair share one core.
Core = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLaunch:
    """One node of a run: what it offers its ranks, and where the files of the run are on it."""

    cores: Mapping[int, Core]  # the CPUs that ranks may be bound to -> their cores
    address: str  # where the ranks of other nodes reach this one
    interface: str | None  # the network interface between the nodes; None: the engine chooses
    python: Path
    case_file: Path
    code: Path
    variables: tuple[str, ...] = ()  # names of variables that the user has set for this node
    source: Path | None = None  # the files of the case's original program; None: it has none


def place_ranks(case: Case, *, nodes: Sequence[NodeLaunch], port: int) -> tuple[RankPlacement, ...]:
    """The placements of a case on its nodes, by rank; `port` is one of the first node."""
    devices = case.topology.devices_per_node
    return tuple(
        RankPlacement(
            rank=node_rank * devices + local_rank,
            local_rank=local_rank,
            node_rank=node_rank,
            cpus=cpus,
            master_address=nodes[0].address if len(nodes) > 1 else "127.0.0.1",
            master_port=port,
            interface=node.interface if len(nodes) > 1 else None,
        )
        for node_rank, node in enumerate(nodes)
        for local_rank, cpus in enumerate(
            bind_cpus(node.cores, ranks=devices, threads=case.threads_per_device)
        )
    )


def bind_cpus(cores: Mapping[int, Core], *, ranks: int, threads: int) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs for each rank, `threads` each, none used twice while there are enough.

    A rank gets neighbouring CPUs of one package. Each thread gets its own core while there are enough; with
    more threads than cores, two threads of the same rank share one. With too few CPUs, ranks share them
    evenly; if that is impossible, every rank gets ().
    """
    needed = ranks * threads
    by_core: dict[Core, list[int]] = {}
    for cpu in sorted(cores, key=lambda cpu: (cores[cpu], cpu)):
        by_core.setdefault(cores[cpu], []).append(cpu)
    cpus = [siblings[0] for siblings in by_core.values()]
    if needed > len(cpus):
        cpus = [cpu for siblings in by_core.values() for cpu in siblings]
    if needed > len(cpus) and (needed % len(cpus) or threads > len(cpus)):
        return ((),) * ranks
    shared = cpus * -(-needed // len(cpus))
    return tuple(tuple(sorted(shared[rank * threads : (rank + 1) * threads])) for rank in range(ranks))


def physical_cores() -> dict[int, Core]:
    """The logical CPUs that this process may use -> their cores; a CPU of unknown core counts as one core."""
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
    """A TCP port that is free at the moment."""
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


# What every rank inherits of the environment, as shell patterns; adapters add `inherited_variables`. All else
# is dropped, so that two shells on one machine measure the same.
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
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "ONEDNN_*",
    "DNNL_*",
)

# Engines ignore a variable whose prefix is misspelt, without a warning.
_ENGINE_PREFIXES = ("HOROVOD", "NCCL", "ONEFLOW", "MXNET")
_ONE_TYPO = 0.75  # difflib's ratio for one wrong letter of four


def inherited(environment: Mapping[str, str], own: Iterable[str] = ()) -> dict[str, str]:
    """The variables that a rank inherits, with the patterns `own` of its adapter.

    The supervisor on the node applies the same patterns.
    """
    patterns = (*INHERITED, *own)
    return {name: value for name, value in sorted(environment.items()) if _matches(name, patterns)}


def redacted(environment: Mapping[str, str], *, own: Iterable[str] = ()) -> dict[str, str]:
    """The variables as they may be stored and shown; `own` are names and patterns of dlperf and adapters."""
    patterns = (*INHERITED, *own)
    return redacted_variables(environment, is_known=lambda name: _matches(name, patterns))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables whose prefix is one typo away from an engine's: their name -> the intended prefix."""
    prefixes = {name: name.partition("_")[0] for name in sorted(environment)}
    near = {
        name: difflib.get_close_matches(prefix, _ENGINE_PREFIXES, n=1, cutoff=_ONE_TYPO)
        for name, prefix in prefixes.items()
        if prefix not in _ENGINE_PREFIXES
    }
    return {name: f"{intended[0]}_" for name, intended in near.items() if intended}


def replaced(environment: Mapping[str, str], cases: Iterable[Case]) -> dict[str, str]:
    """Variables that decide on arithmetic and that the user has set otherwise than a case -> the case's."""
    own = (item for case in cases for item in fp32_environment(case).items())
    return {name: value for name, value in own if environment.get(name, value) != value}


LAUNCH_SCHEMA_VERSION: Final = 1
LEASE_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 3.0
SILENCE_SECONDS: Final = 60.0
LOG_LIMIT_BYTES: Final = 4 << 30
# After the time limit, a supervisor has so long to end its ranks, flush their logs and write its outcome; its
# guard then has ended it, if it stands still.
OVERTIME_SECONDS: Final = 90.0


class RankProcess(Model):
    """One process to start; `rank_variables` are its environment, and empty `cpus` leaves it unbound.

    `memory_bytes` is its budget for all devices that it drives; absent if there is none.
    """

    rank: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cpus: tuple[int, ...]
    log: str
    memory_bytes: Annotated[int | None, Field(exclude_if=lambda size: size is None)] = None
    defaults: dict[str, str] = Field(default_factory=dict, exclude_if=lambda variables: not variables)
    paths: dict[str, str] = Field(default_factory=dict, exclude_if=lambda variables: not variables)

    @property
    def own(self) -> frozenset[str]:
        """The names of the variables that the adapter sets."""
        return frozenset((*self.env, *self.defaults, *self.paths))


def rank_variables(rank: RankProcess, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank on a node with these variables; frameworks/rank.py does the same there."""
    found = {**rank.defaults, **inherited, **rank.env}
    for name, path in rank.paths.items():
        found[name] = f"{path}:{inherited[name]}" if inherited.get(name) else path
    return found


class TelemetrySpec(Model):
    """What a node's sampler, frameworks/node/telemetry.py, is to sample beside its CPUs."""

    file: str  # where it writes, in the run folder
    gpus: int  # the first so many that CUDA shows
    network: bool
    interface: str | None  # None: all but the loopback
    data: str | None  # a path on the disk whose reads count


class LaunchFile(Model):
    """`launch.json`: the processes of one node and their limits; None is no limit."""

    schema_version: Literal[1] = LAUNCH_SCHEMA_VERSION
    case_id: str
    node_rank: int
    ranks: tuple[RankProcess, ...]
    inherit: tuple[str, ...] = Field(default=INHERITED)  # patterns of variables of the node's environment
    time_limit_seconds: float | None
    stall_limit_seconds: float | None
    lease_seconds: float | None = LEASE_SECONDS
    grace_seconds: float = GRACE_SECONDS
    silence_seconds: float = SILENCE_SECONDS  # of the supervisor itself, until its guard kills the tree
    log_limit_bytes: int = LOG_LIMIT_BYTES  # per rank
    telemetry: Annotated[TelemetrySpec | None, Field(exclude_if=lambda spec: spec is None)] = None
    # Texts by name, which the supervisor writes into its folder before it starts the ranks.
    files: dict[str, str] = Field(default_factory=dict, exclude_if=lambda files: not files)

    @property
    def program(self) -> ProgramFile | None:
        """The original program that a rank of the node runs; None where the loops are ours."""
        return program_of({"files": self.files})


def launch_file(
    case: Case,
    *,
    placements: Sequence[RankPlacement],
    commands: Sequence[RankCommand],
    limits: Limits,
    node_rank: int,
    variables: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    telemetry: TelemetrySpec | None = None,
) -> LaunchFile:
    """The launch file of one node; `commands` are those of the whole case, in the order of `placements`.

    `variables` are patterns of further variables that the ranks inherit, `files` the texts of further files;
    without `telemetry` nothing is sampled.
    """
    ranks = (
        RankProcess(
            rank=driven[0].rank,
            argv=command.argv,
            env=command.env,
            cpus=tuple(sorted({cpu for placement in driven for cpu in placement.cpus})),
            log=log_name(driven[0].rank),
            memory_bytes=None if case.memory_bytes is None else case.memory_bytes * len(driven),
            defaults=command.defaults,
            paths=command.paths,
        )
        for command, driven in _driven(placements, commands)
        if driven[0].node_rank == node_rank
    )
    return LaunchFile(
        case_id=case.case_id,
        node_rank=node_rank,
        ranks=tuple(ranks),
        inherit=(*INHERITED, *variables),
        time_limit_seconds=limits.time,
        stall_limit_seconds=limits.stall,
        files=dict(files or {}),
        telemetry=telemetry,
    )


def _driven(
    placements: Sequence[RankPlacement], commands: Sequence[RankCommand]
) -> Iterator[tuple[RankCommand, tuple[RankPlacement, ...]]]:
    """Each command with the placements that its process drives; ValueError if the numbers do not match."""
    left = iter(placements)
    for command in commands:
        driven = tuple(itertools.islice(left, command.devices))
        if len(driven) < command.devices or len({rank.node_rank for rank in driven}) > 1:
            raise ValueError(f"the adapter's processes do not match {len(placements)} ranks on their nodes")
        yield command, driven
    if next(left, None) is not None:
        raise ValueError(f"the adapter starts no process for some of {len(placements)} ranks")


def local_launch(folder: Path, *, python: Path, code: Path | None = None) -> NodeLaunch:
    """This machine as the only node of the run in `folder`; `code` holds other programs than ours."""
    return NodeLaunch(
        cores=physical_cores(),
        address="127.0.0.1",
        interface=None,
        python=python,
        case_file=(folder / CASE_NAME).absolute(),
        code=code or shipped_root(),
    )


def launch_files(
    case: Case, *, adapter: Adapter, node_launches: Sequence[NodeLaunch], limits: Limits, port: int
) -> tuple[LaunchFile, ...]:
    """The launch files of a run, by node rank; `port` is one of the first node."""
    placements = place_ranks(case, nodes=node_launches, port=port)

    @cache  # most nodes have the same paths, and so the same commands
    def launch_of(case_file: Path, code: Path, python: Path) -> tuple[Launch, tuple[RankCommand, ...]]:
        launch = Launch(case=case, case_file=case_file, code=code, python=python, placements=placements)
        return launch, adapter.rank_commands(launch)

    files = []
    for node_rank, node in enumerate(node_launches):
        launch, commands = launch_of(node.case_file, node.code, node.python)
        files.append(
            launch_file(
                case,
                placements=placements,
                commands=commands,
                limits=limits,
                node_rank=node_rank,
                variables=(*adapter.inherited_variables, *node.variables),
                files=_program_files(launch, commands, source=node.source),
                telemetry=_telemetry_spec(case, node, node_rank=node_rank),
            )
        )
    return tuple(files)


def _telemetry_spec(case: Case, node: NodeLaunch, *, node_rank: int) -> TelemetrySpec | None:
    if not case.measure.telemetry:
        return None
    nodes, devices = case.topology.nodes, case.topology.devices_per_node
    return TelemetrySpec(
        file=node_file(TELEMETRY_NAME, node_rank=node_rank, nodes=nodes),
        gpus=devices if case.device == "cuda" else 0,
        network=nodes > 1,
        interface=node.interface if nodes > 1 else None,
        data=None if case.data is None else case.data.path,
    )


def _program_files(launch: Launch, commands: Sequence[RankCommand], *, source: Path | None) -> dict[str, str]:
    """The file of the original program that one of the commands runs; ValueError where there are several."""
    programs = [command.program for command in commands if command.program is not None]
    if not programs:
        return {}
    if len(commands) > 1:
        raise ValueError("the adapter starts an original program and other processes; it may start one alone")
    if source is None:
        raise ValueError("the adapter starts an original program, and says of no source of it")
    file = program_file(programs[0], source=source, work=launch.work, placements=launch.placements)
    return {PROGRAM_NAME: file.model_dump_json(indent=1) + "\n"}


def specification(
    case: Case, *, adapter: Adapter, plan: Plan, gpu: Gpu | None = None
) -> tuple[EnvironmentSpec, Path | None]:
    """What must be installed to run `case`, and the user's own interpreter, which replaces it.

    `gpu`: what it must run on, where more is known than when the plan was made.
    ValueError if the adapter knows no environment for the version and the user names no interpreter.
    """
    version = f"{case.framework}=={case.version}"
    given = plan.interpreters.get(version)
    spec = specification_of(
        case.version,
        adapter=adapter,
        device=case.device,
        parallel=case.topology.world_size > 1,
        gpu=gpu or plan.machine.gpu,
        origin=plan.origins.get(version),
        own_python=given is not None,
    )
    return spec, None if given is None else Path(given)
