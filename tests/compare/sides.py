"""Sides of comparisons, made from numbers. For tests only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from run_folders import make_case

from dlperf.compare.sets import SAMPLES_PER_SECOND, CaseSamples, ResultSet, RunValues
from dlperf.results.schema import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dlperf.compare.verdicts import CaseVerdict, Comparison

HARDWARE = "Example CPU 3000, 8 cores, 16 GiB"
FLAT = (100.0, 100.1, 99.9, 100.05, 99.95)


def scaled(factor: float, rates: Sequence[float] = FLAT) -> tuple[float, ...]:
    """The rates of a case that is `factor` times as fast."""
    return tuple(factor * rate for rate in rates)


def side_case(
    rates: Sequence[float] = FLAT,
    *,
    session: str | None = "sweep 2026-01-02",
    memory: float = 5e8,
    peak: str = "peak_anonymous_bytes",
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> CaseSamples:
    """A case of `make_case(**changes)` with one run a rate; without a rate it failed."""
    runs = tuple(
        RunValues(
            repeat=repeat,
            session=session,
            values={"samples_per_sec": rate, "step_seconds_p95": 8 / rate, peak: memory},
        )
        for repeat, rate in enumerate(rates, 1)
    )
    fields = {
        "case": make_case(**changes),
        "hardware": HARDWARE,
        "status": Status.OK if runs else Status.CRASH,
        "runs": runs,
    }
    return CaseSamples(**(fields | (more or {})))


def side(*cases: CaseSamples | Iterable[CaseSamples], label: str = "side") -> ResultSet:
    """A side of these cases."""
    flat = [one for each in cases for one in ([each] if isinstance(each, CaseSamples) else each)]
    return ResultSet(label=label, dlperf_version="0.1.0", cases=tuple(flat))


def speed(findings: Comparison) -> CaseVerdict:
    """The finding on samples/s, of a single case."""
    (row,) = [row for row in findings.rows if row.metric is SAMPLES_PER_SECOND]
    return row
