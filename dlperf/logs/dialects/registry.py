"""The dialects of this installation: the shipped ones and those that other packages register, all alike."""

from __future__ import annotations

from importlib.metadata import entry_points

from dlperf.errors import UserError
from dlperf.logs.dialects.base import GROUPS, Dialect

GROUP = "dlperf.dialects"


def load_dialects() -> dict[str, Dialect]:
    """Every dialect by name, in alphabetical order.

    Raises:
        UserError: a registered one cannot be used, or two packages register the same name.
    """
    found: dict[str, Dialect] = {}
    points = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    for name, value in sorted(points):
        try:
            dialect = points[name, value].load()
        except Exception as error:  # foreign code may raise anything at import
            raise UserError(f"dialect {name!r} ({value}) cannot be loaded: {error}") from error
        _check(name, value, dialect)
        if name in found:
            raise UserError(f"dialect {name!r} is registered twice; uninstall one of the packages")
        found[name] = dialect
    return found


def _check(name: str, value: str, dialect: object) -> None:
    if not isinstance(dialect, Dialect):
        raise UserError(f"dialect {name!r}: {value} is no dlperf.logs.dialects.base.Dialect")
    groups = {group.rstrip("_") for pattern in dialect.patterns for group in pattern.groupindex}
    if unknown := sorted(groups - GROUPS):
        raise UserError(
            f"dialect {name!r}: unknown groups {', '.join(unknown)}; known: {', '.join(sorted(GROUPS))}"
        )
    if "samples_per_sec" not in groups:
        raise UserError(f"dialect {name!r}: no pattern has a group samples_per_sec")


def choose_dialects(name: str) -> list[Dialect]:
    """What `--dialect NAME` means: one of them, or all for `auto`.

    Raises:
        UserError: there is none of that name.
    """
    dialects = load_dialects()
    if name == "auto":
        return list(dialects.values())
    if name not in dialects:
        raise UserError(f"no dialect {name!r}; known: auto, {', '.join(dialects)}")
    return [dialects[name]]
