"""The dialects of this installation: the shipped ones and those that other packages register, all alike."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from dlperf.errors import UserError
from dlperf.importing.dialects.base import GROUPS, Dialect

GROUP = "dlperf.dialects"


def _to_standard_error(message: str) -> None:
    sys.stderr.write(f"dlperf: {message}\n")


def load_dialects(*, report: Callable[[str], None] = _to_standard_error) -> dict[str, Dialect]:
    """Every usable dialect by name, in alphabetical order.

    One that cannot be used is reported and left out: a broken third-party package takes nothing else down.

    Raises:
        UserError: two packages register the same name.
    """
    # The same installation can be listed twice (a folder that is on sys.path twice): that is not a conflict.
    points = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    for name, count in Counter(name for name, _value in points).items():
        if count > 1:
            raise UserError(f"dialect {name!r} is registered {count} times; uninstall all packages but one")
    found: dict[str, Dialect] = {}
    for (name, value), point in sorted(points.items()):
        try:
            found[name] = _load(point)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything at import
            report(f"dialect {name!r} ({value}) cannot be used: {error}; update or uninstall its package")
    return found


def _load(point: EntryPoint) -> Dialect:
    dialect = point.load()
    if not isinstance(dialect, Dialect):
        raise TypeError("it is not a dlperf.importing.dialects.base.Dialect")
    groups = {group.rstrip("_") for pattern in dialect.patterns for group in pattern.groupindex}
    if unknown := sorted(groups - GROUPS):
        raise ValueError(f"unknown groups {', '.join(unknown)}; known: {', '.join(sorted(GROUPS))}")
    if "samples_per_sec" not in groups:
        raise ValueError("no pattern has a group samples_per_sec")
    if dialect.name != point.name:
        raise ValueError(f"it calls itself {dialect.name!r}")
    return dialect


def choose_dialects(name: str) -> list[Dialect]:
    """What `--dialect NAME` means: one of them, or all for `auto`; UserError where there is no such."""
    dialects = load_dialects()
    if name == "auto":
        return list(dialects.values())
    if name not in dialects:
        raise UserError(f"no dialect {name!r}; known: auto, {', '.join(dialects)}")
    return [dialects[name]]
