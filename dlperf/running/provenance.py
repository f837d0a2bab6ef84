"""Which dlperf this is and what it runs on, for `environment.json`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dlperf import __version__
from dlperf.environments import Environment
from dlperf.errors import InfrastructureError
from dlperf.files import shipped_folder, shipped_root
from dlperf.results.schema import Node, RunEnvironment
from dlperf.running.launch import LaunchFile, redacted

_TOOL_SECONDS = 20


def run_environment(
    *,
    nodes: Sequence[Node],
    environment: Environment,
    launches: Sequence[LaunchFile],
    variables: Mapping[str, str],
) -> RunEnvironment:
    """What a run uses, as it is now.

    Args:
        nodes: what they are, by node rank.
        environment: the framework's on node 0; the others were made from the same specification.
        launches: by node rank.
        variables: what the ranks of node 0 inherit.
    """
    set_for_ranks = dict(variables)
    for rank in reversed(launches[0].ranks):
        set_for_ranks |= rank.env  # rank 0's last: it stands for all
    return RunEnvironment(
        dlperf_version=__version__,
        git_commit=git_commit(),
        nodes=tuple(nodes),
        python=environment.manifest.python_version,
        packages=environment.manifest.packages,
        variables=redacted(dict(sorted(set_for_ranks.items()))),
        cpus={str(rank.rank): rank.cpus for launch in launches for rank in launch.ranks},
    )


@cache
def git_commit() -> str | None:
    """The commit of the checkout that dlperf runs from, `-dirty` appended where files differ."""
    root = shipped_root()
    if not (root / ".git").exists():
        return None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def this_node() -> Node:
    """This machine as it is now, told by the program that tells it on the nodes of a cluster too.

    Raises:
        InfrastructureError: it ends with an error.
    """
    program = shipped_folder("frameworks") / "node" / "facts.py"
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(program)], capture_output=True, text=True, check=False
    )
    try:
        return node_from_facts(json.loads(done.stdout))
    except ValueError:
        reason = " ".join(done.stderr.split()[-20:])
        raise InfrastructureError(f"{program} cannot tell what this machine is: {reason}") from None


def node_from_facts(facts: Any) -> Node:
    """What `frameworks/node/facts.py` has printed; ValueError where it is something else."""
    return Node.model_validate_json(json.dumps(facts))


def _output(*command: str) -> str | None:
    """What a tool prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
