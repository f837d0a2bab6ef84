"""What an environment is: a folder whose name holds the hash of its specification, and a manifest inside."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from dlperf.adapters.base import EnvironmentSpec
from dlperf.environments.processes import shared
from dlperf.errors import EnvironmentUnavailable
from dlperf.model import Model

MANIFEST_NAME = "dlperf-environment.json"


class Manifest(Model):
    """What was installed, written when the environment was proved to work.

    Attributes:
        key: the environment's name, see `environment_key`.
        spec: what it was made from.
        version: the framework's version as the engine itself prints it, such as `2.13.0+cpu`.
        python_version: of its interpreter, such as `3.10.13`.
        packages: normalised name -> version of everything installed.
        installer: such as `uv 0.8.3`; None for an interpreter of the user's own.
        created_at: ISO 8601, UTC.
    """

    schema_version: Literal[1] = 1
    key: str
    spec: EnvironmentSpec
    version: str
    python_version: str
    packages: dict[str, str]
    installer: str | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A ready environment.

    Attributes:
        root: the folder that holds it (`sys.prefix` of its interpreter).
        python: the interpreter; start it by this path, not by what the link points to.
        manifest: what is installed.
        lock: the file whose shared lock keeps the environment from being removed; None for the user's own.
    """

    root: Path
    python: Path
    manifest: Manifest
    lock: Path | None

    @property
    def key(self) -> str:
        """The folder's name, such as `mxnet-1.9.1-0123456789ab`; `user-...` for the user's own Python."""
        return self.manifest.key

    @property
    def spec(self) -> EnvironmentSpec:
        """What it was made from."""
        return self.manifest.spec

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `dlperf env remove` away while the block runs; any number of users at once.

        Raises:
            EnvironmentUnavailable: it was removed between `ensure` and this call.
        """
        if self.lock is None:
            yield
            return
        with shared(self.lock):
            if not self.python.exists():
                raise EnvironmentUnavailable(
                    f"environment {self.key} was removed meanwhile; start again and it is made anew"
                )
            yield


def environment_key(spec: EnvironmentSpec) -> str:
    """The folder's name: readable first, then 12 hexadecimal digits of SHA-256 over what decides the content.

    What is said to people does not count, nor does where a wheel lies, as its own hash says what it is; the
    platform does, as a home folder may be shared between machines.
    """
    content = asdict(spec) | {"platform": sysconfig.get_platform()}
    del content["notes"], content["parallel"]
    for build in content["builds"]:
        del build["programs"]
    if spec.wheel is not None:
        content["wheel"] = spec.wheel.sha256
    for name in ("builds", "wheel", "index"):
        if not content[name]:
            del content[name]  # environments that were made before there were any keep their names
    return f"{spec.framework}-{spec.version}-{digest_of(content)}"


def digest_of(content: object) -> str:
    """12 hexadecimal digits of SHA-256 over what JSON can hold."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def cache_root() -> Path:
    """The folder of all that dlperf keeps: DLPERF_CACHE where that is set, else the user's cache folder."""
    given = os.environ.get("DLPERF_CACHE")
    return Path(given).expanduser().absolute() if given else platformdirs.user_cache_path("dlperf")


def environments_root() -> Path:
    """The folder of all environments."""
    return cache_root() / "environments"


def lock_of(key: str) -> Path:
    """The lock file of the environment `key`."""
    return environments_root() / ".locks" / f"{key}.lock"


def read_environment(root: Path) -> Environment | None:
    """The environment in the folder `root`; None where there is none, or where its Python is gone."""
    python = root / "bin" / "python"
    try:
        manifest = Manifest.model_validate_json((root / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    if not python.exists():
        return None
    return Environment(root=root, python=python, manifest=manifest, lock=lock_of(manifest.key))
