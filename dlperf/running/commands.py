"""The exact processes of a plan as shell commands, for people: nothing is started."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from dlperf.environments.environment import environment_key, environments_root
from dlperf.running.places import Site, physical_cores
from dlperf.running.preparation import Seat, launch_files, specification
from dlperf.running.run_folder import CASE_NAME, run_folder
from dlperf.running.variables import inherited, redacted
from dlperf.shipped import shipped_root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.plan.case import Case
    from dlperf.plan.plan import Plan
    from dlperf.running.launch_file import RankProcess

# Stands for the port that is chosen at the start of a run.
_LATER = 0


def commands_text(plan: Plan, *, adapters: Mapping[str, Adapter], results: Path) -> str:
    """The processes of the first run of every case that can run, one command a rank.

    The processes come from the function that makes the launch file of a run; what is chosen at the start of a
    run alone is the port of rank 0.
    """
    variables = redacted(inherited(os.environ))
    lines = [
        "# Port 0 stands for a free one, chosen at the start of each run.",
        "# Beside the variables below a process gets these of the environment, and no others:",
        *(f"#   {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]
    for case in plan.runnable:
        lines += ["", f"# {case.case_id}"]
        lines += _commands(case, plan, adapter=adapters[case.framework], results=results)
    return "\n".join(lines) + "\n"


def _commands(case: Case, plan: Plan, *, adapter: Adapter, results: Path) -> list[str]:
    spec, given = specification(case, adapter=adapter, plan=plan)
    folder = run_folder(results, case_id=case.case_id, repeat=1)
    seat = Seat(
        site=Site(cores=physical_cores(), address="127.0.0.1", interface=None),
        python=given or environments_root() / environment_key(spec) / "bin" / "python",
        case_file=(folder / CASE_NAME).absolute(),
        code=shipped_root(),
    )
    launches = launch_files(case, adapter=adapter, seats=[seat], limits=plan.limits, port=_LATER)
    return [_command(rank) for launch in launches for rank in launch.ranks]


def _command(rank: RankProcess) -> str:
    bound = ["taskset", "-c", ",".join(map(str, rank.cpus))] if rank.cpus else []
    variables = [f"{name}={value}" for name, value in redacted(rank.env).items()]
    return shlex.join([*bound, "env", *variables, *rank.argv])
