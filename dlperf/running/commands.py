"""The processes of a plan as shell commands, for people to read: nothing is started."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dlperf.adapters.base import Adapter
from dlperf.environments.environment import environment_key, environments_root
from dlperf.files import cache_root
from dlperf.layout import CASE_NAME, RUNS_FOLDER, SOURCES_FOLDER, run_folder
from dlperf.plan.case import Case
from dlperf.plan.cluster import Cluster, ClusterNode, fits
from dlperf.plan.plan import Plan
from dlperf.running.launch import (
    INHERITED,
    NodeLaunch,
    RankProcess,
    inherited,
    launch_files,
    local_launch,
    rank_variables,
    redacted,
    specification,
)
from dlperf.running.program import program_lines
from dlperf.running.transports.session import shipped_code

# A placeholder: each run chooses a free port when it starts.
_PORT = 0


def commands_text(
    plan: Plan, *, adapters: Mapping[str, Adapter], results: Path, cluster: Cluster | None = None
) -> str:
    """The processes of the first run of each runnable case, one command per rank, as a run would start them.

    Only the port, and the nodes of a cluster on which some are unavailable, are chosen when a run starts.
    """
    used = {case.framework: adapters[case.framework] for case in plan.runnable}
    own = tuple(dict.fromkeys(name for adapter in used.values() for name in adapter.inherited_variables))
    variables = redacted(inherited({} if cluster else os.environ, own), own=own)
    lines = [
        "# Port 0 is a placeholder: each run chooses a free port when it starts.",
        "# Besides the variables below, a process inherits only these from the environment:",
        *(f"#   {name}={shlex.quote(value)}" for name, value in variables.items()),
        *(_inherited_on(cluster, own) if cluster else []),
    ]
    for case in plan.runnable:
        lines += ["", f"# {case.case_id}"]
        lines += _commands(case, plan, adapter=adapters[case.framework], results=results, cluster=cluster)
    return "\n".join(lines) + "\n"


def _inherited_on(cluster: Cluster, own: tuple[str, ...]) -> Iterator[str]:
    yield f"#   from the node: {', '.join((*INHERITED, *own))}"
    for node in cluster.nodes:
        for name, value in redacted(node.environment, own=own).items():
            yield f"#   on {node.name}: {name}={shlex.quote(value)}"


def _commands(
    case: Case, plan: Plan, *, adapter: Adapter, results: Path, cluster: Cluster | None
) -> Iterator[str]:
    spec, given = specification(case, adapter=adapter, plan=plan)
    key = environment_key(spec)
    folder = run_folder(results, case_id=case.case_id, repeat=1)
    chosen: list[ClusterNode] = []
    if cluster is None:
        local = local_launch(folder, python=given or environments_root() / key / "bin" / "python")
        headings, node_launches = [""], [local]
        known: list[dict[str, str]] = [inherited(os.environ, adapter.inherited_variables)]
    else:
        chosen = [node for node in cluster.nodes if fits(node, case, oversubscribe=True)]
        chosen = chosen[: case.topology.nodes]
        headings, known = [f"# on {node.name}" for node in chosen], [node.environment for node in chosen]
        node_launches = [_remote_launch(node, folder, given=given, key=key) for node in chosen]
    if case.source is not None:
        roots = [cache_root()] if cluster is None else [Path(node.work) for node in chosen]
        places = [root / SOURCES_FOLDER / case.source.content_hash for root in roots]
        node_launches = [
            replace(launch, source=place) for launch, place in zip(node_launches, places, strict=True)
        ]
    launches = launch_files(
        case, adapter=adapter, node_launches=node_launches, limits=plan.limits, port=_PORT
    )
    for heading, launch, variables in zip(headings, launches, known, strict=True):
        if heading:
            yield heading
        yield from (_command(rank, variables) for rank in launch.ranks)
        if launch.program is not None:
            yield from program_lines(launch.program)


def _remote_launch(node: ClusterNode, folder: Path, *, given: Path | None, key: str) -> NodeLaunch:
    """The paths on a node of a cluster, as far as they are known without a connection."""
    work = Path(node.work)
    return NodeLaunch(
        cores={cpu: (0, cpu) for cpu in range(node.cores)},
        address=node.engine_address or node.address,
        interface=node.interface,
        python=given or work / "environments" / key / "bin" / "python",
        case_file=work / RUNS_FOLDER / f"{folder.parent.name}-{folder.name}" / CASE_NAME,
        code=work / "code" / shipped_code().name,
        variables=tuple(node.environment),
    )


def _command(rank: RankProcess, inherited: Mapping[str, str]) -> str:
    bound = ["taskset", "-c", ",".join(map(str, rank.cpus))] if rank.cpus else []
    own = {name: value for name, value in rank_variables(rank, inherited).items() if name in rank.own}
    variables = [f"{name}={value}" for name, value in redacted(own, own=own).items()]
    return shlex.join([*bound, "env", *variables, *rank.argv])
