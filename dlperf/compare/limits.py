"""The largest case of a kind that trained, found by search or among sizes: no runs to test, a fact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlperf.compare.finding import Finding
from dlperf.compare.metrics import LARGEST_BATCH, LARGEST_CLASSES, Metric, Verdict
from dlperf.results.rows import canonical
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from dlperf.compare.matching import Pair
    from dlperf.compare.side import SideCase

_FIELDS = {"num_classes": LARGEST_CLASSES, "batch_size_per_device": LARGEST_BATCH}


def limits(pairs: Sequence[Pair], *, allow: Collection[str] = ()) -> list[Finding]:
    """One finding for each pair of cases with `max`, and each family that differs in one size alone.

    Of a family one case must have run out of memory. Limits on different hardware, say, or of different
    budgets are not comparable unless `allow` names what differs.
    """
    searched = [pair for pair in pairs if pair.baseline.case.search is not None]
    others = [pair for pair in pairs if pair.baseline.case.search is None]
    found = [finding for pair in searched for finding in _found_by_search(pair, allow)]
    return found + [
        finding for field, metric in _FIELDS.items() for finding in _of(field, metric, others, allow)
    ]


def _found_by_search(pair: Pair, allow: Collection[str]) -> Iterator[Finding]:
    """The two limits; a side without one is missing, which is said already."""
    search, other = pair.baseline.case.search, pair.candidate.case.search
    both_ok = pair.baseline.status is Status.OK and pair.candidate.status is Status.OK
    if search is None or other is None or not both_ok:
        return
    before, after = (one.case.number(search.axis) for one in (pair.baseline, pair.candidate))
    step = max(search.granularity, other.granularity)
    yield _finding(
        pair,
        _FIELDS[search.axis],
        before=before,
        after=after,
        step=step,
        barred=pair.barred({*allow, "limit"}),  # the limits are what is compared
        reason=f"found by search, in steps of {step}",
    )


def _of(field: str, metric: Metric, pairs: Sequence[Pair], allow: Collection[str]) -> Iterator[Finding]:
    families: dict[str, list[Pair]] = {}
    for pair in pairs:
        families.setdefault(canonical(pair.baseline.case, leaving_out=(field,)), []).append(pair)
    for family in families.values():
        if not any(pair.baseline.out_of_memory or pair.candidate.out_of_memory for pair in family):
            continue
        before = _largest(field, [pair.baseline for pair in family])
        after = _largest(field, [pair.candidate for pair in family])
        if before is None or after is None:
            continue  # a case that is missing, which is said already
        yield _finding(
            family[0],
            metric,
            before=before,
            after=after,
            step=1,
            barred=next((barred for pair in family if (barred := pair.barred(allow))), None),
            reason=f"the largest of {len(family)} sizes that trained; a larger one ran out of memory",
        )


def _largest(field: str, cases: Sequence[SideCase]) -> int | None:
    """The largest size that trained; None where none did, or one above it failed for anything but memory."""
    most = max((getattr(one.case, field) for one in cases if one.status is Status.OK), default=None)
    if most is None or any(getattr(one.case, field) > most and not one.out_of_memory for one in cases):
        return None
    return int(most)


def _finding(
    pair: Pair, metric: Metric, *, before: int, after: int, step: int, barred: str | None, reason: str
) -> Finding:
    """The finding on two limits; fewer than `step` apart they are the same."""
    verdict = Verdict.SAME if abs(after - before) < step else metric.verdict(after - before)
    return Finding(
        baseline=pair.baseline,
        candidate=pair.candidate,
        metric=metric,
        verdict=verdict if barred is None else Verdict.NOT_COMPARABLE,
        reason=barred or reason,
        differences=pair.differences,
        figures=(float(before), float(after)),
    )
