"""The exact processes of a plan as shell commands, for people: nothing is started."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from dlperf.adapters.base import Adapter
from dlperf.environments.environment import environment_key, environments_root
from dlperf.files import shipped_root
from dlperf.layout import CASE_NAME, RUNS_FOLDER, run_folder
from dlperf.plan.case import Case
from dlperf.plan.cluster import Cluster, ClusterNode, fits
from dlperf.plan.plan import Plan
from dlperf.running.launch import (
    INHERITED,
    NodeInfo,
    NodeLaunch,
    RankProcess,
    inherited,
    launch_files,
    physical_cores,
    redacted,
    specification,
)
from dlperf.running.transports.ssh_session import shipped_code

# Stands for the port that is chosen at the start of a run.
_LATER = 0


def commands_text(
    plan: Plan, *, adapters: Mapping[str, Adapter], results: Path, cluster: Cluster | None = None
) -> str:
    """The processes of the first run of every case that can run, one command a rank.

    The processes come from the function that makes the launch file of a run; what is chosen at the start of a
    run alone is the port of rank 0, and on a cluster the nodes, where some are not there.
    """
    variables = redacted(inherited({} if cluster else os.environ))
    lines = [
        "# Port 0 stands for a free one, chosen at the start of each run.",
        "# Beside the variables below a process gets these of the environment, and no others:",
        *(f"#   {name}={shlex.quote(value)}" for name, value in variables.items()),
        *(_of_nodes(cluster) if cluster else []),
    ]
    for case in plan.runnable:
        lines += ["", f"# {case.case_id}"]
        lines += _commands(case, plan, adapter=adapters[case.framework], results=results, cluster=cluster)
    return "\n".join(lines) + "\n"


def _of_nodes(cluster: Cluster) -> Iterator[str]:
    yield f"#   of the node: {', '.join(INHERITED)}"
    for node in cluster.nodes:
        for name, value in redacted(node.environment).items():
            yield f"#   on {node.name}: {name}={shlex.quote(value)}"


def _commands(
    case: Case, plan: Plan, *, adapter: Adapter, results: Path, cluster: Cluster | None
) -> Iterator[str]:
    spec, given = specification(case, adapter=adapter, plan=plan)
    key = environment_key(spec)
    folder = run_folder(results, case_id=case.case_id, repeat=1)
    if cluster is None:
        here = NodeLaunch(
            site=NodeInfo(cores=physical_cores(), address="127.0.0.1", interface=None),
            python=given or environments_root() / key / "bin" / "python",
            case_file=(folder / CASE_NAME).absolute(),
            code=shipped_root(),
        )
        nodes, node_launches = [""], [here]
    else:
        chosen = [node for node in cluster.nodes if fits(node, case, oversubscribe=True)]
        chosen = chosen[: case.topology.nodes]
        nodes = [f"# on {node.name}" for node in chosen]
        node_launches = [_seat_there(node, folder, given=given, key=key) for node in chosen]
    launches = launch_files(
        case, adapter=adapter, node_launches=node_launches, limits=plan.limits, port=_LATER
    )
    for node, launch in zip(nodes, launches, strict=True):
        if node:
            yield node
        yield from (_command(rank) for rank in launch.ranks)


def _seat_there(node: ClusterNode, folder: Path, *, given: Path | None, key: str) -> NodeLaunch:
    """Where things will lie on a node of a cluster, as far as that is known without a connection."""
    work = Path(node.work)
    cores = {cpu: (0, cpu) for cpu in range(node.cores)}
    address = node.engine_address or node.address
    return NodeLaunch(
        site=NodeInfo(cores=cores, address=address, interface=node.interface),
        python=given or work / "environments" / key / "bin" / "python",
        case_file=work / RUNS_FOLDER / f"{folder.parent.name}-{folder.name}" / CASE_NAME,
        code=work / "code" / shipped_code().name,
        variables=tuple(node.environment),
    )


def _command(rank: RankProcess) -> str:
    bound = ["taskset", "-c", ",".join(map(str, rank.cpus))] if rank.cpus else []
    variables = [f"{name}={value}" for name, value in redacted(rank.env).items()]
    return shlex.join([*bound, "env", *variables, *rank.argv])
