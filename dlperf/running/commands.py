"""The exact processes of a plan as shell commands, for people: nothing is started."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from dlperf.environments.environment import environment_key, environments_root
from dlperf.running.preparation import local_launch, specification
from dlperf.running.run_folder import run_folder
from dlperf.running.variables import inherited, redacted

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
    launch = local_launch(
        case,
        adapter=adapter,
        python=given or environments_root() / environment_key(spec) / "bin" / "python",
        folder=run_folder(results, case_id=case.case_id, repeat=1),
        limits=plan.limits,
        port=_LATER,
    )
    return [_command(rank) for rank in launch.ranks]


def _command(rank: RankProcess) -> str:
    bound = ["taskset", "-c", ",".join(map(str, rank.cpus))] if rank.cpus else []
    variables = [f"{name}={value}" for name, value in redacted(rank.env).items()]
    return shlex.join([*bound, "env", *variables, *rank.argv])
