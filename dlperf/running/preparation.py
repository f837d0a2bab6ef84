"""From a case to its launch file: the same way for a run and for showing what a run would start."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.base import Launch
from dlperf.plan.installation import specification_of
from dlperf.running.launch_file import LaunchFile, launch_file
from dlperf.running.places import Site, places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.adapters.base import Adapter, EnvironmentSpec, RankCommand
    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan
    from dlperf.plan.sweep_file import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One node of a run: what it offers, and where the run's things lie on it."""

    site: Site
    python: Path
    case_file: Path
    code: Path
    variables: tuple[str, ...] = ()  # set by the user for this node


def launch_files(
    case: Case, *, adapter: Adapter, seats: Sequence[Seat], limits: Limits, port: int
) -> tuple[LaunchFile, ...]:
    """What the supervisors are told, by node rank; `port` is one of the first node."""
    everywhere = places(case, sites=[seat.site for seat in seats], port=port)

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
        for node_rank, seat in enumerate(seats)
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
