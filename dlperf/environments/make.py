"""Make an environment, or find the one that was made before."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.environments.environment import (
    MANIFEST_NAME,
    Environment,
    Manifest,
    environment_key,
    environments_root,
    lock_of,
    read_environment,
)
from dlperf.environments.install import install
from dlperf.environments.locks import exclusive
from dlperf.environments.probe import framework_version, inspect
from dlperf.environments.uv import find_uv
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.adapters.base import EnvironmentSpec


def _to_standard_error(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def ensure(
    spec: EnvironmentSpec, *, python: Path | None = None, report: Callable[[str], None] = _to_standard_error
) -> Environment:
    """The environment of `spec`, made with uv if this machine has none yet.

    Args:
        spec: what an adapter asks for.
        python: an interpreter of the user's own; it is checked and used as it is, nothing is installed.
        report: is given one line of progress at a time.

    Raises:
        EnvironmentUnavailable: it cannot be made, or does not work; with the reason and the next step.
    """
    if python is not None:
        return _adopt(spec, python)
    return read_environment(environments_root() / environment_key(spec)) or make(
        spec, base=None, report=report
    )


def make(spec: EnvironmentSpec, *, base: Path | None, report: Callable[[str], None]) -> Environment:
    """Make the environment of `spec` unless it exists, on the interpreter `base` or on one that is found.

    Two makers at once: the second waits and takes what the first has made. What an interrupted maker left is
    removed; the environment appears under its name, whole and proved, or not at all.

    Raises:
        EnvironmentUnavailable: it cannot be made; with the reason and the next step.
    """
    key = environment_key(spec)
    root = environments_root() / key
    name = f"{spec.framework}=={spec.version}"

    def say_that_it_waits() -> None:
        report(f"{name}: another dlperf is making or using this environment; waiting for it")

    with exclusive(lock_of(key), on_wait=say_that_it_waits) as descriptor:
        made = read_environment(root)
        if made is not None:
            return made
        discard_leftovers(key)
        if root.exists():
            report(f"{name}: the environment in {root} is broken (its Python is gone?); making it again")
            discard(root)
        report(f"{name}: making its environment in {root}{f' ({spec.notes})' if spec.notes else ''}")
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".making-{key}-", dir=root.parent))
        again = "try again" if spec.wheel or spec.index else f"try again with `{_creating(spec)}`"
        try:
            _fill(temporary / key, spec, base=base, report=report, lock=descriptor)
            (temporary / key).rename(root)
        except EnvironmentUnavailable as error:
            raise EnvironmentUnavailable(
                f"{name} cannot be installed here: {error}; {again}, "
                "or use a Python that has it with `python: /path/to/python` in the sweep"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        report(f"{name}: ready")
        return _must_read(root)


def _creating(spec: EnvironmentSpec) -> str:
    parallel = " --parallel" if spec.parallel else ""
    return f"dlperf env create {spec.framework}=={spec.version}{parallel}"


def discard(root: Path) -> None:
    """Remove an environment, whose lock the caller holds: gone under its name at once, then from the disk."""
    doomed = Path(tempfile.mkdtemp(prefix=f".removing-{root.name}-", dir=root.parent))
    root.rename(doomed / root.name)
    shutil.rmtree(doomed)


def discard_leftovers(key: str) -> None:
    """Remove what makers and removers of `key` left that were killed; the caller holds its lock."""
    for state in ("making", "removing"):
        for leftover in environments_root().glob(f".{state}-{key}-*"):
            shutil.rmtree(leftover)


def _fill(
    folder: Path, spec: EnvironmentSpec, *, base: Path | None, report: Callable[[str], None], lock: int
) -> None:
    uv = find_uv(report)
    python = install(spec, folder, base=base, uv=uv, lock=lock)
    report("  checking that it works")
    version = framework_version(spec, python, hold=(lock,))
    found = inspect(python, hold=(lock,))
    manifest = Manifest(
        key=environment_key(spec),
        spec=spec,
        version=version,
        python_version=found.python_version,
        packages=found.packages,
        installer=uv.version,
        created_at=_now(),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _adopt(spec: EnvironmentSpec, python: Path) -> Environment:
    # absolute(), never resolve(): the link inside a virtual environment is what makes it one.
    python = Path(python).expanduser().absolute()
    if not python.is_file() or not os.access(python, os.X_OK):
        raise EnvironmentUnavailable(
            f"{python} is no program; give the path of a Python with {spec.framework}"
        )
    found = inspect(python)
    version = framework_version(spec, python)
    digest = hashlib.sha256(str(python).encode()).hexdigest()[:12]
    manifest = Manifest(
        key=f"user-{spec.framework}-{version}-{digest}",
        spec=spec,
        version=version,
        python_version=found.python_version,
        packages=found.packages,
        installer=None,
        created_at=_now(),
    )
    return Environment(root=found.prefix, python=python, manifest=manifest, lock=None)


def _must_read(root: Path) -> Environment:
    environment = read_environment(root)
    if environment is None:
        raise EnvironmentUnavailable(f"the environment just made in {root} cannot be read")
    return environment


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
