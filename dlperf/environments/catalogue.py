"""The environments in the cache: list them, remove them, check that they are unchanged."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from dlperf.environments.environment import (
    Environment,
    check,
    environments_root,
    inspect,
    lock_of,
    read_environment,
)
from dlperf.environments.make import discard, discard_leftovers
from dlperf.environments.processes import exclusive
from dlperf.errors import EnvironmentUnavailable, InfrastructureError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One folder of the cache; `environment` is None if its Python or its manifest is missing."""

    key: str
    root: Path
    environment: Environment | None

    @property
    def size_bytes(self) -> int:
        """Bytes of its files; most are hard links into uv's cache, which removing it does not shrink."""
        return sum(path.lstat().st_size for path in self.root.rglob("*") if not path.is_dir())


def entries() -> tuple[Entry, ...]:
    """All environments in the cache, in alphabetical order, without those that are being created."""
    root = environments_root()
    folders = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    return tuple(Entry(key=path.name, root=path, environment=read_environment(path)) for path in folders)


def entries_named(name: str) -> tuple[Entry, ...]:
    """The entries that match `name`: `mxnet`, `mxnet==1.9.1`, or a key as `dlperf env list` shows it.

    The folder's name is what counts, so that broken ones are found too.
    """
    framework, _, version = name.partition("==")
    wanted = re.escape(version) if version else r"[0-9]\S*"
    pattern = re.compile(rf"{re.escape(framework)}-{wanted}(-cu[0-9]+)?-[0-9a-f]{{12}}")
    return tuple(entry for entry in entries() if entry.key == name or pattern.fullmatch(entry.key))


def remove(entry: Entry) -> None:
    """Remove an environment from the disk; InfrastructureError where another dlperf uses or creates it."""
    try:
        with exclusive(lock_of(entry.key), on_wait=None):
            discard_leftovers(entry.key)
            if entry.root.exists():
                discard(entry.root)
    except BlockingIOError:
        raise InfrastructureError(
            f"{entry.key} is in use by another dlperf; remove it when that has ended"
        ) from None


def problems(entry: Entry) -> tuple[str, ...]:
    """What is wrong with an environment, one line each; () if it works and is unchanged."""
    environment = entry.environment
    if environment is None:
        return (f"its manifest or its Python is missing; remove it: dlperf env remove {entry.key}",)
    try:
        interpreter = inspect(environment.python)
    except EnvironmentUnavailable as error:
        return (str(error),)
    return (
        *_different_packages(environment.manifest.packages, interpreter.packages),
        *_damaged_files(interpreter.site_packages),
        *_broken_framework(environment),
    )


def _different_packages(installed: dict[str, str], present: dict[str, str]) -> Iterator[str]:
    for name in sorted(installed | present):
        before, now = installed.get(name), present.get(name)
        if before == now:
            continue
        if now is None:
            yield f"package {name} {before} is missing"
        elif before is None:
            yield f"package {name} {now} was added"
        else:
            yield f"package {name} was {before} and is {now}"


def _damaged_files(site_packages: Path) -> Iterator[str]:
    """Files in a package's record that are missing or have another size."""
    for distribution in sorted(distributions(path=[str(site_packages)]), key=lambda package: package.name):
        if damaged := list(_damage(distribution)):
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            yield f"package {distribution.name}: file {damaged[0]}{more}"


def _damage(distribution: Distribution) -> Iterator[str]:
    for file in distribution.files or ():
        if file.suffix != ".pyc" and file.size is not None:
            path = Path(file.locate())
            if not path.exists():
                yield f"{file} is missing"
            elif path.stat().st_size != file.size:
                yield f"{file} has {path.stat().st_size} bytes instead of {file.size}"


def _broken_framework(environment: Environment) -> Iterator[str]:
    try:
        version = check(environment.spec, environment.python).version
    except EnvironmentUnavailable as error:
        yield str(error)
        return
    if version != environment.manifest.version:
        yield f"the framework was {environment.manifest.version} and is {version}"
