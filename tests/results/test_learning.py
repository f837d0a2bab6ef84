"""Variances learned from many cases: what the tests that stand on them promise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dlperf.compare.sets import SAMPLES_PER_SECOND, Verdict
from dlperf.compare.tests import Effect, fit_priors, run_tests
from dlperf.statistics.moderation import FEWEST_CASES, MixtureError, Prior, StudentError, Variance, learned

DEGREES = 4


def samples(stream: np.random.Generator, true: np.ndarray) -> list[Variance]:
    """A sample variance of each true one."""
    drawn = true * stream.chisquare(DEGREES, true.size) / DEGREES
    return [Variance(float(value), DEGREES) for value in drawn]


def spread_of(stream: np.random.Generator, cases: int) -> np.ndarray:
    """True variances as of published series: a wide distribution that ends."""
    return np.exp(stream.uniform(math.log(0.001), math.log(0.02), cases)) ** 2


def test_fewer_cases_than_it_takes_teach_nothing() -> None:
    some = [Variance(1.0, DEGREES)] * (FEWEST_CASES - 1)
    assert learned(some, floor=1e-9) is None
    assert learned([*some, Variance(1.0, DEGREES)], floor=1e-9) is not None


def test_one_variance_of_all_cases_makes_the_test_nearly_the_normal_one() -> None:
    stream = np.random.default_rng(1)
    found = samples(stream, np.full(400, 4.0))
    prior = learned(found, floor=1e-9)
    assert prior is not None
    error = MixtureError.of(found[0], prior, unit=0.2)
    assert error.two_sided_p(1.96 * math.sqrt(0.2 * 4.0)) == pytest.approx(0.05, abs=0.01)
    assert error.reach(0.975) == pytest.approx(1.96 * math.sqrt(0.2 * 4.0), rel=0.1)


def test_the_reach_is_where_the_p_value_says_so() -> None:
    stream = np.random.default_rng(2)
    found = samples(stream, spread_of(stream, 50))
    prior = learned(found, floor=1e-12)
    assert prior is not None
    for error in (MixtureError.of(found[3], prior, unit=0.2), StudentError(0.01, 7.0)):
        for share in (0.95, 0.975):
            assert error.two_sided_p(error.reach(share)) == pytest.approx(2 * (1 - share), rel=1e-3)


def test_p_values_without_a_change_are_uniform() -> None:
    stream = np.random.default_rng(3)
    p_values = []
    for _ in range(60):
        true = spread_of(stream, 50)
        found = samples(stream, true)
        prior = learned(found, floor=1e-12)
        assert prior is not None
        differences = stream.normal(0, np.sqrt(true / 5))
        p_values += [
            MixtureError.of(one, prior, unit=0.2).two_sided_p(float(difference))
            for one, difference in zip(found, differences, strict=True)
        ]
    for level in (0.05, 0.01, 0.001):
        count, expected = sum(p < level for p in p_values), level * len(p_values)
        assert count <= stats.poisson.ppf(0.999, 1.2 * expected)
        assert count >= stats.poisson.ppf(0.001, 0.6 * expected)


def test_runs_that_are_noisier_than_any_before_are_judged_by_their_own_noise() -> None:
    """As in a second round beside which another program has started."""
    stream = np.random.default_rng(4)
    quiet = [
        Effect(log_ratio=0.0, variance=one, unit=0.2, blocked=True, runs=(5, 5))
        for one in samples(stream, np.full(30, 1e-6))
    ]
    noisy = Effect(log_ratio=-0.05, variance=Variance(0.01, 4), unit=0.2, blocked=True, runs=(5, 5))
    priors = fit_priors(quiet)
    for prior in (priors[True], replace(priors[True], learned=None), Prior(1e-6, 12.0)):
        assert all(prior.covers(one.variance) for one in quiet)
        assert not prior.covers(noisy.variance)
        (test,) = run_tests(SAMPLES_PER_SECOND, [noisy], margins=[0.01], priors={True: prior})
        assert test.verdict is Verdict.INCONCLUSIVE
        assert test.p > 0.2


def test_many_cases_are_judged_by_what_they_teach_and_few_by_the_moderated_t() -> None:
    def effects(count: int) -> list[Effect]:
        stream = np.random.default_rng(5)
        return [
            Effect(log_ratio=-0.01, variance=one, unit=0.2, blocked=True, runs=(5, 5))
            for one in samples(stream, spread_of(stream, count))
        ]

    assert fit_priors(effects(FEWEST_CASES - 1))[True].learned is None
    many = effects(FEWEST_CASES)
    assert fit_priors(many)[True].learned is not None
    judged = run_tests(SAMPLES_PER_SECOND, many, margins=[0.01] * len(many))
    assert all(one.low < one.ratio < one.high for one in judged)
