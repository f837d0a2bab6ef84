"""Install what a specification asks for into a folder, with uv."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dlperf.environments.builds import built_wheel
from dlperf.environments.probe import inspect
from dlperf.environments.pythons import find_python
from dlperf.environments.uv import Uv, UvFailure, find_links, index_arguments
from dlperf.errors import EnvironmentUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlperf.adapters.base import EnvironmentSpec


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
    create, fill = uv_steps(spec, requirements, **places, options=options)
    try:
        uv.run(create, env={}, hold=(lock,))
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
) -> tuple[list[str], list[str]]:
    """What uv is told: make a virtual environment on `base` in `folder`, then fill it by its interpreter."""
    create = ["venv", "--relocatable", "--no-project", "--python", base, folder]
    fill = ["pip", "install", "--python", interpreter, *options, *_source(spec)]
    return create, [*fill, *requirements]


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
