"""What the user decides about a comparison: metrics, margins, known noise, what may differ or be worse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dlperf.compare.judging import Rule
from dlperf.compare.metrics import MEASURED, SAMPLES_PER_SECOND, Metric

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import date

    from dlperf.compare.expected import ExpectedFailure
    from dlperf.compare.judging import Priors
    from dlperf.compare.matching import Pair
    from dlperf.results.qualification import Floor, Qualification


class NoiseFloor(Protocol):
    """How large a difference of equal sides may be; None where nobody knows."""

    def __call__(self, pair: Pair, metric: Metric, /, *, in_turns: bool) -> Floor | None:
        """Of the pair's case; `in_turns`: the sides were run in common blocks."""


def no_floor(_pair: Pair, _metric: Metric, *, in_turns: bool) -> Floor | None:  # noqa: ARG001 - see NoiseFloor
    """For machines that nobody qualified."""
    return None


def qualified_floor(qualification: Qualification) -> NoiseFloor:
    """The noise floors that were measured."""

    def floor(pair: Pair, metric: Metric, *, in_turns: bool) -> Floor | None:
        cases = [(one.case, one.hardware) for one in (pair.baseline, pair.candidate)]
        return qualification.floor(cases, metric.name, in_turns=in_turns)

    return floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user decides about a comparison.

    `margins` by metric name lie over the metrics' own; `noise_floor` gives a case's A/A noise, which a change
    must exceed too; `allow` names guards whose difference is let pass; `priors` of an earlier round serve by
    metric name where this one has too few cases.
    """

    metrics: tuple[Metric, ...] = MEASURED
    margins: Mapping[str, float] = field(default_factory=dict)
    noise_floor: NoiseFloor = no_floor
    allow: Collection[str] = ()
    compared: Collection[str] = ()
    rule: Rule = field(default_factory=Rule)
    priors: Mapping[str, Priors] = field(default_factory=dict)
    expected: Sequence[ExpectedFailure] = ()
    notes: tuple[str, ...] = ()  # of the caller
    today: date | None = None

    @property
    def lead(self) -> Metric:
        """The metric that every case has a finding on: samples/s where it is compared."""
        return SAMPLES_PER_SECOND if SAMPLES_PER_SECOND in self.metrics else self.metrics[0]
