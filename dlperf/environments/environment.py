"""What an environment is: a folder whose name holds the hash of its specification, and a manifest inside."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from dlperf.environments.locks import shared
from dlperf.errors import EnvironmentUnavailable
from dlperf.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dlperf.adapters.base import EnvironmentSpec

MANIFEST_NAME = "dlperf-environment.json"


class Manifest(Model):
    """What was installed, written when the environment was proved to work."""

    schema_version: Literal[1] = 1
    key: str
    framework: str
    version: str  # as the engine itself prints it, such as `2.13.0+cpu`
    python_version: str
    packages: dict[str, str]  # normalised name -> version
    requirements: tuple[str, ...]
    installer: str | None  # such as `uv 0.8.3`; None for an interpreter of the user's own
    created_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A ready environment.

    Attributes:
        key: the folder's name, such as `mxnet-1.9.1-0123456789ab`; `user-...` for a Python of the user's own.
        spec: what it was made from.
        root: the folder that holds it (`sys.prefix` of its interpreter).
        python: the interpreter; start it by this path, not by what the link points to.
        manifest: what is installed.
        lock: the file whose shared lock keeps the environment from being removed; None for the user's own.
    """

    key: str
    spec: EnvironmentSpec
    root: Path
    python: Path
    manifest: Manifest
    lock: Path | None

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

    Notes do not count; the platform does, as a home folder may be shared between machines.
    """
    content = asdict(spec) | {"platform": sysconfig.get_platform()}
    del content["notes"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    return f"{spec.framework}-{spec.version}-{digest}"
