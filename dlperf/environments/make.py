"""Make an environment, or find the one that was made before."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from dlperf.adapters.base import EnvironmentSpec, WheelFile
from dlperf.environments.builds import built_wheel
from dlperf.environments.environment import (
    MANIFEST_NAME,
    Environment,
    Manifest,
    environment_key,
    environments_root,
    lock_of,
    read_environment,
)
from dlperf.environments.probe import PROBE, framework_version, inspect
from dlperf.environments.processes import exclusive
from dlperf.environments.uv import Uv, UvFailure, find_links, find_python, find_uv, index_arguments
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import write_document
from dlperf.plan.versions import distribution_of, sha256_of

# Of an environment that is used more than once.
KEPT = ("--compile-bytecode",)


def install(spec: EnvironmentSpec, folder: Path, *, base: Path | None, uv: Uv, lock: int) -> Path:
    """Make a virtual environment in `folder`, install what is asked for, and give its interpreter.

    Args:
        spec: what to install.
        folder: where to make it, in an existing folder; it can be moved afterwards.
        base: the Python to build on; None finds one of `spec.pythons`.
        uv: the installer.
        lock: file descriptor of the environment's lock, held by uv too.

    Raises:
        EnvironmentUnavailable: no Python, no compiler where one is needed, or what uv says.
    """
    if spec.wheel is not None:
        _refuse_another(spec.wheel)
    base = _working(base) if base else find_python(spec.pythons, uv=uv, hold=(lock,))
    uv.report(f"  Python {base}")

    def make_scratch(scratch: Path, requirements: Sequence[str]) -> Path:
        return _filled(scratch, spec, requirements, base=base, uv=uv, lock=lock, options=())

    wheels = [
        str(built_wheel(build, spec, python=base, make_scratch=make_scratch, report=uv.report))
        for build in spec.builds
    ]
    return _filled(folder, spec, (*spec.requirements, *wheels), base=base, uv=uv, lock=lock)


def _filled(
    folder: Path,
    spec: EnvironmentSpec,
    requirements: Sequence[str],
    *,
    base: Path,
    uv: Uv,
    lock: int,
    options: Sequence[str] = KEPT,
) -> Path:
    """A virtual environment with `requirements`; its interpreter."""
    python = folder / "bin" / "python"
    places = {"base": str(base), "folder": str(folder), "interpreter": str(python)}
    create, *fills = uv_steps(spec, requirements, **places, options=options)
    try:
        uv.run(create, env={}, hold=(lock,))
        for fill in fills:
            uv.run(fill, env=spec.build_environment, hold=(lock,))
    except UvFailure as failure:
        raise EnvironmentUnavailable(str(failure)) from failure
    return python


def uv_steps(
    spec: EnvironmentSpec,
    requirements: Sequence[str],
    *,
    base: str,
    folder: str,
    interpreter: str,
    options: Sequence[str] = KEPT,
) -> list[list[str]]:
    """What uv is told: make a virtual environment on `base` in `folder`, then fill it by its interpreter.

    What comes from an index of the user's is installed first and from there alone, so that a package of the
    same name and version elsewhere cannot stand in for it; the index serves what that needs too.
    """
    create = ["venv", "--relocatable", "--no-project", "--python", base, folder]
    install = ["pip", "install", "--python", interpreter, *options]
    asked = [*install, *_source(spec), *_with_wheel(spec, requirements)]
    if spec.index is None:
        return [create, asked]
    # Both kinds of index and the strategy: whatever variables of uv's say of them is laid aside.
    alone = [f"--index={spec.index}", f"--default-index={spec.index}", "--index-strategy=first-index"]
    return [create, [*install, "--no-deps", "--no-build", *alone, requirements[0]], asked]


def _with_wheel(spec: EnvironmentSpec, requirements: Sequence[str]) -> list[str]:
    """The requirements with the user's wheel in place of the package that it is of."""
    if spec.wheel is None:
        return list(requirements)
    wheel = Path(spec.wheel.path)
    name = canonicalize_name(wheel.name.partition("-")[0])
    return [str(wheel) if name == distribution_of(text) else text for text in requirements]


def _refuse_another(wheel: WheelFile) -> None:
    """Refuse a wheel that was written anew since it was read: its results would bear a wrong name."""
    try:
        found = sha256_of(Path(wheel.path))
    except OSError as error:
        raise EnvironmentUnavailable(f"{wheel.path}: {error.strerror}") from None
    if found != wheel.sha256:
        raise EnvironmentUnavailable(f"{wheel.path} has changed since it was read; start again")


def _working(base: Path) -> Path:
    found = shutil.which(base.expanduser())
    if found is None:
        raise EnvironmentUnavailable(f"{base} is no program")
    inspect(Path(found).absolute())
    return Path(found).absolute()


def _source(spec: EnvironmentSpec) -> list[str]:
    arguments = index_arguments()
    if spec.torch_backend is not None and not _torch_lies_ready(spec):
        arguments.append(f"--torch-backend={spec.torch_backend}")
    if spec.index is not None:
        arguments = [one for one in arguments if not one.startswith("--index-strategy=")]
        arguments += [f"--index={spec.index}", "--index-strategy=unsafe-best-match"]
    if not spec.build_environment:
        arguments.append("--no-build")  # nothing compiles by surprise
    return arguments


def _torch_lies_ready(spec: EnvironmentSpec) -> bool:
    """Whether a find-links folder holds the wanted torch, built for the wanted backend.

    --torch-backend makes uv ask download.pytorch.org and nobody else.
    """
    wanted = [match[1] for text in spec.requirements if (match := re.match(r"torch==([^+;\s]+)", text))]
    return any(
        any(Path(place).glob(f"torch-{version}+{spec.torch_backend}-*.whl"))
        for place in find_links()
        for version in wanted
    )


# Make an environment, or find the one that was made before.


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
    write_document(folder / MANIFEST_NAME, manifest, indent=2)


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


# Environments on the nodes of a cluster: what `frameworks/node/environments.py` is asked and answers.


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
