"""Install what a specification asks for into a folder, with uv."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from dlperf.environments.builds import built_wheel
from dlperf.environments.probe import inspect
from dlperf.environments.pythons import find_python
from dlperf.environments.uv import Uv, UvFailure, find_links, index_arguments
from dlperf.errors import EnvironmentUnavailable
from dlperf.plan.origin import distribution_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.adapters.base import EnvironmentSpec, WheelFile


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
