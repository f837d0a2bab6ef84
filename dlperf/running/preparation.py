"""From a case to its launch file: the same way for a run and for showing what a run would start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.adapters.base import Launch
from dlperf.running.launch_file import LaunchFile, launch_file
from dlperf.running.places import local_places
from dlperf.running.run_folder import CASE_NAME
from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    from dlperf.adapters.base import Adapter, EnvironmentSpec
    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan
    from dlperf.plan.sweep_file import Limits


def local_launch(
    case: Case, *, adapter: Adapter, python: Path, folder: Path, limits: Limits, port: int
) -> LaunchFile:
    """What the supervisor on this machine is told to run `case` in the run folder `folder`."""
    places = local_places(case, port=port)
    launch = Launch(
        case=case,
        case_file=(folder / CASE_NAME).absolute(),
        code=shipped_root(),
        python=python,
        places=places,
    )
    commands = adapter.rank_commands(launch)
    return launch_file(case, places=places, commands=commands, limits=limits, node_rank=0)


def specification(case: Case, *, adapter: Adapter, plan: Plan) -> tuple[EnvironmentSpec, Path | None]:
    """What must be installed to run `case`, and the interpreter of the user's own that replaces it.

    Raises:
        ValueError: the adapter knows no environment for the version, and the user names none.
    """
    given = plan.interpreters.get(f"{case.framework}=={case.version}")
    parallel = case.topology.world_size > 1
    try:
        spec = adapter.environment(case.version, case.device, parallel=parallel)
    except ValueError:
        if given is None:
            raise
        # Another version than dlperf can install is welcome in an interpreter that has it already.
        known = adapter.environment(adapter.versions[0], case.device, parallel=parallel)
        spec = replace(known, version=case.version)
    return spec, None if given is None else Path(given)
