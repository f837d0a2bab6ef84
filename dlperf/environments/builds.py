"""Packages without a wheel: compiled once against the packages of an environment, and kept.

The folder of a wheel is named by the hash of everything that decides its content. It stays when the
environments that use it are removed, because compiling takes long.
"""

import os
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dlperf.adapters.base import EnvironmentSpec, SourceBuild
from dlperf.environments.environment import build_content, inspect
from dlperf.environments.nvcc import Toolchain, find_toolchain
from dlperf.environments.processes import exclusive, follow
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import cache_root
from dlperf.plan.case import digest_of

# Fetches a source distribution, which uv can install and not build; the last one for Python 3.8.
_PIP = "pip==24.3.1"

# Where pip says that a build failed; the reason stands below.
_OF_PIP = "subprocess-exited-with-error"

# What pip calls uv's own settings of where packages come from.
_INDEXES = {"UV_DEFAULT_INDEX": "PIP_INDEX_URL", "UV_INDEX_URL": "PIP_INDEX_URL"}


def wheels_root() -> Path:
    """The folder of all wheels that were compiled here."""
    return cache_root() / "wheels"


def wheel_key(build: SourceBuild, spec: EnvironmentSpec, python_version: str) -> str:
    """The name of a wheel's folder: readable first, then a hash of everything that decides the content.

    Of `python_version`, such as `3.10.13`, the patch does not count. With `build.nvcc` the toolchain's label
    is added.
    """
    minor = python_version.rpartition(".")[0]
    content = {
        **build_content(build),
        "requirements": _requirements(build, spec),
        **({"wheel": spec.wheel.sha256} if spec.wheel else {}),
        **({"index": spec.index} if spec.index else {}),
        **({"find_links": spec.find_links} if spec.find_links else {}),
        "python": minor,
        "platform": sysconfig.get_platform(),
    }
    name = build.requirement.replace("==", "-")
    return f"{name}-cp{minor.replace('.', '')}-{digest_of(content)}"


def built_wheel(
    build: SourceBuild,
    spec: EnvironmentSpec,
    *,
    python: Path,
    make_scratch: Callable[[Path, Sequence[str]], Path],
    report: Callable[[str], None],
) -> Path:
    """The wheel of `build`, compiled if no wheel that fits is there.

    As with an environment, the second of two processes waits for the first, and the wheel appears complete
    or not at all. `python` is the interpreter below the environment `spec`; `make_scratch` creates one in a
    folder, with requirements, and returns its interpreter. EnvironmentUnavailable has the reason.
    """
    key = wheel_key(build, spec, inspect(python).python_version)
    try:
        toolchain = find_toolchain(build)
    except EnvironmentUnavailable:
        compiled = sorted(wheels_root().glob(f"{key}-*/*.whl"))  # when this machine had a toolchain
        if not compiled:
            raise
        return compiled[-1]
    if toolchain is not None:
        key = f"{key}-{toolchain.label}"
    folder = wheels_root() / key
    waiting = f"  another dlperf compiles {build.requirement}; waiting for it"
    if _wheel_in(folder) is None:
        lock_file = wheels_root() / ".locks" / f"{key}.lock"
        with exclusive(lock_file, on_wait=lambda: report(waiting)) as lock:
            for leftover in wheels_root().glob(f".making-{key}-*"):
                shutil.rmtree(leftover)
            if _wheel_in(folder) is None:
                _require_programs(build)
                report(f"  compiling {build.requirement}, once; this takes a few minutes")
                unused = sorted(_own_variables(build) - {build.nvcc.home if build.nvcc else None})
                if unused:
                    report(f"  of your variables the build does not use {', '.join(unused)}")
                with tempfile.TemporaryDirectory(
                    prefix=f".making-{key}-", dir=wheels_root(), ignore_cleanup_errors=True
                ) as temporary:
                    scratch = Path(temporary) / "scratch"
                    below = (*_requirements(build, spec), *build.tools, _PIP)
                    scratch_python = make_scratch(scratch, below)
                    variables = _environment(build, Path(temporary), scratch_python, toolchain)
                    _compile(build, Path(temporary), scratch_python, variables, lock=lock, report=report)
                    (Path(temporary) / "wheel").rename(folder)
    wheel = _wheel_in(folder)
    if wheel is None:
        raise EnvironmentUnavailable(f"{folder} has no wheel; remove that folder and try again")
    return wheel


def _requirements(build: SourceBuild, spec: EnvironmentSpec) -> tuple[str, ...]:
    return tuple(text for text in spec.requirements if text not in build.without)


