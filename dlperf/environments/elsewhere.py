"""Environments on the nodes of a cluster: what `frameworks/node/environments.py` is asked and answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dlperf.environments.environment import Environment, Manifest, environment_key
from dlperf.environments.install import uv_steps
from dlperf.environments.probe import PROBE
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from dlperf.adapters.base import EnvironmentSpec

Request = dict[str, Any]


def making_request(spec: EnvironmentSpec, *, copied: str | None = None, python: str | None = None) -> Request:
    """Ask for the environment of `spec`, made on the node or out of a copy that lies there.

    Args:
        spec: what an adapter asks for.
        copied: the folder on the node that holds a copy of an environment made elsewhere.
        python: the version that the copy needs, such as `3.10`.
    """
    steps = uv_steps(spec, spec.requirements, base="{python}", folder="{folder}", interpreter="{interpreter}")
    manifest = {
        "schema_version": 1,
        "key": environment_key(spec),
        "spec": asdict(spec),
        "installer": "uv",
        "created_at": _now(),
    }
    return {
        "op": "environment",
        "key": environment_key(spec),
        "pythons": [python] if python else list(spec.pythons),
        "version": spec.version,
        "probe": PROBE,
        "import_check": spec.import_check,
        "steps": steps,
        "variables": spec.build_environment,
        "manifest": manifest,
        "copied": copied,
    }


def adopting_request(spec: EnvironmentSpec, python: Path) -> Request:
    """Ask whether the user's own interpreter on the node works."""
    return {"op": "adopt", "python": str(python), "probe": PROBE, "import_check": spec.import_check}


def made(answer: Any) -> Environment:
    """The environment that the node has made or found; EnvironmentUnavailable where the answer names none."""
    try:
        python, manifest = (
            Path(answer["python"]),
            Manifest.model_validate_json(json.dumps(answer["manifest"])),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise EnvironmentUnavailable(f"the node's answer names no environment: {error}") from error
    return Environment(root=python.parent.parent, python=python, manifest=manifest, lock=None)


def adopted(spec: EnvironmentSpec, answer: Any) -> Environment:
    """The user's own interpreter; EnvironmentUnavailable where it holds another version."""
    python, version, found = Path(answer["python"]), str(answer["version"]), answer["probe"]
    if spec.version not in (version, version.partition("+")[0]):
        raise EnvironmentUnavailable(f"{python} holds {spec.framework} {version}, not {spec.version}")
    manifest = Manifest(
        key=f"user-{spec.framework}-{version}",
        spec=spec,
        version=version,
        python_version=found["python_version"],
        packages=found["packages"],
        installer=None,
        created_at=_now(),
    )
    return Environment(root=Path(found["prefix"]), python=python, manifest=manifest, lock=None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
