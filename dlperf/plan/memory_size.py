"""Sizes of memory as people write them: `2GiB`, `512MiB`."""

from __future__ import annotations

import re
from typing import Any

_SIZE = re.compile(r"(?P<number>[1-9][0-9]*)\s*(?P<unit>[KMGT]iB)")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def bytes_of(value: Any) -> Any:
    """Bytes where the value is a size such as `2GiB`; any other value as it is.

    Raises:
        ValueError: a text of another form.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no size; write a whole number with KiB, MiB, GiB or TiB as in '2GiB'")
    return int(match["number"]) * _UNITS[match["unit"]]


def bytes_text(size: int) -> str:
    """`2GiB`: exact, in the largest unit that divides it."""
    for name, unit in reversed(_UNITS.items()):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"
