"""The adapters of this installation: the shipped ones and those that other packages register, all alike."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from dlperf.adapters.base import Adapter
from dlperf.errors import UserError

GROUP = "dlperf.adapters"

# What an object must have to be an adapter; `Adapter` is a Protocol, so that nobody has to inherit from it.
_MEMBERS = ("name", "title", "versions", "options", "environment", "unsupported", "rank_commands")


def _to_standard_error(message: str) -> None:
    sys.stderr.write(f"dlperf: {message}\n")


def load_adapters(*, report: Callable[[str], None] = _to_standard_error) -> dict[str, Adapter]:
    """Every usable adapter by name, in alphabetical order.

    An adapter that cannot be loaded is reported by name, with the package that brought it, and left out: a
    broken third-party package takes nothing else down.

    Raises:
        UserError: two packages register the same name.
    """
    return adapters_from(entry_points(group=GROUP), report=report)


def adapters_from(points: Iterable[EntryPoint], *, report: Callable[[str], None]) -> dict[str, Adapter]:
    """The usable adapters among `points`; see `load_adapters`."""
    # The same installation can be listed twice (a folder that is on sys.path twice): that is no conflict.
    unique = {(point.name, point.value, _package(point)): point for point in points}.values()
    _refuse_duplicates(unique)
    adapters = {}
    for point in sorted(unique, key=lambda point: point.name):
        try:
            adapters[point.name] = _load(point)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything at import
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            report(
                f"adapter {point.name!r} of package {_package(point)} cannot be used: {reason}; "
                "update or uninstall that package"
            )
    return adapters


def _load(point: EntryPoint) -> Adapter:
    adapter = point.load()
    missing = [member for member in _MEMBERS if not hasattr(adapter, member)]
    if missing:
        raise TypeError(f"{point.value} has no {', '.join(missing)}; see dlperf.adapters.base.Adapter")
    if adapter.name != point.name:
        raise ValueError(f"it calls itself {adapter.name!r} but is registered as {point.name!r}")
    return cast("Adapter", adapter)


def _refuse_duplicates(points: Collection[EntryPoint]) -> None:
    counts = Counter(point.name for point in points)
    for name, count in counts.items():
        if count > 1:
            packages = sorted(_package(point) for point in points if point.name == name)
            raise UserError(
                f"adapter {name!r} is registered {count} times, by packages {', '.join(packages)}; "
                "uninstall all but one"
            )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"
