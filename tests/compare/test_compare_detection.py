"""The error rates that the rules promise, on simulated sweeps: few, seeded, and so the same every time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sides import side, side_case

from dlperf.compare.gate import confirm, suspects
from dlperf.compare.sets import SAMPLES_PER_SECOND, Verdict
from dlperf.compare.verdicts import Settings, compare

if TYPE_CHECKING:
    from dlperf.compare.sets import ResultSet
    from dlperf.compare.verdicts import Comparison

CASES, RUNS = 20, 5
ONE_METRIC = Settings(metrics=(SAMPLES_PER_SECOND,))


class Lab:
    """Sweeps of two versions with a noise of its own for each case, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.stream = np.random.default_rng(seed)
        self.noise = np.exp(self.stream.normal(math.log(0.004), 0.8, CASES))

    def sweep(self, *, change: float = 0.0, session: str = "first") -> tuple[ResultSet, ResultSet]:
        """Both sides; case 0 of the candidate is changed."""
        return tuple(  # type: ignore[return-value]
            side(
                side_case(
                    100 * np.exp(self.stream.normal(effect if case == 0 else 0.0, noise, RUNS)),
                    num_classes=case + 2,
                    version=version,
                    session=session,
                )
                for case, noise in enumerate(self.noise)
            )
            for version, effect in (("1.9.0", 0.0), ("1.9.1", math.log1p(change)))
        )

    def compared(self, *, change: float = 0.0) -> tuple[Comparison, Comparison]:
        """The first findings and the confirmed ones."""
        first = compare(*self.sweep(change=change), settings=ONE_METRIC)
        fresh = self.sweep(change=change, session="again")
        return first, confirm(first, fresh=fresh, settings=ONE_METRIC)


@pytest.mark.slow
def test_equal_versions_raise_few_alarms_and_none_survives_a_second_look() -> None:
    made = [Lab(seed).compared() for seed in range(60)]
    assert sum(bool(first.regressions) for first, _ in made) <= 6
    assert sum(bool(confirmed.regressions) for _, confirmed in made) <= 3
    assert sum(bool(suspects(first)) for first, _ in made) > 6  # there was something to look at


@pytest.mark.slow
def test_a_case_that_is_3_percent_slower_is_nearly_always_found() -> None:
    made = [Lab(seed).compared(change=-0.03)[1] for seed in range(60)]
    found = [any(row.baseline.case.num_classes == 2 for row in one.regressions) for one in made]
    assert sum(found) >= 48


def test_a_suspect_that_is_not_slower_again_is_no_regression() -> None:
    lab = Lab(3)
    first = compare(*lab.sweep(change=-0.1), settings=ONE_METRIC)
    cleared = confirm(first, fresh=lab.sweep(session="again"), settings=ONE_METRIC)
    assert first.rows[0].verdict is Verdict.SLOWER
    assert cleared.rows[0].verdict is not Verdict.SLOWER
    assert cleared.notes[-1].startswith("suspects run again and judged on those runs alone:")
