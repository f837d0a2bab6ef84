"""Regressions that are known and accepted for a time: a YAML file, each with its reason and its last day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from dlperf.compare.metrics import METRICS
from dlperf.errors import SourceErrors, UserError
from dlperf.model import Model
from dlperf.plan.plan import PlannedCase, PlanStatus
from dlperf.plan.selection import parse_expression
from dlperf.plan.validation import unknown, validate
from dlperf.plan.yaml_reader import read_document

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.compare.finding import Finding


def _expression(text: str) -> str:
    try:
        parse_expression(text)
    except UserError as error:
        raise ValueError(str(error)) from None
    return text


def _day(value: object) -> object:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is no day; write it as 2026-12-31") from None


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(unknown("metric", name, METRICS))
    return name


class ExpectedFailure(Model):
    """One entry: cases (as `-k` selects them) of which a regression is no alarm until a day."""

    case: Annotated[str, AfterValidator(_expression)]
    metric: Annotated[str, AfterValidator(_metric)] | None = None  # None: all
    reason: Annotated[str, Field(min_length=1)]
    until: Annotated[date, BeforeValidator(_day)]

    def is_over(self, today: date | None) -> bool:
        """Whether its last day has passed."""
        return (today or datetime.now(UTC).date()) > self.until

    @property
    def over(self) -> str:
        """What a reader is told once its last day has passed."""
        return f"expected failure is over since {self.until}: {self.case} ({self.reason}); it counts again"

    def covers(self, finding: Finding, *, today: date | None) -> bool:
        """Whether it excuses the finding."""
        if self.is_over(today) or self.metric not in {None, finding.metric.name}:
            return False
        matches = parse_expression(self.case)
        sides = (finding.candidate, finding.baseline)
        return any(
            matches(PlannedCase(case=side.case, status=PlanStatus.RUNNABLE))
            for side in sides
            if side is not None
        )


class ExpectedFile(Model):
    """The whole file."""

    expected: tuple[ExpectedFailure, ...]


def read_expected(path: Path) -> tuple[ExpectedFailure, ...]:
    """The entries of a file of expected failures.

    Raises:
        UserError: there is no such file.
        SourceErrors: whatever is wrong in it, each with its line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of expected failures")
    document = read_document(path, shown=str(path))
    file, problems = validate(ExpectedFile, document)
    problems = [*document.problems, *problems]
    if file is None or problems:
        raise SourceErrors(problems)
    return file.expected
