"""Figures of a case: the properties that they must have, and values worked out by hand or by scipy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlperf.statistics.basic import (
    Interval,
    quantile,
    ratio_interval,
    samples_per_second,
    summarise,
    t_interval,
)

if TYPE_CHECKING:
    from random import Random

rates = st.floats(min_value=0.01, max_value=1e5)
some = st.lists(rates, min_size=1, max_size=12)
several = st.lists(rates, min_size=3, max_size=12)


def close(left: float, right: float) -> bool:
    return left == pytest.approx(right, rel=1e-9, abs=1e-9)


@given(some, st.randoms())
def test_order_of_the_runs_does_not_matter(values: list[float], random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert summarise(shuffled) == summarise(values)


@given(several, st.floats(min_value=0.01, max_value=100))
def test_a_change_of_unit_changes_figures_alike(values: list[float], scale: float) -> None:
    plain, scaled = summarise(values), summarise([scale * value for value in values])
    assert close(scaled.median, scale * plain.median)
    assert close(scaled.interval.low, scale * plain.interval.low)
    assert close(scaled.interval.high, scale * plain.interval.high)
    assert close(scaled.cv, plain.cv)


@given(some)
def test_median_lies_between_the_extremes(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.minimum <= summary.median <= summary.maximum
    assert summary.runs == len(values)


@given(some)
def test_median_and_quantiles_are_numpys(values: list[float]) -> None:
    assert close(summarise(values).median, float(np.median(values)))
    assert close(quantile(values, 0.95), float(np.percentile(values, 95)))


@given(several)
def test_interval_is_scipys(values: list[float]) -> None:
    logs = np.log(values)
    if np.std(logs) > 1e-12:
        expected = np.exp(stats.t.interval(0.95, len(logs) - 1, loc=np.mean(logs), scale=stats.sem(logs)))
        interval = t_interval(values)
        assert (interval.low, interval.high) == pytest.approx(tuple(expected), rel=1e-5)


@given(st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=3, max_size=12))
def test_the_interval_of_positive_rates_is_positive_and_finite(values: list[float]) -> None:
    for interval in (t_interval(values), ratio_interval(values, values[:3])):
        assert interval is not None
        assert 0 < interval.low <= interval.high < math.inf


@given(several, several, st.floats(min_value=0.01, max_value=100))
def test_a_ratio_is_the_same_in_any_unit(over: list[float], under: list[float], scale: float) -> None:
    plain = ratio_interval(over, under)
    scaled = ratio_interval([scale * rate for rate in over], [scale * rate for rate in under])
    assert (plain.low, plain.high) == pytest.approx((scaled.low, scaled.high), rel=1e-6)


@pytest.mark.parametrize("values", [[10.0], [10.0, 12.0], [10.0, 12.0, 0.0]])
def test_two_runs_or_a_rate_of_nothing_have_no_interval(values: list[float]) -> None:
    assert t_interval(values) is None
    assert summarise(values).interval is None


def test_one_run_has_a_median_and_no_spread() -> None:
    summary = summarise([7.5])
    assert (summary.median, summary.minimum, summary.maximum) == (7.5, 7.5, 7.5)
    assert summary.cv is None
    assert summary.interval is None


def test_no_run_has_no_figure() -> None:
    with pytest.raises(ValueError, match="no rates"):
        summarise([])


def test_no_outlier_is_dropped() -> None:
    assert summarise([10.0, 10.0, 10.0, 10.0, 1.0]).minimum == 1.0


def test_equal_runs_have_an_interval_without_width() -> None:
    interval = summarise([3.0, 3.0, 3.0]).interval
    assert interval == Interval(low=pytest.approx(3.0), high=pytest.approx(3.0))


def test_figures_worked_out_by_hand() -> None:
    summary = summarise([100.0, 102.0, 104.0])
    assert summary.median == 102.0
    assert summary.cv == pytest.approx(2 / 102)
    # t(0.975, 2) = 4.302653
    logs = [math.log(rate) for rate in (100.0, 102.0, 104.0)]
    half = 4.302653 * float(np.std(logs, ddof=1)) / math.sqrt(3)
    assert summary.interval.high == pytest.approx(math.exp(sum(logs) / 3 + half), rel=1e-6)


def test_rate_is_samples_over_time_and_no_mean_of_rates() -> None:
    assert samples_per_second([10, 10], [1.0, 9.0]) == 2.0


@pytest.mark.parametrize("runs", [3, 5])
def test_interval_covers_the_true_mean_as_often_as_it_says(runs: int) -> None:
    stream = np.random.default_rng(20260101)
    draws = stream.lognormal(math.log(100), 0.3, (4000, runs))
    intervals = [t_interval(list(map(float, row))) for row in draws]
    share = sum(interval.low <= 100 <= interval.high for interval in intervals) / len(intervals)
    assert share == pytest.approx(0.95, abs=0.015)


@given(several, several)
def test_a_ratio_the_other_way_round_is_the_reciprocal(over: list[float], under: list[float]) -> None:
    forth, back = ratio_interval(over, under), ratio_interval(under, over)
    assert forth.low == pytest.approx(1 / back.high, rel=1e-6)
    assert forth.low <= forth.high


def test_ratio_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    stream = np.random.default_rng(20260102)
    over, under = (
        stream.lognormal(math.log(30), 0.03, (3000, 5)),
        stream.lognormal(math.log(20), 0.01, (3000, 5)),
    )
    intervals = [ratio_interval(list(a), list(b)) for a, b in zip(over, under, strict=True)]
    share = sum(interval.low <= 1.5 <= interval.high for interval in intervals) / len(intervals)
    assert share == pytest.approx(0.95, abs=0.015)


def test_ratio_interval_is_scipys_on_logarithms() -> None:
    over, under = [30.0, 31.5, 29.0, 30.5], [20.0, 20.1, 19.9]
    welch = stats.ttest_ind(np.log(over), np.log(under), equal_var=False).confidence_interval(0.95)
    interval = ratio_interval(over, under)
    assert (interval.low, interval.high) == pytest.approx((math.exp(welch.low), math.exp(welch.high)))


@pytest.mark.parametrize(
    ("over", "under"), [([1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [1.0]), ([], [])]
)
def test_too_few_runs_give_no_ratio_interval(over: list[float], under: list[float]) -> None:
    assert ratio_interval(over, under) is None


def test_runs_without_any_spread_give_a_ratio_without_width() -> None:
    assert ratio_interval([3.0, 3.0, 3.0], [2.0, 2.0, 2.0]) == Interval(
        low=pytest.approx(1.5), high=pytest.approx(1.5)
    )


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-4, 100)), min_size=1, max_size=20), rates)
def test_a_rate_scales_with_the_samples_and_against_the_time(
    steps: list[tuple[int, float]], factor: float
) -> None:
    samples, seconds = [step[0] for step in steps], [step[1] for step in steps]
    rate = samples_per_second(samples, seconds)
    assert close(rate * math.fsum(seconds), sum(samples))
    assert close(samples_per_second(samples, [factor * one for one in seconds]), rate / factor)
