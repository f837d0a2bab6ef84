"""The framework's environment on a node: found, made there with uv, or made here and copied."""

from __future__ import annotations

import os
import tarfile
import tempfile
from typing import TYPE_CHECKING, Any

from dlperf.environments import ensure
from dlperf.environments.elsewhere import adopted, adopting_request, made, making_request
from dlperf.environments.environment import environment_key
from dlperf.environments.uv import find_uv
from dlperf.errors import EnvironmentUnavailable
from dlperf.running.transports.ssh_attend import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec
    from dlperf.environments import Environment
    from dlperf.running.transports.ssh import SshNode

    Tell = Callable[[str], None]


def environment_on(
    node: SshNode, spec: EnvironmentSpec, *, python: Path | None, copy: bool, say: Tell
) -> Environment:
    """See `Node.environment`; `copy` makes it on this machine, which then needs what makes it."""
    name = f"{spec.framework}=={spec.version}"

    def told(text: str) -> None:
        say(f"{node.name}: {name}: {text}")

    try:
        if python is not None:
            return adopted(spec, node.ask(**adopting_request(spec, python))["environment"])
        request = making_request(spec)
        found = node.ask(**request, found_only=True)["environment"]
        if found is not None:
            return made(found)
        # What is built from source is built once, here, and here alone lies a wheel of the user's own.
        if copy or spec.builds or spec.wheel:
            request = _copied(node, spec, told, say)
        elif node.uv is None:
            _bring_uv(node, told)
        answer = node.ask(**request, found_only=False, told=told, limit_seconds=None)
    except Refusal as error:
        hint = "" if python else "; `environments: copy` in the cluster file makes it here and copies it"
        raise EnvironmentUnavailable(f"{name} on {node.name}: {error}{hint}") from error
    return made(answer["environment"])


def _copied(node: SshNode, spec: EnvironmentSpec, told: Tell, say: Tell) -> dict[str, Any]:
    """Make the environment on this machine, bring it there, and give the request that puts it to use."""
    here = ensure(spec, report=say)
    with here.in_use(), tempfile.TemporaryFile() as packed:
        told("copying its environment")
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(here.root, ".")
        packed.seek(0)
        folder = f"environments/.copied-{environment_key(spec)}"
        node.put("put", folder, packed)
    minor = ".".join(here.manifest.python_version.split(".")[:2])
    return making_request(spec, copied=str(node.work / folder), python=minor)


def _bring_uv(node: SshNode, told: Tell) -> None:
    """Lend the node our own uv, one static program."""
    here = find_uv(told)
    if node.architecture != os.uname().machine:
        raise Refusal("there is no uv on this node, and ours is for another kind of processor")
    told("bringing uv")
    with here.path.open("rb") as stream:
        node.put("put-program", f"tools/uv-{here.version.split()[-1]}", stream)
