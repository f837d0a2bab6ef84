"""The wheels and indexes that a sweep names: read, checked, and put into the versions of its frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.plan.checks import framework_entries
from dlperf.plan.origin import Origin, read_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dlperf.adapters.base import Adapter
    from dlperf.plan.document import KeyPath
    from dlperf.plan.sweep_file import FrameworkEntry, SweepFile


def with_origins(
    file: SweepFile, *, folder: Path, adapters: Mapping[str, Adapter]
) -> tuple[SweepFile, dict[str, Origin], list[tuple[KeyPath, str]]]:
    """The sweep with each version from elsewhere under its label; the origins by `name==label`; problems.

    Args:
        file: as written.
        folder: that paths of wheels are relative to.
        adapters: by name.
    """
    origins: dict[str, Origin] = {}
    problems: list[tuple[KeyPath, str]] = []
    entries: dict[KeyPath, FrameworkEntry] = {}
    for path, entry in framework_entries(file):
        try:
            origin = origin_of(entry, folder=folder, adapter=adapters[entry.name])
        except ValueError as error:
            problems.append(((*path, "wheel"), str(error)))
            origin = None
        if origin is not None:
            entries[path] = entry.model_copy(update={"version": origin.label})
            origins[str(entries[path])] = origin
    return (_with_entries(file, entries) if entries else file), origins, problems


def origin_of(entry: FrameworkEntry, *, folder: Path, adapter: Adapter) -> Origin | None:
    """Where a framework's version comes from; None where the adapter says it. `folder`: of relative paths.

    Raises:
        ValueError: the wheel is not there, or not one that the adapter can use.
    """
    if entry.wheel is not None:
        return read_wheel(entry.wheel, folder=folder, adapter=adapter)
    return None if entry.index is None else Origin(version=str(entry.version), index=entry.index)


def _with_entries(file: SweepFile, entries: Mapping[KeyPath, FrameworkEntry]) -> SweepFile:
    def replaced(path: KeyPath, listed: tuple[FrameworkEntry, ...]) -> tuple[FrameworkEntry, ...]:
        return tuple(entries.get((*path, index), entry) for index, entry in enumerate(listed))

    includes = tuple(
        one
        if one.frameworks is None
        else one.model_copy(
            update={"frameworks": replaced(("include", number, "frameworks"), one.frameworks)}
        )
        for number, one in enumerate(file.include)
    )
    frameworks = replaced(("frameworks",), file.frameworks)
    return file.model_copy(update={"frameworks": frameworks, "include": includes})
