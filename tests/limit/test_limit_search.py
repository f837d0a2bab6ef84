"""The search against predicates whose limit is known: what it finds, what it may cost, whatever the guess."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.limit.search import (
    MOST_TRIES,
    BeyondUpper,
    Broken,
    Found,
    NothingTrains,
    Outcome,
    Probe,
    Range,
    Tried,
    next_step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlperf.limit.search import End

sizes = st.one_of(st.integers(1, 40), st.integers(1, 200_000_000))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    granularity = draw(st.integers(1, 5000))
    lower = draw(st.integers(1, 5000))
    count = draw(st.one_of(st.integers(1, 40), st.integers(1, 10_000_000)))
    guess = draw(st.none() | st.integers(-10, 2 * granularity * count + lower))
    upper = lower + granularity * (count - 1) + draw(st.integers(0, granularity - 1))
    return Range(lower=lower, granularity=granularity, upper=upper, guess=guess)


def searched(where: Range, probe: Callable[[Probe], Outcome]) -> tuple[End, list[Tried]]:
    """Run a search to its end, and hold what every step must satisfy."""
    tried: list[Tried] = []
    step = next_step(where, tried)
    while isinstance(step, Probe):
        assert where.lower <= step.value <= where.upper
        assert (step.value - where.lower) % where.granularity == 0
        tried.append(Tried(value=step.value, full=step.full, outcome=probe(step)))
        step = next_step(where, tried)
    return step, tried


def up_to(limit: int) -> Callable[[Probe], Outcome]:
    return lambda probe: Outcome.TRAINS if probe.value <= limit else Outcome.MEMORY


@given(where=ranges(), share=st.floats(0, 1.2))
def test_the_limit_is_found_in_log2_of_the_range_and_three_probes_whatever_the_guess(
    where: Range, share: float
) -> None:
    limit = int(where.upper * share)
    end, tried = searched(where, up_to(limit))
    number = where.number(limit)
    expected: End
    if number == 0:
        expected = NothingTrains(value=where.lower)
    elif number >= where.count:
        expected = BeyondUpper(value=where.value(where.count))
    else:
        expected = Found(value=where.value(number), above=where.value(number + 1))
    assert expected == end
    assert sum(not one.full for one in tried) <= math.log2(where.count) + 3
    assert sum(one.full for one in tried) <= 1


@given(where=ranges(), data=st.data())
def test_what_is_found_trained_at_full_length_and_one_step_more_did_not(
    where: Range, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(0, where.upper))
    end, tried = searched(where, up_to(limit))
    if isinstance(end, Found):
        assert Tried(value=end.value, full=True, outcome=Outcome.TRAINS) in tried
        assert any(one.value == end.above and one.outcome is Outcome.MEMORY for one in tried)


@given(where=ranges(), data=st.data())
def test_a_limit_that_shows_in_long_runs_alone_is_found_too(where: Range, data: st.DataObject) -> None:
    """What trains for ten iterations and not for a hundred: the search backs off."""
    number = data.draw(st.integers(1, where.count))
    short = where.value(number)
    long = where.value(data.draw(st.integers(0, number))) if number else 0
    end, tried = searched(where, lambda probe: up_to(long if probe.full else short)(probe))
    reached = where.number(long)
    if reached == 0:
        assert NothingTrains(value=where.lower) == end
    elif reached >= where.count:
        assert BeyondUpper(value=where.value(where.count)) == end
    else:
        assert Found(value=where.value(reached), above=where.value(reached + 1)) == end
    assert sum(not one.full for one in tried) <= math.log2(where.count) + 3
    away = max(1, number - reached + 1)
    assert sum(one.full for one in tried) <= 2 * math.log2(away) + 3


@given(where=ranges(), share=st.floats(0, 1.2), data=st.data())
def test_a_failure_for_anything_else_is_tried_again_and_changes_nothing(
    where: Range, share: float, data: st.DataObject
) -> None:
    limit = int(where.upper * share)
    failing = data.draw(st.sets(st.integers(0, 30)))
    made: list[Probe] = []

    def probe(step: Probe) -> Outcome:
        made.append(step)
        if step.attempt == 1 and len(made) in failing:
            return Outcome.FAILED
        return up_to(limit)(step)

    end, _ = searched(where, probe)
    assert searched(where, up_to(limit))[0] == end
    again = [step for step in made if step.attempt > 1]
    assert all(Probe(value=step.value, full=step.full, attempt=1) in made for step in again)


@given(where=ranges(), at=st.integers(0, 6))
def test_a_probe_that_fails_again_ends_the_search(where: Range, at: int) -> None:
    values: list[int] = []

    def probe(step: Probe) -> Outcome:
        if step.value not in values:
            values.append(step.value)
        return Outcome.FAILED if values.index(step.value) == at else up_to(where.upper // 2)(step)

    end, tried = searched(where, probe)
    failed = [one for one in tried if one.outcome is Outcome.FAILED]
    if failed:
        assert Broken(value=failed[0].value, full=failed[0].full) == end
        assert MOST_TRIES == len(failed)


@given(where=ranges(), data=st.data())
def test_a_search_that_was_cut_short_goes_on_as_if_it_had_not_been(where: Range, data: st.DataObject) -> None:
    limit = data.draw(st.integers(0, where.upper))
    end, tried = searched(where, up_to(limit))
    kept = data.draw(st.integers(0, len(tried)))
    step, more = next_step(where, tried[:kept]), tried[:kept]
    while isinstance(step, Probe):
        more.append(Tried(value=step.value, full=step.full, outcome=up_to(limit)(step)))
        step = next_step(where, more)
    assert tried == more
    assert end == step


def test_of_answers_that_contradict_each_other_the_smaller_limit_is_taken() -> None:
    """A machine may let a larger value train and a smaller one not."""
    where = Range(lower=1, granularity=1, upper=1000, guess=300)
    before = [
        Tried(value=200, full=False, outcome=Outcome.TRAINS),
        Tried(value=150, full=False, outcome=Outcome.MEMORY),
    ]
    step, tried = next_step(where, before), list(before)
    while isinstance(step, Probe):
        tried.append(Tried(value=step.value, full=step.full, outcome=up_to(180)(step)))
        step = next_step(where, tried)
    assert Found(value=149, above=150) == step


def test_a_good_guess_saves_probes() -> None:
    near, far = (
        len(searched(Range(lower=1, granularity=1, upper=65_536, guess=guess), up_to(115))[1])
        for guess in (118, 40_000)
    )
    assert near <= 9 < far


@pytest.mark.parametrize("bounds", [(1, 0, 10), (0, 1, 10), (11, 1, 10)])
def test_a_range_without_a_value_is_an_error_of_ours(bounds: tuple[int, int, int]) -> None:
    lower, granularity, upper = bounds
    with pytest.raises(ValueError, match="no value from"):
        Range(lower=lower, granularity=granularity, upper=upper)
