"""What is compared: each metric with its unit, which direction is good, and the words for a change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

DEFAULT_MARGIN = 0.01


class Verdict(StrEnum):
    """What may be said about one metric of one case."""

    SLOWER = "slower"
    FASTER = "faster"
    WORSE = "worse"  # a metric that is no speed: more memory, a lower limit
    BETTER = "better"
    SAME = "same"  # shown, not assumed: the interval lies inside the margin
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not_comparable"
    MISSING = "missing"


REGRESSIONS = frozenset({Verdict.SLOWER, Verdict.WORSE})
IMPROVEMENTS = frozenset({Verdict.FASTER, Verdict.BETTER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a run that can get better or worse; values are above 0.

    `margin` is the smallest change that counts where the user names no other, a fraction.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    margin: float = DEFAULT_MARGIN
    speed: bool = True

    def verdict(self, log_ratio: float) -> Verdict:
        """The word for a change of log(candidate / baseline) that counts."""
        if (log_ratio > 0) == (self.better == "higher"):
            return Verdict.FASTER if self.speed else Verdict.BETTER
        return Verdict.SLOWER if self.speed else Verdict.WORSE


SAMPLES_PER_SECOND = Metric(name="samples_per_sec", title="samples/s", unit="samples/s", better="higher")
STEP_P95 = Metric(name="step_seconds_p95", title="step p95", unit="s", better="lower", margin=0.05)
PEAK_MEMORY = Metric(
    name="peak_memory_bytes", title="peak memory", unit="bytes", better="lower", margin=0.02, speed=False
)
# Found by what ran and what ran out of memory, not by runs: see dlperf.compare.limits.
LARGEST_CLASSES = Metric(
    name="max_num_classes", title="most classes", unit="classes", better="higher", margin=0.0, speed=False
)
LARGEST_BATCH = Metric(
    name="max_batch_size_per_device",
    title="largest batch",
    unit="samples a device",
    better="higher",
    margin=0.0,
    speed=False,
)

MEASURED = (SAMPLES_PER_SECOND, STEP_P95, PEAK_MEMORY)
LIMITS = (LARGEST_CLASSES, LARGEST_BATCH)
METRICS = {metric.name: metric for metric in (*MEASURED, *LIMITS)}
