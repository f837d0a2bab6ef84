"""What a reader asked for: which columns, against whom, in which tables, at what price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlperf.errors import UserError
from dlperf.report.columns import COLUMNS
from dlperf.report.comparison import ROW_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dlperf.report.comparison import Arm, Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How results are looked at; nothing of it changes a figure.

    Args:
        columns: names of `COLUMNS` for the main table; none takes samples/s, speedup and ratio.
        baseline: the framework that ratios are taken to, `name` or `name==version`; None takes the first.
        group_by: fields of `ROW_FIELDS`; each of their values gets tables of its own.
        price_per_device_hour: of one device, in any currency.
    """

    columns: tuple[str, ...] = ()
    baseline: str | None = None
    group_by: tuple[str, ...] = ()
    price_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        _known(self.columns, COLUMNS, what="column")
        _known(self.group_by, ROW_FIELDS, what="field to group by")
        if "cost" in self.columns and self.price_per_device_hour is None:
            raise UserError("the column cost needs --price-per-device-hour")
        price = self.price_per_device_hour
        if price is not None and not (math.isfinite(price) and price > 0):
            raise UserError(f"--price-per-device-hour {price:g}: a price is a finite number above 0")

    def columns_of(self, comparison: Comparison) -> tuple[str, ...]:
        """The names of the main table's columns."""
        if self.columns:
            return self.columns
        speedup = ("speedup",) if comparison.scales else ()
        cost = ("cost",) if self.price_per_device_hour is not None else ()
        return ("samples_per_sec", *speedup, *cost, "ratio")

    def base_of(self, comparison: Comparison) -> Arm:
        """The arm under every ratio: the baseline, or the first where the table does not hold it."""
        arms = comparison.arms
        return next((arm for arm in arms if self.is_baseline(arm)), arms[0])

    def is_baseline(self, arm: Arm) -> bool:
        """Whether the baseline's name means the arm."""
        return self.baseline in {arm.framework, f"{arm.framework}=={arm.version}"}


def check_baseline(view: View, arms: Iterable[Arm]) -> None:
    """Raise UserError where no arm of the report is the baseline."""
    known = sorted({f"{arm.framework}=={arm.version}" for arm in arms})
    if view.baseline is not None and known and not any(view.is_baseline(arm) for arm in arms):
        raise UserError(f"no results of the baseline {view.baseline!r}; there are {', '.join(known)}")


def _known(names: Sequence[str], known: Iterable[str], *, what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"no {what} is named {unknown[0]!r}; known: {', '.join(known)}")
