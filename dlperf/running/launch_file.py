"""`launch.json`: what the supervisor of a node is told. docs/architecture.md, "Supervisor", describes it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from dlperf.model import Model
from dlperf.running.variables import INHERITED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.adapters.base import Place, RankCommand
    from dlperf.plan.case import Case
    from dlperf.plan.sweep_file import Limits

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
    places: Sequence[Place],
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
            log=f"logs/rank{driven[0].rank}.log",
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
    places: Sequence[Place], commands: Sequence[RankCommand]
) -> Iterator[tuple[RankCommand, tuple[Place, ...]]]:
    """Each command with the places that its process drives; ValueError where some are left or missing."""
    left = iter(places)
    for command in commands:
        driven = tuple(itertools.islice(left, command.devices))
        if len(driven) < command.devices or len({place.node_rank for place in driven}) > 1:
            raise ValueError(f"the adapter's processes do not fit {len(places)} places on their nodes")
        yield command, driven
    if next(left, None) is not None:
        raise ValueError(f"the adapter's processes leave some of {len(places)} places without one")
