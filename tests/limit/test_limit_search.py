"""The search against predicates whose limit is known: what it finds, what it may cost, whatever the guess."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlperf.limit.search import MAX_ATTEMPTS, Probe, Range, SearchResult, next_step
from dlperf.results.schema import LimitStatus, ProbeRecord, Status

if TYPE_CHECKING:
    from collections.abc import Callable

sizes = st.one_of(st.integers(1, 40), st.integers(1, 200_000_000))


def found(values: Range, number: int) -> SearchResult:
    return SearchResult(status=LimitStatus.FOUND, value=values.value(number), fails=values.value(number + 1))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    granularity = draw(st.integers(1, 5000))
    lower = draw(st.integers(1, 5000))
    count = draw(st.one_of(st.integers(1, 40), st.integers(1, 10_000_000)))
    guess = draw(st.none() | st.integers(-10, 2 * granularity * count + lower))
    upper = lower + granularity * (count - 1) + draw(st.integers(0, granularity - 1))
    return Range(lower=lower, granularity=granularity, upper=upper, guess=guess)


def completed(probe: Probe, status: Status) -> ProbeRecord:
    return ProbeRecord(
        value=probe.value, full=probe.full, attempt=probe.attempt, status=status, folder="runs/probe/r1"
    )


def run_search(values: Range, probe: Callable[[Probe], Status]) -> tuple[SearchResult, list[ProbeRecord]]:
    """Run a search to its end, and hold what every step must satisfy."""
    tried: list[ProbeRecord] = []
    step = next_step(values, tried)
    while isinstance(step, Probe):
        assert values.lower <= step.value <= values.upper
        assert (step.value - values.lower) % values.granularity == 0
        tried.append(completed(step, probe(step)))
        step = next_step(values, tried)
    return step, tried


def up_to(limit: int) -> Callable[[Probe], Status]:
    return lambda probe: Status.OK if probe.value <= limit else Status.OOM


@given(values=ranges(), share=st.floats(0, 1.2))
def test_the_limit_is_found_in_log2_of_the_range_and_three_probes_whatever_the_guess(
    values: Range, share: float
) -> None:
    limit = int(values.upper * share)
    end, tried = run_search(values, up_to(limit))
    number = values.number(limit)
    expected: SearchResult
    if number == 0:
        expected = SearchResult(status=LimitStatus.NOTHING_TRAINS, value=values.lower)
    elif number >= values.count:
        expected = SearchResult(status=LimitStatus.BEYOND_UPPER, value=values.value(values.count))
    else:
        expected = SearchResult(
            status=LimitStatus.FOUND, value=values.value(number), fails=values.value(number + 1)
        )
    assert expected == end
    assert sum(not probe.full for probe in tried) <= math.log2(values.count) + 3
    assert sum(probe.full for probe in tried) <= 1


@given(values=ranges(), data=st.data())
def test_what_is_found_trained_at_full_length_and_one_step_more_did_not(
    values: Range, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(0, values.upper))
    end, tried = run_search(values, up_to(limit))
    if end.status is LimitStatus.FOUND:
        assert completed(Probe(value=end.value, full=True), Status.OK) in tried
        assert any(probe.value == end.fails and probe.status is Status.OOM for probe in tried)


@given(values=ranges(), data=st.data())
def test_a_limit_that_only_long_runs_show_is_found(values: Range, data: st.DataObject) -> None:
    """What trains for ten iterations and not for a hundred: the search backs off."""
    number = data.draw(st.integers(1, values.count))
    short = values.value(number)
    long = values.value(data.draw(st.integers(0, number))) if number else 0
    end, tried = run_search(values, lambda probe: up_to(long if probe.full else short)(probe))
    reached = values.number(long)
    if reached == 0:
        assert SearchResult(status=LimitStatus.NOTHING_TRAINS, value=values.lower) == end
    elif reached >= values.count:
        assert SearchResult(status=LimitStatus.BEYOND_UPPER, value=values.value(values.count)) == end
    else:
        assert (
            SearchResult(
                status=LimitStatus.FOUND, value=values.value(reached), fails=values.value(reached + 1)
            )
            == end
        )
    assert sum(not probe.full for probe in tried) <= math.log2(values.count) + 3
    away = max(1, number - reached + 1)
    assert sum(probe.full for probe in tried) <= 2 * math.log2(away) + 3


@given(values=ranges(), share=st.floats(0, 1.2), data=st.data())
def test_a_failure_for_another_reason_is_repeated_and_changes_nothing(
    values: Range, share: float, data: st.DataObject
) -> None:
    limit = int(values.upper * share)
    failing = data.draw(st.sets(st.integers(0, 30)))
    made: list[Probe] = []

    def probe(step: Probe) -> Status:
        made.append(step)
        if step.attempt == 1 and len(made) in failing:
            return Status.CRASH
        return up_to(limit)(step)

    end, _ = run_search(values, probe)
    assert run_search(values, up_to(limit))[0] == end
    again = [step for step in made if step.attempt > 1]
    assert all(Probe(value=step.value, full=step.full, attempt=1) in made for step in again)


@given(values=ranges(), at=st.integers(0, 6))
def test_a_probe_that_fails_again_ends_the_search(values: Range, at: int) -> None:
    probed: list[int] = []

    def probe(step: Probe) -> Status:
        if step.value not in probed:
            probed.append(step.value)
        return Status.CRASH if probed.index(step.value) == at else up_to(values.upper // 2)(step)

    end, tried = run_search(values, probe)
    failed = [probe for probe in tried if probe.status is Status.CRASH]
    if failed:
        assert SearchResult(status=LimitStatus.BROKEN, value=failed[0].value) == end
        assert MAX_ATTEMPTS == len(failed)


@given(values=ranges(), data=st.data())
def test_an_interrupted_search_continues_as_if_uninterrupted(values: Range, data: st.DataObject) -> None:
    limit = data.draw(st.integers(0, values.upper))
    end, tried = run_search(values, up_to(limit))
    kept = data.draw(st.integers(0, len(tried)))
    step, more = next_step(values, tried[:kept]), tried[:kept]
    while isinstance(step, Probe):
        more.append(completed(step, up_to(limit)(step)))
        step = next_step(values, more)
    assert tried == more
    assert end == step


def test_contradicting_probes_give_the_smaller_limit() -> None:
    """A machine may let a larger value train and a smaller one not."""
    values = Range(lower=1, granularity=1, upper=1000, guess=300)
    before = [
        completed(Probe(value=200, full=False), Status.OK),
        completed(Probe(value=150, full=False), Status.OOM),
    ]
    step, tried = next_step(values, before), list(before)
    while isinstance(step, Probe):
        tried.append(completed(step, up_to(180)(step)))
        step = next_step(values, tried)
    assert SearchResult(status=LimitStatus.FOUND, value=149, fails=150) == step


def test_a_good_guess_saves_probes() -> None:
    near, far = (
        len(run_search(Range(lower=1, granularity=1, upper=65_536, guess=guess), up_to(115))[1])
        for guess in (118, 40_000)
    )
    assert near <= 9 < far


@pytest.mark.parametrize("bounds", [(1, 0, 10), (0, 1, 10), (11, 1, 10)])
def test_a_range_without_a_value_is_an_error_of_ours(bounds: tuple[int, int, int]) -> None:
    lower, granularity, upper = bounds
    with pytest.raises(ValueError, match="no value from"):
        Range(lower=lower, granularity=granularity, upper=upper)
