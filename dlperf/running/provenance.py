"""The version of dlperf and the machines that it runs on, for `environment.json`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dlperf.environments import Environment
from dlperf.errors import InfrastructureError
from dlperf.files import shipped_folder, shipped_root
from dlperf.results.schema import Node, RunEnvironment
from dlperf.running.launch import LaunchFile, redacted
from dlperf.version import __version__

_TOOL_SECONDS = 20


def run_environment(
    *,
    nodes: Sequence[Node],
    environment: Environment,
    launches: Sequence[LaunchFile],
    variables: Mapping[str, str],
) -> RunEnvironment:
    """`environment.json` of a run.

    Args:
        nodes: by node rank.
        environment: of the framework on node 0; those of the other nodes have the same specification.
        launches: by node rank.
        variables: inherited by the ranks of node 0.
    """
    rank_variables = dict(variables)
    for rank in reversed(launches[0].ranks):
        rank_variables |= rank.env  # rank 0 last, so that its values win
    return RunEnvironment(
        dlperf_version=__version__,
        git_commit=git_commit(),
        nodes=tuple(nodes),
        python=environment.manifest.python_version,
        packages=environment.manifest.packages,
        variables=redacted(dict(sorted(rank_variables.items()))),
        cpus={str(rank.rank): rank.cpus for launch in launches for rank in launch.ranks},
    )


@cache
def git_commit() -> str | None:
    """The commit of the checkout that dlperf runs from, `-dirty` if files differ; None outside a checkout."""
    root = shipped_root()
    if not (root / ".git").exists():
        return None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def this_node() -> Node:
    """This machine as it is now, described by the program that describes the nodes of a cluster too.

    Raises:
        InfrastructureError: the program fails.
    """
    program = shipped_folder("frameworks") / "node" / "facts.py"
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(program)], capture_output=True, text=True, check=False
    )
    try:
        return node_from_facts(json.loads(done.stdout))
    except ValueError:
        reason = " ".join(done.stderr.split()[-20:])
        raise InfrastructureError(f"{program} cannot describe this machine: {reason}") from None


def node_from_facts(facts: Any) -> Node:
    """The output of `frameworks/node/facts.py`; ValueError if it is anything else."""
    return Node.model_validate_json(json.dumps(facts))


def _output(*command: str) -> str | None:
    """The output of a tool; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
