"""The same thing for several nodes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

# sshd refuses connections at random when more than ten are being made, and a node has little to do for us.
MOST_AT_ONCE = 8


def each(items: Sequence[Item], function: Callable[[Item], Result]) -> list[Result]:
    """`function` of every item, in their order; the first item's error when all are done, if there is one."""
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]
