"""The largest case of a kind that trained, found by search or among sizes: no runs to test, a fact."""

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
    """One finding for each pair of cases with `max`, and each family that differs in one size alone.

    Of a family one case must have run out of memory.
    """
    searched = [pair for pair in pairs if pair.baseline.case.search is not None]
    others = [pair for pair in pairs if pair.baseline.case.search is None]
    found = [finding for pair in searched for finding in _found_by_search(pair)]
    return found + [finding for field, metric in _FIELDS.items() for finding in _of(field, metric, others)]


def _found_by_search(pair: Pair) -> Iterator[Finding]:
    """The two limits; a side without one is missing, which is said already."""
    search, other = pair.baseline.case.search, pair.candidate.case.search
    both_ok = pair.baseline.status is Status.OK and pair.candidate.status is Status.OK
    if search is None or other is None or not both_ok:
        return
    before, after = (one.case.number(search.axis) for one in (pair.baseline, pair.candidate))
    metric, step = _FIELDS[search.axis], max(search.granularity, other.granularity)
    told = abs(after - before) >= step
    yield Finding(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=metric.verdict(after - before) if told else Verdict.SAME,
        reason=f"found by search, in steps of {step}",
        differences=pair.differences,
        figures=(float(before), float(after)),
    )


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
