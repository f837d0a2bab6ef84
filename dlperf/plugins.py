"""What installed packages register under an entry-point group: shipped objects and those of others, alike."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from dlperf.errors import UserError

T = TypeVar("T")


def to_standard_error(message: str) -> None:
    """Print a line about a package that cannot be used."""
    sys.stderr.write(f"dlperf: {message}\n")


def load_plugins(
    group: str, check: Callable[[Any], T], *, kind: str, report: Callable[[str], None]
) -> dict[str, T]:
    """Every usable object by name, in alphabetical order; `check` raises for one that is not as it must be.

    One that cannot be used is reported by name, with the package that brought it, and left out: a broken
    third-party package takes nothing else down. UserError where two packages register the same name.
    """
    points: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=group):
        package = point.dist.name if point.dist is not None else "(unknown)"
        # The same installation can be listed twice (a folder that is on sys.path twice): that is no conflict.
        points.setdefault(point.name, {})[package, point.value] = point
    usable: dict[str, T] = {}
    for name, same in sorted(points.items()):
        packages = ", ".join(sorted(package for package, _value in same))
        if len(same) > 1:
            raise UserError(
                f"{kind} {name!r} is registered {len(same)} times, by packages {packages}; "
                "uninstall all but one"
            )
        try:
            (point,) = same.values()
            loaded = point.load()
            checked = check(loaded)
            if loaded.name != name:
                raise ValueError(f"it calls itself {loaded.name!r} but is registered as {name!r}")  # noqa: TRY301
            usable[name] = checked
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything at import
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            report(
                f"{kind} {name!r} of package {packages} cannot be used: {reason}; "
                "update or uninstall that package"
            )
    return usable
