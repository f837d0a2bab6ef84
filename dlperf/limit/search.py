"""Which value to try next, from what was tried: pure, so that a search that was cut short can go on.

A search looks for the largest of a row of values that trains, assuming that whatever is smaller trains too.
It brackets the guess, grows or shrinks geometrically from there, and bisects. What it may spend is fixed
beforehand, floor(log2(values)) + 3 probes: a step that could leave more than the rest can bisect is moved
until it cannot. So a guess may save probes, and decides nothing.

The value that is found is then confirmed by a run of full length. Where that runs out of memory the search
goes down in doubling steps, and back up by bisection, all with full-length runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_TRIES = 2  # of one value, where a probe failed for anything but memory
_BRACKET = 1.2  # the first step from a guess


class Outcome(StrEnum):
    """What became of a probe."""

    TRAINS = "trains"
    MEMORY = "memory"  # ran out of it
    FAILED = "failed"  # for anything else: says nothing about the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A probe that was made; `full` is one of full length."""

    value: int
    full: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe to make; `attempt` counts from 1, the tries of this value."""

    value: int
    full: bool
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`value` trains, confirmed at full length, and `above`, one step more, does not."""

    value: int
    above: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingTrains:
    """Not even the smallest value."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeyondUpper:
    """The largest value that may be tried trains: the limit lies somewhere above."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A probe failed, and failed again, for anything but memory."""

    value: int
    full: bool


End = Found | NothingTrains | BeyondUpper | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values of a search: from `lower` in steps of `granularity` up to `upper`, at least one.

    `guess` is where the limit may lie; any number, or None.
    """

    lower: int
    granularity: int
    upper: int
    guess: int | None = None

    def __post_init__(self) -> None:
        if not (self.granularity > 0 and 0 < self.lower <= self.upper):
            raise ValueError(f"no value from {self.lower} to {self.upper} in steps of {self.granularity}")

    @property
    def count(self) -> int:
        """How many values there are."""
        return (self.upper - self.lower) // self.granularity + 1

    def value(self, number: int) -> int:
        """The value of that number, counted from 1."""
        return self.lower + (number - 1) * self.granularity

    def number(self, value: int) -> int:
        """The number of the largest value up to this one; 0 where there is none."""
        return max(0, (value - self.lower) // self.granularity + 1)

    @property
    def most_probes(self) -> int:
        """Short probes that a search makes at most, those apart that are made again: log2(values) + 3."""
        return self.count.bit_length() - 1 + 3


def next_step(where: Range, tried: Sequence[Tried]) -> Probe | End:
    """The probe to make next, or how the search ended; depends on the arguments alone.

    Where values of `tried` contradict each other (a larger one trained, a smaller did not) the smaller limit
    is taken.
    """
    probe = _next_probe(where, [one for one in tried if one.outcome is not Outcome.FAILED])
    if not isinstance(probe, Probe):
        return probe
    failures = sum(one.value == probe.value and one.full == probe.full for one in tried)
    if failures >= MOST_TRIES:
        return Broken(value=probe.value, full=probe.full)
    return Probe(value=probe.value, full=probe.full, attempt=failures + 1)


def _next_probe(where: Range, told: Sequence[Tried]) -> Probe | End:
    any_length = _Bounds.of(where, told, full=False)
    confirmed = _Bounds.of(where, told, full=True)
    if confirmed.low in (confirmed.high - 1, where.count):
        return _end(where, confirmed)
    if confirmed.tried:
        return Probe(value=where.value(_next_full(confirmed)), full=True)
    if any_length.low in (any_length.high - 1, where.count):
        if any_length.low == 0:
            return _end(where, any_length)
        return Probe(value=where.value(any_length.low), full=True)
    return Probe(value=where.value(_next_short(where, any_length)), full=False)


def _end(where: Range, bounds: _Bounds) -> End:
    if bounds.low == 0:
        return NothingTrains(value=where.lower)
    if bounds.low == where.count:
        return BeyondUpper(value=where.value(bounds.low))
    return Found(value=where.value(bounds.low), above=where.value(bounds.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """What some probes say, in numbers of values.

    `low` trains (0: none did), `high` does not (one past the last: none failed).
    """

    low: int
    high: int
    tried: int
    failures: int

    @classmethod
    def of(cls, where: Range, told: Sequence[Tried], *, full: bool) -> _Bounds:
        """What holds for one length of runs; what is too much for a few iterations is so for many."""
        high = min(
            (where.number(one.value) for one in told if one.outcome is Outcome.MEMORY),
            default=where.count + 1,
        )
        own = [one for one in told if one.full == full]
        good = [where.number(one.value) for one in own if one.outcome is Outcome.TRAINS]
        low = max((value for value in good if value < high), default=0)
        failures = sum(one.outcome is Outcome.MEMORY for one in own)
        return cls(low=low, high=high, tried=len(own), failures=failures)


def _next_short(where: Range, bounds: _Bounds) -> int:
    """Where we would like to look, moved to where the probes that are left suffice whatever comes out."""
    low, high = bounds.low, bounds.high
    reach = 1 << max(0, where.most_probes - bounds.tried - 1)  # what the probes after this one can bisect
    least, most = max(low + 1, high - reach), min(high - 1, low + reach)
    wanted = _wanted(where, bounds)
    return min(max(wanted, least), most) if least <= most else (low + high) // 2


def _wanted(where: Range, bounds: _Bounds) -> int:
    low, high, tried = bounds.low, bounds.high, bounds.tried
    guess = 1 if where.guess is None else max(1, min(where.number(where.guess), where.count))
    if not tried:
        return guess
    doublings = min(1 << max(0, tried - 2), where.count.bit_length())
    growth = _BRACKET if where.guess is not None and tried == 1 else 2.0**doublings
    if high > where.count:
        return max(low + 1, int(low * growth))
    if low == 0:
        return min(high - 1, int(high / growth))
    # Two sides: halve the ratio while that is large, then the distance.
    return int((low * high) ** 0.5) if high > 4 * low else (low + high) // 2


def _next_full(bounds: _Bounds) -> int:
    """Down in doubling steps until a full-length run trains, then bisection."""
    if bounds.low == 0:
        return max(1, bounds.high - (1 << (bounds.failures - 1)))
    return (bounds.low + bounds.high) // 2
