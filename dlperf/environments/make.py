"""Create an environment with uv, or find an existing one, on this machine or on a node of a cluster."""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from dlperf.adapters.base import EnvironmentSpec, WheelFile
from dlperf.environments.builds import built_wheel
from dlperf.environments.checks import check_source
from dlperf.environments.environment import (
    MANIFEST_NAME,
    PROBE,
    Checked,
    Environment,
    Interpreter,
    Manifest,
    check,
    environment_key,
    environments_root,
    inspect,
    is_version,
    lock_of,
    read_environment,
)
from dlperf.environments.processes import exclusive
from dlperf.environments.uv import (
    FIND_LINKS,
    Uv,
    UvFailure,
    find_links,
    find_python,
    find_uv,
    index_arguments,
)
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import write_document
from dlperf.plan.versions import distribution_of, sha256_of

# Not for the scratch environment of a build.
KEPT = ("--compile-bytecode",)


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
    """Create a virtual environment with `requirements`; returns its interpreter."""
    python = folder / "bin" / "python"
    paths = {"base": str(base), "folder": str(folder), "interpreter": str(python)}
    try:
        for step in uv_steps(spec, requirements, **paths, options=options):
            uv.run(step.arguments, env=step.variables, hold=(lock,))
    except UvFailure as failure:
        raise EnvironmentUnavailable(str(failure)) from failure
    return python


@dataclass(frozen=True, slots=True, kw_only=True)
class UvStep:
    """A command of uv, and the variables with which it runs."""

    arguments: list[str]
    variables: dict[str, str]


def uv_steps(
    spec: EnvironmentSpec,
    requirements: Sequence[str],
    *,
    base: str,
    folder: str,
    interpreter: str,
    options: Sequence[str] = KEPT,
) -> list[UvStep]:
    """The uv commands that create a virtual environment on `base` in `folder`, and fill it.

    A package from the user's index or links is installed first and from there only, so that one of the same
    name and version elsewhere cannot replace it; its dependencies may come from that index too.
    """
    create = ["venv", "--relocatable", "--no-project", "--python", base, folder]
    install = ["pip", "install", "--python", interpreter, *options]
    asked = [*install, *_source(spec), *_with_wheel(spec, _exact_torch(spec, requirements))]
    steps = [
        UvStep(arguments=create, variables={}),
        UvStep(arguments=asked, variables=_variables(spec)),
    ]
    if spec.index is not None:
        # Both kinds of index and the strategy, so that uv's own variables have no effect; likewise the links.
        alone = [f"--index={spec.index}", f"--default-index={spec.index}", "--index-strategy=first-index"]
    elif spec.find_links is not None:
        alone = ["--no-index", f"--find-links={spec.find_links}"]
    else:
        return steps
    own = [*install, "--no-deps", "--no-build", *alone, requirements[0]]
    return [steps[0], UvStep(arguments=own, variables={FIND_LINKS: ""}), steps[1]]


def _exact_torch(spec: EnvironmentSpec, requirements: Sequence[str]) -> list[str]:
    """The requirements, with torch as PyPI has it: `==` would rather take a +cpu build that lies ready."""
    if not spec.torch_on_pypi or _has_torch_wheel(spec):
        return list(requirements)
    return [re.sub(r"^torch==", "torch===", text) for text in requirements]


def _with_wheel(spec: EnvironmentSpec, requirements: Sequence[str]) -> list[str]:
    """The requirements, with the user's wheel in place of its package."""
    if spec.wheel is None:
        return list(requirements)
    wheel = Path(spec.wheel.path)
    name = canonicalize_name(wheel.name.partition("-")[0])
    return [str(wheel) if name == distribution_of(text) else text for text in requirements]


def _refuse_changed(wheel: WheelFile) -> None:
    """Refuse a wheel that has changed since the plan was made: its results would get a wrong name."""
    try:
        digest = sha256_of(Path(wheel.path))
    except OSError as error:
        raise EnvironmentUnavailable(f"{wheel.path}: {error.strerror}") from None
    if digest != wheel.sha256:
        raise EnvironmentUnavailable(f"{wheel.path} has changed since it was read; start again")


