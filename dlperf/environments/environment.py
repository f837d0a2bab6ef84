"""An environment: a folder named by the hash of its specification, with a manifest, and its interpreter."""

import re
import signal
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from dlperf.adapters.base import EnvironmentSpec, SourceBuild
from dlperf.environments.checks import check_source, unverified_in
from dlperf.environments.processes import run_python, shared
from dlperf.errors import EnvironmentUnavailable
from dlperf.files import cache_root
from dlperf.model import Model
from dlperf.plan.case import digest_of
from dlperf.plan.compatibility import why_not
from dlperf.plan.machine import detect_machine

MANIFEST_NAME = "dlperf-environment.json"
_PROBE_SECONDS = 120
# The first import of a framework reads gigabytes from a cold disk, perhaps under other load.
_IMPORT_SECONDS = 900

# Fields of a specification that change nothing of what is installed.
_NOT_CONTENT = ("notes", "parallel", "cuda", "build_check", "gpu_check", "torch_on_pypi")

# For Python 3.8 and newer.
PROBE = """
import json, platform, re, sys, sysconfig
from importlib.metadata import distributions
packages = {}
for distribution in distributions():
    name = distribution.metadata["Name"]
    if name:  # the first on sys.path is the one that is imported
        packages.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
print(json.dumps({
    "python_version": platform.python_version(), "prefix": sys.prefix,
    "site_packages": sysconfig.get_path("purelib"), "packages": dict(sorted(packages.items())),
}))
"""


class Manifest(Model):
    """What was installed, written after the environment passed its check."""

    schema_version: Literal[1] = 1
    key: str  # see `environment_key`
    spec: EnvironmentSpec
    version: str  # the framework's, as the engine prints it, such as `2.13.0+cpu`
    python_version: str
    packages: dict[str, str]  # normalised name -> version of everything installed
    # What the check could not try where the environment was made, with the reason.
    unverified: Annotated[tuple[str, ...], Field(exclude_if=lambda lines: not lines)] = ()
    installer: str | None  # such as `uv 0.8.3`; None for the user's own interpreter
    created_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A ready environment."""

    root: Path  # `sys.prefix` of its interpreter
    python: Path  # start it by this path, not by what the link points to
    manifest: Manifest
    lock: Path | None  # its shared lock keeps the environment from being removed; None for the user's own

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
        """Keep `dlperf env remove` away; EnvironmentUnavailable if it came before this call."""
        if self.lock is None:
            yield
            return
        with shared(self.lock):
            if not self.python.exists():
                raise EnvironmentUnavailable(
                    f"environment {self.key} was removed meanwhile; start again and it is made anew"
                )
            yield


def build_content(build: SourceBuild) -> dict[str, Any]:
    """What decides the content of a compiled package: all but how a person gets a compiler."""
    content = asdict(build)
    del content["programs"], content["without"]
    if build.nvcc is None:
        del content["nvcc"]  # keeps the keys of wheels compiled before it existed
    else:
        del content["nvcc"]["package"]
    if not build.links:
        del content["links"]  # likewise
    return content


def environment_key(spec: EnvironmentSpec) -> str:
    """The folder's name: framework, version, CUDA build of torch, and a hash of all that decides the content.

    The platform counts, because machines may share a home folder; messages and a wheel's path do not, nor
    what is checked beside the import.
    """
    content = asdict(spec) | {"platform": sysconfig.get_platform()}
    for name in _NOT_CONTENT:
        del content[name]
    content["builds"] = [build_content(build) for build in spec.builds]
    if spec.wheel is not None:
        content["wheel"] = spec.wheel.sha256
    for name in ("builds", "wheel", "index", "find_links"):
        if not content[name]:
            del content[name]  # keeps the keys of environments made before these existed
    backend = spec.torch_backend or ""
    build = f"-{backend}" if backend.startswith("cu") else ""
    return f"{spec.framework}-{spec.version}{build}-{digest_of(content)}"


def environments_root() -> Path:
    """The folder of all environments."""
    return cache_root() / "environments"


def lock_of(key: str) -> Path:
    """The lock file of the environment `key`."""
    return environments_root() / ".locks" / f"{key}.lock"


def read_environment(root: Path) -> Environment | None:
    """The environment in the folder `root`; None if there is none or its Python is gone."""
    python = root / "bin" / "python"
    try:
        manifest = Manifest.model_validate_json((root / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    if not python.exists():
        return None
    return Environment(root=root, python=python, manifest=manifest, lock=lock_of(manifest.key))


class Interpreter(BaseModel):
    """The answer of `PROBE`; `packages` maps normalised names to versions."""

    python_version: str
    prefix: Path
    site_packages: Path
    packages: dict[str, str]


def inspect(python: Path, *, hold: Sequence[int] = ()) -> Interpreter:
    """Ask `python` for its description; EnvironmentUnavailable if it does not run or is older than 3.8."""
    try:
        done = run_python(python, PROBE, timeout_seconds=_PROBE_SECONDS, hold=hold)
        return Interpreter.model_validate_json(done.stdout)
    except ValidationError:
        reason = _last_line(done.stderr) or f"it ended with {_ending(done.returncode)}"
        raise EnvironmentUnavailable(
            f"{python} is not a working Python 3.8 or newer: {reason}; give the path of one"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check has found: the version that the framework prints, and what could not be tried, and why."""

    version: str
    unverified: tuple[str, ...]


def check(spec: EnvironmentSpec, python: Path, *, own: bool = False, hold: Sequence[int] = ()) -> Checked:
    """Run the check of `spec`; EnvironmentUnavailable if it fails or the framework has another version.

    `own`: the user has installed it, perhaps in another build. An environment may be for the GPUs of other
    machines; where it cannot run on those of this one, its work on a GPU is not tried.
    """
    other = _unsuited_gpu(spec) if spec.gpu_check and not own else None
    tried = spec if other is None else replace(spec, gpu_check=None)
    done = run_python(python, check_source(tried, own=own), timeout_seconds=_IMPORT_SECONDS, hold=hold)
    name = f"{spec.framework}=={spec.version}"
    if done.returncode != 0:
        reason = _fault(done.stderr) or f"the check ended with {_ending(done.returncode)}"
        raise EnvironmentUnavailable(f"{name} does not work with {python}: {reason}")
    version = _last_line(done.stdout)
    if not is_version(version, spec.version):
        raise EnvironmentUnavailable(
            f"{python} has {spec.framework} {version or '(no version)'}, not {spec.version}"
        )
    untried = () if other is None else (f"that it works on a GPU: {other}",)
    return Checked(version=version, unverified=(*untried, *unverified_in(done.stdout.splitlines())))


def _unsuited_gpu(spec: EnvironmentSpec) -> str | None:
    """Why the environment cannot run on a GPU of this machine; None if it can, or if that is not known."""
    if spec.cuda is None:
        return None
    reasons = [why_not(spec.cuda, gpu) for gpu in detect_machine().gpus]
    return next((f"{spec.framework} {spec.version} {reason}" for reason in reasons if reason), None)


def is_version(printed: str, wanted: str) -> bool:
    """Whether an engine that prints this version is the wanted one: 2.13.0+cpu is a build of 2.13.0."""
    return wanted in (printed, printed.partition("+")[0])


def _ending(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def _fault(text: str) -> str:
    """The line of glog's, in which OneFlow says why it aborts, without its head; else the last line."""
    fatal = re.search(r"^F\d{8} .*?\] (.*)", text, re.MULTILINE)
    return fatal[1].strip() if fatal else _last_line(text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
