"""How much of each measured step a rank worked itself, and how much it spent in exchanges with the others.

All ranks of synchronous training take equally long for a step: in the exchange the fast ones wait for the
slowest. Only a rank's own part of a step shows which one that is.
"""

from typing import Dict, List, Optional

# A line of a log stays short: of a longer window each value is the mean over a stretch of steps.
MOST_VALUES = 500


class RankTimes:
    """Sums over stretches of `1 + (iterations - 1) // MOST_VALUES` steps of a window."""

    def __init__(self, iterations: int) -> None:
        self._stretch = 1 + (iterations - 1) // MOST_VALUES
        self._steps = 0
        self._own: List[float] = []
        self._exchange: List[float] = []
        self.measured = True

    def add(self, seconds: float, exchange_seconds: Optional[float]) -> None:
        """One step, of which `exchange_seconds` were spent in exchanges; None: not known, for the window."""
        if exchange_seconds is None:
            self.measured = False
            return
        if self._steps % self._stretch == 0:
            self._own.append(0.0)
            self._exchange.append(0.0)
        # An engine may overlap the two by the resolution of its clock.
        self._own[-1] += max(0.0, seconds - exchange_seconds)
        self._exchange[-1] += exchange_seconds
        self._steps += 1

    def value(self) -> "Dict[str, List[float]]":
        """The value of the event `rank_steps`: seconds per step, of each stretch."""
        counts = [min(self._stretch, self._steps - first) for first in range(0, self._steps, self._stretch)]
        return {
            name: [round(total / count, 6) for total, count in zip(totals, counts)]
            for name, totals in (("compute_seconds", self._own), ("exchange_seconds", self._exchange))
        }
