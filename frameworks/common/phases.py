"""Where the time of a step goes: seconds by phase, taken in some steps behind the measured ones.

At the edges of a phase the device is waited for, so nothing overlaps while phases are taken: their sum is
longer than a measured step, which keeps its device busy all through. Off, as in every measured step, a phase
costs a call and waits for nothing.
"""

import time
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List

DATA, FORWARD_BACKWARD, COMMUNICATION, OPTIMIZER = "data", "forward_backward", "communication", "optimizer"
# Of an engine that runs a whole step as one graph, and tells nothing of its parts.
GRAPH = "graph"


class Phases:
    """Seconds by phase. A phase inside another one counts for itself alone."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        """Take what waits until the device has done all that was queued."""
        self._synchronize = synchronize
        self._open: List[str] = []
        self._edge = 0.0
        self.seconds: Dict[str, float] = {}
        self.on = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block as `name`, while `on`."""
        if not self.on:
            yield
            return
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give the time since the last edge to the innermost open phase."""
        self._synchronize()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._edge
        self._edge = now
