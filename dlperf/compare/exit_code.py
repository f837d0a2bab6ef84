"""Findings -> the exit code of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dlperf.compare.metrics import Verdict

if TYPE_CHECKING:
    from dlperf.compare.finding import Findings

OK: Final = 0
REGRESSION: Final = 1
MISSING: Final = 3
UNDECIDED: Final = 4


def exit_code(findings: Findings, *, strict: bool) -> int:
    """The code that CI sees.

    1 a regression; 3 cases missing or not comparable, or none in common; 4 (strict alone) some could not be
    told; else 0.
    """
    if findings.regressions:
        return REGRESSION
    lacking = {Verdict.MISSING, Verdict.NOT_COMPARABLE}
    if not findings.rows or any(row.verdict in lacking and row.expected is None for row in findings.rows):
        return MISSING
    if strict and findings.count(Verdict.INCONCLUSIVE):
        return UNDECIDED
    return OK
