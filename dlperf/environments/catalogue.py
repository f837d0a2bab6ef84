"""What lies in the cache: list it, remove it, and check that it is still what was installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from dlperf.environments.environment import Environment, environments_root, lock_of, read_environment
from dlperf.environments.make import discard, discard_leftovers
from dlperf.environments.probe import framework_version, inspect
from dlperf.environments.processes import Busy, exclusive_now
from dlperf.errors import EnvironmentUnavailable, InfrastructureError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One folder of the cache; `environment` is None where its Python or its manifest is gone."""

    key: str
    root: Path
    environment: Environment | None

    @property
    def size_bytes(self) -> int:
        """Bytes of its files; most are hard links into uv's cache, which removing it does not shrink."""
        return sum(path.lstat().st_size for path in self.root.rglob("*") if not path.is_dir())


def entries() -> tuple[Entry, ...]:
    """Every environment of the cache, in alphabetical order; those in the making are none yet."""
    root = environments_root()
    folders = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    return tuple(Entry(key=path.name, root=path, environment=read_environment(path)) for path in folders)


def entries_named(name: str) -> tuple[Entry, ...]:
    """The entries that `name` means: `mxnet`, `mxnet==1.9.1`, or a key as `dlperf env list` shows it.

    They are told by the folder's name, so that broken ones are found too.
    """
    framework, _, version = name.partition("==")
    wanted = re.escape(version) if version else r"[0-9]\S*"
    pattern = re.compile(rf"{re.escape(framework)}-{wanted}-[0-9a-f]{{12}}")
    return tuple(entry for entry in entries() if entry.key == name or pattern.fullmatch(entry.key))


def remove(entry: Entry) -> None:
    """Remove an environment from the disk.

    Raises:
        InfrastructureError: another dlperf uses it or is making it.
    """
    try:
        with exclusive_now(lock_of(entry.key)):
            discard_leftovers(entry.key)
            if entry.root.exists():
                discard(entry.root)
    except Busy:
        raise InfrastructureError(
            f"{entry.key} is in use by another dlperf; remove it when that has ended"
        ) from None


def problems(entry: Entry) -> tuple[str, ...]:
    """What is wrong with an environment, one line each; () where it still is what was installed and works."""
    environment = entry.environment
    if environment is None:
        return (f"its manifest or its Python is gone; remove it: dlperf env remove {entry.key}",)
    try:
        found = inspect(environment.python)
    except EnvironmentUnavailable as error:
        return (str(error),)
    return (
        *_different_packages(environment.manifest.packages, found.packages),
        *_damaged_files(found.site_packages),
        *_broken_framework(environment),
    )


def _different_packages(installed: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    for name in sorted(installed | found):
        before, now = installed.get(name), found.get(name)
        if before == now:
            continue
        if now is None:
            yield f"package {name} {before} is gone"
        elif before is None:
            yield f"package {name} {now} was added"
        else:
            yield f"package {name} was {before} and is {now}"


def _damaged_files(site_packages: Path) -> Iterator[str]:
    """Files that a package's own record lists and that are gone or have another size."""
    for distribution in sorted(distributions(path=[str(site_packages)]), key=lambda found: found.name):
        damaged = list(_damage(distribution))
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            yield f"package {distribution.name}: file {damaged[0]}{more}"


def _damage(distribution: Distribution) -> Iterator[str]:
    for file in distribution.files or ():
        if file.suffix == ".pyc" or file.size is None:
            continue
        path = Path(file.locate())
        try:
            size = path.stat().st_size
        except OSError:
            yield f"{file} is gone"
            continue
        if size != file.size:
            yield f"{file} has {size} bytes, {file.size} were installed"


def _broken_framework(environment: Environment) -> Iterator[str]:
    try:
        version = framework_version(environment.spec, environment.python)
    except EnvironmentUnavailable as error:
        yield str(error)
        return
    if version != environment.manifest.version:
        yield f"the framework was {environment.manifest.version} and is {version}"