def _wheel_in(folder: Path) -> Path | None:
    return next(folder.glob("*.whl"), None)


def _require_programs(build: SourceBuild) -> None:
    missing = [program for program in build.programs if shutil.which(program) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        steps = "; ".join(dict.fromkeys(build.programs[program] for program in missing))
        raise EnvironmentUnavailable(
            f"{build.requirement} must be compiled and {' and '.join(missing)} {verb} missing: {steps}"
        )


def _compile(
    build: SourceBuild,
    folder: Path,
    python: Path,
    variables: Mapping[str, str | None],
    *,
    lock: int,
    report: Callable[[str], None],
) -> None:
    def report_progress(_lines: Sequence[str], seconds: float) -> None:
        report(f"  still compiling {build.requirement} ({seconds:.0f} s)")

    def pip(*arguments: str | Path) -> None:
        code, lines = follow(
            [str(python), "-m", "pip", *map(str, arguments)],
            env=variables,
            hold=(lock,),
            on_line=lambda _line: None,
            on_silence=report_progress,
        )
        if code != 0:
            raise _failure(build, lines)

    for name in ("tmp", "archive", "source"):
        (folder / name).mkdir()
    alone = ("--no-deps", "--no-build-isolation", "--no-cache-dir")
    pip("download", *alone, "--no-binary=:all:", "--dest", folder / "archive", build.requirement)
    (archive,) = (folder / "archive").iterdir()
    shutil.unpack_archive(archive, folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    _edit(build, source)
    pip("wheel", *alone, "--wheel-dir", folder / "wheel", source)


def _edit(build: SourceBuild, source: Path) -> None:
    for edit in build.edits:
        path = source / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(edit.before) != 1:
            raise EnvironmentUnavailable(
                f"the source of {build.requirement} has changed: the patch of {edit.file} does not apply"
            )
        path.write_text(text.replace(edit.before, edit.after), encoding="utf-8")


def _failure(build: SourceBuild, lines: Sequence[str]) -> EnvironmentUnavailable:
    log = wheels_root() / f"{build.requirement.replace('==', '-')}.log"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return EnvironmentUnavailable(
        f"{build.requirement} cannot be compiled: {_reason(lines)}; its whole output is in {log}"
    )


def _own_variables(build: SourceBuild) -> set[str]:
    """The user's variables that begin with the package's name."""
    prefix = re.split(r"[^A-Za-z0-9]", build.requirement, maxsplit=1)[0].upper() + "_"
    return {name for name in os.environ if name.startswith(prefix)}


def _environment(
    build: SourceBuild, folder: Path, python: Path, toolchain: Toolchain | None
) -> dict[str, str | None]:
    """How the build's environment differs from the user's; makes the links that it needs."""
    others = dict.fromkeys(_own_variables(build))
    site_packages = str(inspect(python).site_packages)

    def filled(text: str) -> str:
        return text.replace("{site_packages}", site_packages)

    for link, target in build.links.items():
        Path(filled(link)).symlink_to(target)
    settings = {name: filled(value) for name, value in build.settings.items()}
    programs = [str(python.parent), os.environ.get("PATH", os.defpath)]
    if toolchain is not None and build.nvcc is not None:
        # Also first on PATH: Horovod asks the nvcc there what it can compile for.
        programs.insert(1, str(toolchain.home / "bin"))
        settings |= {build.nvcc.home: str(toolchain.home), **toolchain.variables()}
        libraries = [settings.get("LD_LIBRARY_PATH"), os.environ.get("LD_LIBRARY_PATH")]
        if toolchain.stub is not None:
            (folder / "driver").mkdir()
            (folder / "driver" / "libcuda.so.1").symlink_to(toolchain.stub)
            libraries.append(str(folder / "driver"))
        settings["LD_LIBRARY_PATH"] = os.pathsep.join(place for place in libraries if place)
    indexes = {
        pip: os.environ[uv] for uv, pip in _INDEXES.items() if uv in os.environ and pip not in os.environ
    }
    return {
        **others,
        "MAKEFLAGS": f"-j{os.cpu_count() or 1}",
        "PATH": os.pathsep.join(programs),
        "TMPDIR": str(folder / "tmp"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **indexes,
        **settings,
    }


def _reason(lines: Sequence[str]) -> str:
    """The first line that a compiler, CMake or the build calls an error, else the last one."""
    errors = [line for line in lines if re.search(r"\b[Ee]rror\b(:| at )", line) and _OF_PIP not in line]
    return (errors or [line for line in lines if line][-1:] or ["it says nothing"])[0]
