"""The largest case of a kind that trained, where a larger one ran out of memory: no runs to test, a fact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.compare.finding import Finding
from dlperf.compare.metrics import LARGEST_BATCH, LARGEST_CLASSES, Metric, Verdict
from dlperf.results.rows import canonical
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlperf.compare.matching import Pair

_FIELDS = {"num_classes": LARGEST_CLASSES, "batch_size_per_device": LARGEST_BATCH}


def limits(pairs: Sequence[Pair]) -> list[Finding]:
    """One finding for each family of pairs that differ in one size alone, where one ran out of memory."""
    return [finding for field, metric in _FIELDS.items() for finding in _of(field, metric, pairs)]


def _of(field: str, metric: Metric, pairs: Sequence[Pair]) -> Iterator[Finding]:
    families: dict[str, list[Pair]] = {}
    for pair in pairs:
        families.setdefault(canonical(pair.baseline.case, leaving_out=(field,)), []).append(pair)
    for family in families.values():
        if not any(pair.baseline.out_of_memory or pair.candidate.out_of_memory for pair in family):
            continue
        before = [getattr(pair.baseline.case, field) for pair in family if pair.baseline.status is Status.OK]
        after = [getattr(pair.candidate.case, field) for pair in family if pair.candidate.status is Status.OK]
        if not before or not after:
            continue  # a case that is missing, which is said already
        most = max(before), max(after)
        change = most[1] - most[0]
        yield Finding(
            baseline=family[0].baseline,
            candidate=family[0].candidate,
            metric=metric,
            verdict=metric.verdict(change) if change else Verdict.SAME,
            reason=f"the largest of {len(family)} sizes that trained; a larger one ran out of memory",
            differences=family[0].differences,
            figures=(float(most[0]), float(most[1])),
        )
