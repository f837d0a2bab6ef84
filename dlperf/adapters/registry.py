"""The adapters of this installation."""

from collections.abc import Callable
from typing import Any, cast

from dlperf.adapters.base import Adapter
from dlperf.plugins import load_plugins, to_standard_error

GROUP = "dlperf.adapters"

# What an object must have to be an adapter; `Adapter` is a Protocol, so that nobody has to inherit from it.
_MEMBERS = (
    "name",
    "title",
    "versions",
    "options",
    "source",
    "inherited_variables",
    "alignable",
    "environment",
    "unsupported",
    "rank_commands",
)


def load_adapters(*, report: Callable[[str], None] = to_standard_error) -> dict[str, Adapter]:
    """Every usable adapter by name, as `load_plugins` gives them."""
    return load_plugins(GROUP, _checked, kind="adapter", report=report)


def _checked(adapter: Any) -> Adapter:
    missing = [member for member in _MEMBERS if not hasattr(adapter, member)]
    if missing:
        raise TypeError(f"it has no {', '.join(missing)}; see dlperf.adapters.base.Adapter")
    return cast("Adapter", adapter)
