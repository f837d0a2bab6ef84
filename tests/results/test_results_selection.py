"""Quantiles of numbers that come some at a time are those of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.results.selection import quantiles
from dlperf.statistics.basic import quantile

POSITIVE = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(values=st.lists(POSITIVE, min_size=1, max_size=40), share=st.floats(0, 1), size=st.integers(1, 50))
def test_quantiles_equal_the_sorted_numbers_to_the_last_bit(
    values: list[float], share: float, size: int
) -> None:
    def chunks() -> object:
        return (np.array(values[start : start + size]) for start in range(0, len(values), size))

    expected = [quantile(values, each) for each in (share, 0.5)]
    assert expected == quantiles(chunks, (share, 0.5))  # type: ignore[arg-type]


def test_quantiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        quantiles(lambda: iter(()), (0.5,))
