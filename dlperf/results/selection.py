"""Quantiles of more numbers than fit into memory, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGIT_BITS = 16
_SHIFTS = (48, 32, 16, 0)


def quantiles(chunks: Callable[[], Iterator[NDArray[np.float64]]], shares: Sequence[float]) -> list[float]:
    """The quantiles of positive numbers, to the last bit those of `statistics.quantile`.

    The bits of a positive double, read as a whole number, have the order of the doubles: four passes, each of
    which counts 16 bits more, find any place in that order.

    Args:
        chunks: gives all the numbers, some at a time, each time that it is called.
        shares: between 0 and 1.

    Raises:
        ValueError: there is no number.
    """
    count = sum(len(chunk) for chunk in chunks())
    if not count:
        raise ValueError("no numbers")
    positions = [share * (count - 1) for share in shares]
    below = [math.floor(position) for position in positions]
    places = sorted({*below, *(min(place + 1, count - 1) for place in below)})
    found = dict(zip(places, _at(chunks, places), strict=True))
    made = []
    for position, place in zip(positions, below, strict=True):
        low, high = found[place], found[min(place + 1, count - 1)]
        made.append(min(max(low + (high - low) * (position - place), low), high))
    return made


def _at(chunks: Callable[[], Iterator[NDArray[np.float64]]], places: Sequence[int]) -> list[float]:
    """The numbers at these places of their order, from 0."""
    prefixes = [0] * len(places)
    left = list(places)  # the place among the numbers that share the prefix
    for shift in _SHIFTS:
        counts = {prefix: np.zeros(1 << _DIGIT_BITS, np.int64) for prefix in prefixes}
        for chunk in chunks():
            keys = np.ascontiguousarray(chunk, np.float64).view(np.uint64)
            digits = (keys >> np.uint64(shift)) & np.uint64((1 << _DIGIT_BITS) - 1)
            heads = keys >> np.uint64(shift) >> np.uint64(_DIGIT_BITS)
            for prefix in counts:
                among = digits[heads == prefix].astype(np.int64)
                counts[prefix] += np.bincount(among, minlength=1 << _DIGIT_BITS)
        for number, prefix in enumerate(prefixes):
            ends = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(ends, left[number], side="right"))
            left[number] -= int(ends[digit - 1]) if digit else 0
            prefixes[number] = prefix << _DIGIT_BITS | digit
    return [float(number) for number in np.array(prefixes, np.uint64).view(np.float64)]
