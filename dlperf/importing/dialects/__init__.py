"""The dialects of this installation."""

from collections.abc import Callable
from typing import Any

from dlperf.errors import UserError
from dlperf.importing.dialects.base import GROUPS, Dialect
from dlperf.plugins import load_plugins, to_standard_error

GROUP = "dlperf.dialects"


def load_dialects(*, report: Callable[[str], None] = to_standard_error) -> dict[str, Dialect]:
    """Every usable dialect by name, as `load_plugins` gives them."""
    return load_plugins(GROUP, _checked, kind="dialect", report=report)


def _checked(dialect: Any) -> Dialect:
    if not isinstance(dialect, Dialect):
        raise TypeError("it is not a dlperf.importing.dialects.base.Dialect")
    groups = {group.rstrip("_") for pattern in dialect.patterns for group in pattern.groupindex}
    if unknown := sorted(groups - GROUPS):
        raise ValueError(f"unknown groups {', '.join(unknown)}; known: {', '.join(sorted(GROUPS))}")
    if "samples_per_sec" not in groups:
        raise ValueError("no pattern has a group samples_per_sec")
    return dialect


def choose_dialects(name: str) -> list[Dialect]:
    """What `--dialect NAME` means: one of them, or all for `auto`; UserError where there is no such."""
    dialects = load_dialects()
    if name == "auto":
        return list(dialects.values())
    if name not in dialects:
        raise UserError(f"no dialect {name!r}; known: auto, {', '.join(dialects)}")
    return [dialects[name]]