def _source(spec: EnvironmentSpec) -> list[str]:
    arguments, _ = index_arguments()
    if spec.torch_backend is not None and not spec.torch_on_pypi and not _has_torch_wheel(spec):
        arguments.append(f"--torch-backend={spec.torch_backend}")
    if spec.index is not None:
        arguments = [text for text in arguments if not text.startswith("--index-strategy=")]
        arguments += [f"--index={spec.index}", "--index-strategy=unsafe-best-match"]
    if not spec.build_environment:
        arguments.append("--no-build")  # nothing compiles by surprise
    return arguments


def _variables(spec: EnvironmentSpec) -> dict[str, str]:
    """Of uv while it installs."""
    _, credentials = index_arguments()
    return {**spec.build_environment, **credentials}


def _has_torch_wheel(spec: EnvironmentSpec) -> bool:
    """Whether a find-links folder has the required torch for the required backend.

    --torch-backend makes uv look at download.pytorch.org only.
    """
    versions = [match[1] for text in spec.requirements if (match := re.match(r"torch==([^+;\s]+)", text))]
    return any(
        any(Path(place).glob(f"torch-{version}+{spec.torch_backend}-*.whl"))
        for place in find_links()
        for version in versions
    )


def _to_standard_error(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def ensure(
    spec: EnvironmentSpec, *, python: Path | None = None, report: Callable[[str], None] = _to_standard_error
) -> Environment:
    """The environment of `spec`, created with uv if this machine does not have it.

    The user's own interpreter `python` is checked and used as it is. EnvironmentUnavailable has the reason
    and the next step.
    """
    if python is not None:
        return _adopt(spec, python)
    root = environments_root() / environment_key(spec)
    return read_environment(root) or make(spec, base=None, report=report)


def make(spec: EnvironmentSpec, *, base: Path | None, report: Callable[[str], None]) -> Environment:
    """Create the environment of `spec` unless it exists, on the interpreter `base` or on one that is found.

    If two processes do this at once, the second waits and uses the result of the first. Leftovers of an
    interrupted process are removed; the environment appears complete and tested, or not at all.
    """
    key = environment_key(spec)
    root = environments_root() / key
    name = f"{spec.framework}=={spec.version}"
    waiting = f"{name}: another dlperf is creating or using this environment; waiting for it"
    with exclusive(lock_of(key), on_wait=lambda: report(waiting)) as descriptor:
        existing = read_environment(root)
        if existing is not None:
            return existing
        discard_leftovers(key)
        if root.exists():
            report(f"{name}: the environment in {root} is broken (is its Python missing?); creating it again")
            discard(root)
        report(f"{name}: creating its environment in {root}{f' ({spec.notes})' if spec.notes else ''}")
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".making-{key}-", dir=root.parent))
        options = (" --parallel" if spec.parallel else "") + (" --device cuda" if spec.gpu_check else "")
        command = f"dlperf env create {name}{options}"
        again = "try again" if spec.wheel or spec.index or spec.find_links else f"try again with `{command}`"
        try:
            manifest = _fill(temporary / key, spec, base=base, report=report, lock=descriptor)
            (temporary / key).rename(root)
        except EnvironmentUnavailable as error:
            raise EnvironmentUnavailable(
                f"{name} cannot be installed here: {error}; {again}, "
                "or use a Python that has it with `python: /path/to/python` in the sweep"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        report(f"{name}: ready")
        return Environment(root=root, python=root / "bin" / "python", manifest=manifest, lock=lock_of(key))


def discard(root: Path) -> None:
    """Remove an environment, whose lock the caller holds: gone under its name at once, then from the disk."""
    doomed = Path(tempfile.mkdtemp(prefix=f".removing-{root.name}-", dir=root.parent))
    root.rename(doomed / root.name)
    shutil.rmtree(doomed)


def discard_leftovers(key: str) -> None:
    """Remove what killed processes left of `key`, whose lock the caller holds."""
    for state in ("making", "removing"):
        for leftover in environments_root().glob(f".{state}-{key}-*"):
            shutil.rmtree(leftover)


def _fill(
    folder: Path, spec: EnvironmentSpec, *, base: Path | None, report: Callable[[str], None], lock: int
) -> Manifest:
    uv = find_uv(report)
    if spec.wheel is not None:
        _refuse_changed(spec.wheel)
    found = _working(base) if base else find_python(spec.pythons, uv=uv, hold=(lock,))
    report(f"  Python {found}")

    def make_scratch(scratch: Path, requirements: Sequence[str]) -> Path:
        return _filled(scratch, spec, requirements, base=found, uv=uv, lock=lock, options=())

    wheels = [
        str(built_wheel(build, spec, python=found, make_scratch=make_scratch, report=report))
        for build in spec.builds
    ]
    python = _filled(folder, spec, (*spec.requirements, *wheels), base=found, uv=uv, lock=lock)
    report("  checking that it works")
    checked = check(spec, python, hold=(lock,))
    for line in checked.unverified:
        report(f"  not verified: {line}; the first run will show it")
    interpreter = inspect(python, hold=(lock,))
    manifest = _manifest(spec, environment_key(spec), checked, interpreter, installer=uv.version)
    write_document(folder / MANIFEST_NAME, manifest, indent=2)
    return manifest


def _working(base: Path) -> Path:
    program = shutil.which(base.expanduser())
    if program is None:
        raise EnvironmentUnavailable(f"{base} is not an executable")
    inspect(Path(program).absolute())
    return Path(program).absolute()


def _adopt(spec: EnvironmentSpec, python: Path) -> Environment:
    # absolute(), never resolve(): the link inside a virtual environment is what makes it one.
    python = Path(python).expanduser().absolute()
    if not python.is_file() or not os.access(python, os.X_OK):
        raise EnvironmentUnavailable(
            f"{python} is not an executable; give the path of a Python with {spec.framework}"
        )
    interpreter = inspect(python)
    checked = check(spec, python, own=True)
    digest = hashlib.sha256(str(python).encode()).hexdigest()[:12]
    return _own_environment(spec, python, checked, interpreter, suffix=f"-{digest}")


def _own_environment(
    spec: EnvironmentSpec, python: Path, checked: Checked, interpreter: Interpreter, *, suffix: str = ""
) -> Environment:
    key = f"user-{spec.framework}-{checked.version}{suffix}"
    manifest = _manifest(spec, key, checked, interpreter, installer=None)
    return Environment(root=interpreter.prefix, python=python, manifest=manifest, lock=None)


def _manifest(
    spec: EnvironmentSpec, key: str, checked: Checked, interpreter: Interpreter, *, installer: str | None
) -> Manifest:
    return Manifest(
        key=key,
        spec=spec,
        version=checked.version,
        python_version=interpreter.python_version,
        packages=interpreter.packages,
        unverified=checked.unverified,
        installer=installer,
        created_at=_now(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


Request = dict[str, Any]


def making_request(spec: EnvironmentSpec, *, copied: str | None = None, python: str | None = None) -> Request:
    """The request for the environment of `spec`, created on the node or from a copy.

    `copied` is the folder on the node with the copy, `python` the version that it needs, such as `3.10`.
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
        "import_check": check_source(spec),
        "steps": [asdict(step) for step in steps],
        "manifest": manifest,
        "copied": copied,
    }


def adopting_request(spec: EnvironmentSpec, python: Path) -> Request:
    """The request to check the user's own interpreter on the node."""
    source = check_source(spec, own=True)
    return {"op": "adopt", "python": str(python), "probe": PROBE, "import_check": source}


def environment_from(answer: Any) -> Environment:
    """The environment that the node has created or found; EnvironmentUnavailable if the answer has none."""
    try:
        python = Path(answer["python"])
        manifest = Manifest.model_validate_json(json.dumps(answer["manifest"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise EnvironmentUnavailable(f"the node's answer has no environment: {error}") from error
    return Environment(root=python.parent.parent, python=python, manifest=manifest, lock=None)


def user_environment_from(spec: EnvironmentSpec, answer: Any) -> Environment:
    """The user's own interpreter on the node; EnvironmentUnavailable if it has another version."""
    python, version = Path(answer["python"]), str(answer["version"])
    if not is_version(version, spec.version):
        raise EnvironmentUnavailable(f"{python} has {spec.framework} {version}, not {spec.version}")
    checked = Checked(version=version, unverified=tuple(answer["unverified"]))
    return _own_environment(spec, python, checked, Interpreter.model_validate(answer["probe"]))
