"""Where the time of a step goes: seconds by phase, timed in a few steps after the measured ones.

The device is drained at the edges of a phase, so nothing overlaps while phases are timed: their sum is longer
than a measured step, which keeps its device busy throughout. When off, as in every measured step, a phase
costs one call and waits for nothing.
"""

import time
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List

DATA, FORWARD_BACKWARD, COMMUNICATION, OPTIMIZER = "data", "forward_backward", "communication", "optimizer"
# How many steps: enough to average out an outlier.
PROFILED_ITERATIONS = 3
# For an engine that runs a whole step as one graph and does not show its parts.
GRAPH = "graph"


class Phases:
    """Seconds by phase. A phase inside another one is not counted in the outer one."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        """Take a function that waits until the device has done everything queued."""
        self._synchronize = synchronize
        self._open: List[str] = []
        self._edge = 0.0
        self.seconds: Dict[str, float] = {}
        self.on = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """While `on`, count the block as `name`."""
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
        """Add the time since the last edge to the innermost open phase."""
        self._synchronize()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._edge
        self._edge = now
