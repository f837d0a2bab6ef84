"""Who is called the fastest: never by chance, never with too few runs, alike whatever the unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import failed, make_case, store_good_runs, write_run

from dlperf.results.cases import case_figures, standings
from dlperf.results.store import read_results, store_run
from dlperf.statistics.ranking import Standing, fastest

if TYPE_CHECKING:
    from pathlib import Path

RATES = st.lists(st.floats(0.01, 1e6), min_size=4, max_size=8)
NAMES = ("mxnet", "oneflow", "pytorch")
FLAT = (100.0, 100.4, 99.6, 100.2)


def judged(**rates: tuple[float, ...]) -> Standing[str]:
    standing = fastest(rates)
    assert standing is not None
    return standing


def test_the_winner_is_told_from_every_other_one() -> None:
    standing = judged(a=tuple(1.3 * rate for rate in FLAT), b=FLAT, c=tuple(1.1 * rate for rate in FLAT))
    assert ("a", {}, ()) == (standing.winner, standing.lacking, standing.close)
    assert "a is the fastest, 1.18 times c" == standing.in_words(str)


def test_a_third_that_cannot_be_told_from_the_first_keeps_the_winner_from_being_named() -> None:
    """The third one's median is low, but its runs lie so far apart that they say nothing."""
    standing = judged(a=tuple(1.3 * rate for rate in FLAT), b=FLAT, c=(1.0, 150.0, 20.0, 1.5))
    assert (None, ("c",)) == (standing.winner, standing.close)
    assert standing.in_words(str).startswith("no winner named: a cannot be told apart from c")


def test_the_lead_that_is_told_is_that_of_the_medians() -> None:
    """One fast run moves the geometric mean, by which it is 1.40."""
    standing = judged(a=(130.0, 130.0, 130.0, 130.0, 190.0), b=(100.0,) * 5)
    assert "a is the fastest, 1.30 times b" == standing.in_words(str)


def test_who_lacks_good_runs_is_named() -> None:
    standing = judged(a=tuple(2 * rate for rate in FLAT), b=FLAT, c=FLAT[:2], d=())
    assert (None, {"c": 2, "d": 0}) == (standing.winner, standing.lacking)
    assert "no winner named: at least 4 good runs of each are needed; c has 2, d has 0" == standing.in_words(
        str
    )


def test_the_number_of_runs_that_would_settle_it_does_so() -> None:
    stream = np.random.default_rng(3)
    first, other = (tuple(map(float, rate * np.exp(stream.normal(0, 0.04, 5)))) for rate in (105.0, 100.0))
    needed = judged(a=first, b=other).runs_needed
    assert needed is not None
    assert 6 <= needed <= 60
    found = 0
    for _ in range(100):
        rates = [rate * np.exp(stream.normal(0, 0.04, needed)) for rate in (105.0, 100.0)]
        found += judged(a=tuple(map(float, rates[0])), b=tuple(map(float, rates[1]))).winner == "a"
    assert found >= 60


def test_a_lead_below_one_percent_does_not_count() -> None:
    standing = judged(
        a=tuple(1.005 * rate for rate in (100.0, 100.01, 99.99, 100.0)), b=(100.0, 100.01, 99.99, 100.0)
    )
    assert (None, None) == (standing.winner, standing.runs_needed)
    assert standing.in_words(str).endswith("; a lead below 1 % does not count")


@pytest.mark.parametrize("rate", [0.0, -1e308, math.inf, math.nan])
def test_a_rate_that_is_none_is_no_good_run(rate: float) -> None:
    assert {"b": 3} == judged(a=FLAT, b=(*FLAT[:3], rate)).lacking


def test_one_participant_is_no_contest() -> None:
    assert fastest({"a": FLAT}) is None


@pytest.mark.parametrize("participants", [2, 3, 4])
@pytest.mark.parametrize("deviation", [0.02, 0.3])
def test_of_equal_participants_at_most_1_in_20_is_called_the_fastest(
    participants: int, deviation: float
) -> None:
    stream = np.random.default_rng(participants)
    rows = 600
    rates = 100 * np.exp(stream.normal(0, deviation, (rows, participants, 5)))
    won = sum(
        judged(**{str(key): tuple(map(float, each)) for key, each in enumerate(row)}).winner is not None
        for row in rates
    )
    assert won / rows <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / rows)


@given(first=RATES, second=RATES, third=RATES, factor=st.sampled_from([0.001, 0.5, 8.0, 1e4]))
def test_the_decision_is_the_same_in_any_unit(
    first: list[float], second: list[float], third: list[float], factor: float
) -> None:
    sides = dict(zip(NAMES, (first, second, third), strict=True))
    one, other = (
        fastest(sides),
        fastest({name: [factor * rate for rate in side] for name, side in sides.items()}),
    )
    assert one is not None
    assert other is not None
    assert set(one.lacking) == set(other.lacking)
    if one.first == other.first:  # two equal medians may change places by rounding
        for name, lead in one.leads.items():
            assert 0 < lead.interval.low <= lead.interval.high
            assert lead.ratio == pytest.approx(other.leads[name].ratio)


def test_gpus_that_compute_another_float32_are_no_contest(tmp_path: Path) -> None:
    for framework, arithmetic in (("mxnet", "tf32"), ("oneflow", "ieee"), ("pytorch", "ieee")):
        facts = {"fp32_arithmetic": {"product": arithmetic, "convolution": arithmetic}}
        store_good_runs(tmp_path / "s", make_case(framework=framework, device="cuda"), FLAT, facts=facts)
    ((_, found),) = standings(case_figures(read_results(tmp_path)))
    assert {"oneflow 1.9.1", "pytorch 1.9.1"} == set(found.leads) | {found.first}


def test_rows_of_a_sweep_are_decided_one_by_one(tmp_path: Path) -> None:
    for framework, factor in (("mxnet", 1.0), ("pytorch", 1.2)):
        for batch in (8, 16):
            case = make_case(framework=framework, batch_size_per_device=batch)
            if (framework, batch) != ("mxnet", 16):
                store_good_runs(tmp_path / "s", case, [factor * rate for rate in FLAT])
            else:
                store_run(write_run(tmp_path / "s", case, outcome=failed("rank_failed")))
    found = {
        figure.case.batch_size_per_device: each
        for figure, each in standings(case_figures(read_results(tmp_path)))
    }
    assert {8: "pytorch 1.9.1", 16: None} == {batch: each.winner for batch, each in found.items()}
    assert {"mxnet 1.9.1": 0} == found[16].lacking
