"""Which value to try next, given the probes so far. Pure, so that an interrupted search can continue.

A search looks for the largest value that trains, assuming that every smaller value trains too. It brackets
the guess, grows or shrinks geometrically from there, and bisects. It makes at most floor(log2(values)) + 3
short probes: a step that could leave more values than the remaining probes can bisect is moved until it
cannot. A good guess saves probes; a bad one changes no result.

The value found is then confirmed by a full-length run. If that runs out of memory, the search goes down in
doubling steps and back up by bisection, with full-length runs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlperf.results.schema import LimitStatus, ProbeRecord, Status

MAX_ATTEMPTS = 2  # per value, when a probe fails for a reason other than memory
_FIRST_GROWTH = 1.2  # the first step away from a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe to run, short or at full length; `attempt` counts the attempts at this value from 1."""

    value: int
    full: bool
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """How a search ended.

    `value` is the largest that trains (FOUND, BEYOND_UPPER), the smallest allowed (NOTHING_TRAINS), or that
    of the probe that kept failing (BROKEN). `fails` is the next value, which does not train (FOUND only).
    """

    status: LimitStatus
    value: int
    fails: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values of a search: from `lower` in steps of `granularity` up to `upper`, at least one value.

    `guess` is where the limit may be: any number, or None.
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
        """The number of values."""
        return (self.upper - self.lower) // self.granularity + 1

    def value(self, number: int) -> int:
        """The value with this number; numbers count from 1."""
        return self.lower + (number - 1) * self.granularity

    def number(self, value: int) -> int:
        """The number of the largest value not above `value`; 0 if there is none."""
        return max(0, (value - self.lower) // self.granularity + 1)

    @property
    def most_probes(self) -> int:
        """The most short probes of a search, repeated attempts aside: floor(log2(values)) + 3."""
        return self.count.bit_length() - 1 + 3


def next_step(values: Range, completed: Sequence[ProbeRecord]) -> Probe | SearchResult:
    """The next probe, or the result of the search; depends on the arguments only.

    If probes contradict each other (a larger value trained, a smaller one did not), the smaller limit holds.
    """
    # One that failed for another reason than memory says nothing about the limit.
    telling = [probe for probe in completed if probe.status in {Status.OK, Status.OOM}]
    step = _next_probe(values, telling)
    if isinstance(step, SearchResult):
        return step
    failures = sum(probe.value == step.value and probe.full == step.full for probe in completed)
    if failures >= MAX_ATTEMPTS:
        return SearchResult(status=LimitStatus.BROKEN, value=step.value)
    return Probe(value=step.value, full=step.full, attempt=failures + 1)


def _next_probe(values: Range, completed: Sequence[ProbeRecord]) -> Probe | SearchResult:
    short = _Bounds.of(values, completed, full=False)
    full = _Bounds.of(values, completed, full=True)
    if full.low in (full.high - 1, values.count):
        return _result(values, full)
    if full.probes:
        return Probe(value=values.value(_next_full(full)), full=True)
    if short.low in (short.high - 1, values.count):
        if short.low == 0:
            return _result(values, short)
        return Probe(value=values.value(short.low), full=True)
    return Probe(value=values.value(_next_short(values, short)), full=False)


def _result(values: Range, bounds: _Bounds) -> SearchResult:
    if bounds.low == 0:
        return SearchResult(status=LimitStatus.NOTHING_TRAINS, value=values.lower)
    if bounds.low == values.count:
        return SearchResult(status=LimitStatus.BEYOND_UPPER, value=values.value(bounds.low))
    low, high = values.value(bounds.low), values.value(bounds.high)
    return SearchResult(status=LimitStatus.FOUND, value=low, fails=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """What the probes of one length show, as numbers of values.

    `low` trains (0: no value did), `high` does not (one past the last: none failed).
    """

    low: int
    high: int
    probes: int
    out_of_memory: int

    @classmethod
    def of(cls, values: Range, completed: Sequence[ProbeRecord], *, full: bool) -> _Bounds:
        """The bounds; a value that runs out of memory in a short run does so in a full-length one too."""
        high = min(
            (values.number(probe.value) for probe in completed if probe.status is Status.OOM),
            default=values.count + 1,
        )
        own = [probe for probe in completed if probe.full == full]
        trained = [values.number(probe.value) for probe in own if probe.status is Status.OK]
        return cls(
            low=max((number for number in trained if number < high), default=0),
            high=high,
            probes=len(own),
            out_of_memory=sum(probe.status is Status.OOM for probe in own),
        )


def _next_short(values: Range, bounds: _Bounds) -> int:
    """The preferred number, moved so that the remaining probes suffice whatever the outcome."""
    low, high = bounds.low, bounds.high
    reach = 1 << max(0, values.most_probes - bounds.probes - 1)  # what the probes after this one can bisect
    least, most = max(low + 1, high - reach), min(high - 1, low + reach)
    return min(max(_preferred(values, bounds), least), most) if least <= most else (low + high) // 2


def _preferred(values: Range, bounds: _Bounds) -> int:
    low, high, probes = bounds.low, bounds.high, bounds.probes
    guess = 1 if values.guess is None else max(1, min(values.number(values.guess), values.count))
    if not probes:
        return guess
    doublings = min(1 << max(0, probes - 2), values.count.bit_length())
    growth = _FIRST_GROWTH if values.guess is not None and probes == 1 else 2.0**doublings
    if high > values.count:
        return max(low + 1, int(low * growth))
    if low == 0:
        return min(high - 1, int(high / growth))
    # Bracketed: halve the ratio while that is large, then the distance.
    return int((low * high) ** 0.5) if high > 4 * low else (low + high) // 2


def _next_full(bounds: _Bounds) -> int:
    """Down in doubling steps until a full-length run trains, then bisection."""
    if bounds.low == 0:
        return max(1, bounds.high - (1 << (bounds.out_of_memory - 1)))
    return (bounds.low + bounds.high) // 2
