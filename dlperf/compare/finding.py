"""What a comparison found: a verdict for each metric of each case, and what a reader must know beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.compare.metrics import IMPROVEMENTS, REGRESSIONS, SAMPLES_PER_SECOND

if TYPE_CHECKING:
    from dlperf.compare.expected import ExpectedFailure
    from dlperf.compare.judging import Judged
    from dlperf.compare.matching import Difference
    from dlperf.compare.metrics import Metric, Verdict
    from dlperf.compare.side import SideCase
    from dlperf.results.qualification import Floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one metric of one case. `judged` is None where no test was made; `reason` says why."""

    baseline: SideCase
    candidate: SideCase | None
    metric: Metric
    verdict: Verdict
    reason: str | None = None
    judged: Judged | None = None
    differences: tuple[Difference, ...] = ()
    figures: tuple[float | None, float | None] = (None, None)
    expected: ExpectedFailure | None = None
    noise_floor: Floor | None = None  # of the case, where it was qualified

    @property
    def is_regression(self) -> bool:
        """A change for the worse that nobody announced."""
        return self.verdict in REGRESSIONS and self.expected is None

    @property
    def ratio(self) -> float | None:
        """Candidate over baseline: of the geometric means where tested, else of the figures."""
        if self.judged is not None:
            return self.judged.ratio
        before, after = self.figures
        return after / before if before and after else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All findings of a comparison, in the order of the baseline's cases; `notes` hold for all of them.

    `metric` is the one that cases are counted by: every case has one finding on it.
    """

    baseline: str
    candidate: str
    rows: tuple[Finding, ...]
    metric: Metric = SAMPLES_PER_SECOND
    new: tuple[SideCase, ...] = ()  # of the candidate alone
    notes: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[Finding, ...]:
        """The findings on the metric that cases are counted by."""
        return tuple(row for row in self.rows if row.metric is self.metric)

    def count(self, *verdicts: Verdict) -> int:
        """How many findings have one of the verdicts."""
        counts = Counter(row.verdict for row in self.rows)
        return sum(counts[verdict] for verdict in verdicts)

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """Changes for the worse that nobody announced."""
        return tuple(row for row in self.rows if row.is_regression)

    @property
    def improvements(self) -> tuple[Finding, ...]:
        """Changes for the better."""
        return tuple(row for row in self.rows if row.verdict in IMPROVEMENTS)
