"""Values out of JSON that somebody else wrote, taken without trust: None for what is no such value."""

from __future__ import annotations

import math
from typing import Any

_MOST = 1 << 63  # what others can store; JSON's numbers have no end


def whole(value: Any) -> int | None:
    """A whole number of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not -_MOST <= value < _MOST:
        return None
    return value


def finite(value: Any) -> float | None:
    """A number that is neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
