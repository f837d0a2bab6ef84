"""The statistics of a comparison: what must hold for any numbers, and values made another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from property_tests import at_most
from scipy import optimize, special, stats

from dlperf.compare.sets import (
    METRICS,
    PEAK_ANONYMOUS,
    REGRESSIONS,
    SAMPLES_PER_SECOND,
    STEP_P95,
    Metric,
    Verdict,
)
from dlperf.compare.tests import Effect, Rule, effect_of, fit_priors, run_tests
from dlperf.statistics.basic import benjamini_hochberg, holm, runs_to_detect, two_sided_p
from dlperf.statistics.moderation import NO_PRIOR, Prior, Variance, fit_prior, inverse_trigamma, moderated

rates = st.floats(min_value=0.01, max_value=1e5)
p_lists = st.lists(st.floats(min_value=0, max_value=1), max_size=30)


def side(values: list[float], *, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{number}": value for number, value in enumerate(values)}


def independent(baseline: list[float], candidate: list[float]) -> Effect:
    return effect_of(side(baseline, prefix="b"), side(candidate, prefix="c"))


@given(p_lists)
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    assume(p_values)
    assert benjamini_hochberg(p_values) == pytest.approx(list(stats.false_discovery_control(p_values)))


@given(p_lists)
def test_holm_is_between_the_plain_values_and_bonferronis(p_values: list[float]) -> None:
    for plain, adjusted in zip(p_values, holm(p_values), strict=True):
        assert plain <= adjusted <= min(1.0, plain * len(p_values)) or adjusted == pytest.approx(plain)


def test_holm_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=at_most(25))
@given(st.lists(rates, min_size=4, max_size=9), st.lists(rates, min_size=4, max_size=9))
def test_without_blocks_and_prior_it_is_students_t_test_on_logarithms(
    baseline: list[float], candidate: list[float]
) -> None:
    logs = np.log(baseline), np.log(candidate)
    assume(min(map(np.var, logs)) > 1e-6)
    expected = stats.ttest_ind(logs[1], logs[0])
    (found,) = run_tests(
        SAMPLES_PER_SECOND,
        [independent(baseline, candidate)],
        margins=[0.01],
        priors={False: NO_PRIOR},
    )
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((interval.low, interval.high))


@settings(max_examples=at_most(25))
@given(st.lists(st.tuples(rates, rates), min_size=4, max_size=9))
def test_with_blocks_and_no_prior_it_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    baseline, candidate = [one for one, _ in pairs], [two for _, two in pairs]
    assume(np.std(np.log(candidate) - np.log(baseline)) > 1e-3)
    expected = stats.ttest_rel(np.log(candidate), np.log(baseline))
    made = effect_of(side(baseline), side(candidate))
    (found,) = run_tests(SAMPLES_PER_SECOND, [made], margins=[0.01], priors={})
    assert made.blocked
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)


@given(st.lists(st.tuples(rates, rates), min_size=4, max_size=9), st.lists(rates, min_size=9, max_size=9))
def test_what_a_block_has_in_common_drops_out(pairs: list[tuple[float, float]], drifts: list[float]) -> None:
    plain = effect_of(side([one for one, _ in pairs]), side([two for _, two in pairs]))
    drifted = effect_of(
        side([one * drift for (one, _), drift in zip(pairs, drifts, strict=False)]),
        side([two * drift for (_, two), drift in zip(pairs, drifts, strict=False)]),
    )
    assert drifted.log_ratio == pytest.approx(plain.log_ratio, abs=1e-9)
    assert drifted.variance.value == pytest.approx(plain.variance.value, abs=1e-9)


def test_common_blocks_count_only_from_four_on() -> None:
    baseline = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 1.3}
    candidate = {"a": 1.0, "b": 1.1, "c": 1.2, "x": 1.3}
    assert not effect_of(baseline, candidate).blocked
    assert effect_of(baseline | {"x": 1.0}, candidate | {"d": 1.0}).blocked


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, math.nan]])
def test_too_few_runs_and_rates_that_are_none_make_no_contrast(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"fewer than 4|no figure"):
        independent([1.0, 2.0, 3.0, 4.0], values)


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_inverse_trigamma_inverts(value: float) -> None:
    assert special.polygamma(1, inverse_trigamma(value)) == pytest.approx(value, rel=1e-3)


def test_prior_is_limmas_worked_out_another_way() -> None:
    """Equations 10 to 12 of Smyth (2004) with scipy's own root finder in place of Newton's."""
    values, degrees = [0.2, 0.5, 1.1, 2.4, 0.05, 8.0], [4, 4, 4, 3, 4, 4]
    e = [
        math.log(value) - special.digamma(d / 2) + math.log(d / 2)
        for value, d in zip(values, degrees, strict=True)
    ]
    excess = np.var(e, ddof=1) - np.mean([special.polygamma(1, d / 2) for d in degrees])
    d0 = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-3, 1e3)
    s0 = math.exp(np.mean(e) + special.digamma(d0 / 2) - math.log(d0 / 2))
    prior = fit_prior([Variance(value, d) for value, d in zip(values, degrees, strict=True)])
    assert (prior.degrees, prior.value) == pytest.approx((d0, s0))
    shrunk = moderated(Variance(8.0, 4), prior)
    assert shrunk.value == pytest.approx((d0 * s0 + 4 * 8.0) / (d0 + 4))
    assert shrunk.degrees == pytest.approx(d0 + 4)


@pytest.mark.parametrize("degrees", [3.0, 20.0])
def test_the_prior_that_made_the_variances_is_found_again(degrees: float) -> None:
    stream = np.random.default_rng(20260103)
    true = 2.0 * degrees / stream.chisquare(degrees, 20_000)
    sample = true * stream.chisquare(4, true.size) / 4
    prior = fit_prior([Variance(float(value), 4) for value in sample])
    assert prior.value == pytest.approx(2.0, rel=0.05)
    assert prior.degrees == pytest.approx(degrees, rel=0.15)


def test_variances_that_differ_by_chance_alone_are_pooled() -> None:
    prior = fit_prior([Variance(1.0, 4), Variance(1.1, 4), Variance(0.9, 4)])
    assert prior == Prior(value=pytest.approx(1.0), degrees=math.inf)
    assert moderated(Variance(0.9, 4), prior, most_degrees=12) == Variance(pytest.approx(1.0), 12)


@given(st.lists(st.floats(min_value=1e-9, max_value=1e3), min_size=2, max_size=20))
def test_a_moderated_variance_lies_between_its_own_and_the_priors(values: list[float]) -> None:
    prior = fit_prior([Variance(value, 4) for value in values])
    for value in values:
        low, high = sorted((value, prior.value))
        assert low * 0.999 <= moderated(Variance(value, 4), prior).value <= high * 1.001


@pytest.mark.parametrize("variances", [[], [Variance(1.0, 4)], [Variance(0.0, 4), Variance(0.0, 4)]])
def test_nothing_in_common_is_told_from_too_little(variances: list[Variance]) -> None:
    assert fit_prior(variances) == NO_PRIOR


def test_infinite_degrees_are_the_normal_distribution() -> None:
    assert two_sided_p(1.959964, degrees=math.inf) == pytest.approx(0.05, abs=1e-6)


FLAT = [100.0, 100.1, 99.9, 100.05, 99.95]


def verdict(candidate: list[float], *, metric: Metric = SAMPLES_PER_SECOND, margin: float = 0.01) -> Verdict:
    return run_tests(metric, [effect_of(side(FLAT), side(candidate))], margins=[margin])[0].verdict


def test_every_verdict_has_its_case() -> None:
    assert verdict([97.0, 97.1, 96.9, 97.0, 97.1]) is Verdict.SLOWER
    assert verdict([103.0, 103.1, 102.9, 103.0, 103.1]) is Verdict.FASTER
    assert verdict([100.1, 100.0, 99.9, 100.0, 100.0]) is Verdict.SAME
    assert verdict([90.0, 110.0, 95.0, 105.0, 100.0]) is Verdict.INCONCLUSIVE


def test_direction_and_words_are_the_metrics() -> None:
    more = [110.0, 110.1, 109.9, 110.0, 110.1]
    assert verdict(more, metric=STEP_P95) is Verdict.SLOWER
    assert verdict(more, metric=PEAK_ANONYMOUS) is Verdict.WORSE
    assert {
        metric.verdict(0.1) in REGRESSIONS for metric in METRICS.values() if metric.better == "lower"
    } == {True}


def test_a_difference_below_the_margin_is_no_change_however_sure() -> None:
    sure = [99.5, 99.6, 99.4, 99.55, 99.45]
    assert verdict(sure) is Verdict.SAME
    assert verdict(sure, margin=0.002) is Verdict.SLOWER


def test_inconclusive_says_how_many_runs_would_settle_it() -> None:
    (noisy,) = run_tests(
        SAMPLES_PER_SECOND,
        [effect_of(side(FLAT), side([98.0, 101.0, 96.0, 99.0, 97.0]))],
        margins=[0.01],
    )
    assert noisy.verdict is Verdict.INCONCLUSIVE
    assert noisy.runs_to_settle is not None
    assert 5 < noisy.runs_to_settle < 30


def test_exact_figures_are_judged_without_a_spread() -> None:
    equal = run_tests(PEAK_ANONYMOUS, [effect_of(side([5.0] * 4), side([5.0] * 4))], margins=[0.02])[0]
    more = run_tests(PEAK_ANONYMOUS, [effect_of(side([5.0] * 4), side([6.0] * 4))], margins=[0.02])[0]
    assert (equal.verdict, more.verdict) == (Verdict.SAME, Verdict.WORSE)


def test_a_prior_from_an_earlier_round_serves_a_single_case() -> None:
    stream = np.random.default_rng(7)
    many = [
        effect_of(side(list(stream.lognormal(0, 0.01, 5))), side(list(stream.lognormal(0, 0.01, 5))))
        for _ in range(40)
    ]
    priors = fit_priors(many)
    alone = run_tests(SAMPLES_PER_SECOND, many[:1], margins=[0.01], rule=Rule(adjust=holm), priors=priors)[0]
    assert priors[True].degrees > 4
    assert priors[False] == NO_PRIOR
    assert alone.p == alone.adjusted_p


def test_planned_runs_find_the_effect_as_often_as_planned() -> None:
    count = runs_to_detect(math.log(0.98), variance=2 * 0.01**2, blocked=True, level=0.05, tests=1)
    assert count is not None
    stream = np.random.default_rng(11)
    differences = stream.normal(math.log(0.98), math.sqrt(2) * 0.01, (4000, count))
    found = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05)
    assert 0.78 < found < 0.92


@given(st.floats(min_value=1e-6, max_value=1e-2), st.floats(min_value=0.005, max_value=0.2))
def test_smaller_effects_take_no_fewer_runs(variance: float, effect: float) -> None:
    some = runs_to_detect(effect, variance=variance, blocked=True, level=0.05, tests=10)
    more = runs_to_detect(effect / 2, variance=variance, blocked=True, level=0.05, tests=10)
    assert more is None or (some is not None and some <= more)
