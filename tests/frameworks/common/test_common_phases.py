"""Where the time of a step goes, by a clock that the test advances."""

from __future__ import annotations

import pytest

from frameworks.common import phases as module
from frameworks.common.phases import COMMUNICATION, DATA, FORWARD_BACKWARD, Phases


class Clock:
    """Replaces the module `time` in the phases."""

    def __init__(self) -> None:
        self.now = 5.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_when_off_nothing_is_counted_and_the_device_is_not_drained(clock: Clock) -> None:
    waited = []
    phases = Phases(lambda: waited.append(1))

    with phases(DATA):
        clock.now += 1

    assert ({}, []) == (phases.seconds, waited)


def test_a_phase_inside_another_is_not_counted_in_it(clock: Clock) -> None:
    phases = Phases(lambda: None)
    phases.on = True

    with phases(FORWARD_BACKWARD):
        clock.now += 1
        for _ in range(2):
            with phases(COMMUNICATION):
                clock.now += 10
        clock.now += 2
    clock.now += 1000  # outside of every phase
    with phases(DATA):
        clock.now += 5

    assert {FORWARD_BACKWARD: 3.0, COMMUNICATION: 20.0, DATA: 5.0} == phases.seconds


def test_work_still_queued_at_the_edge_counts_for_the_phase_that_queued_it(clock: Clock) -> None:
    queued = [0.0]

    def synchronize() -> None:
        clock.now += queued[0]
        queued[0] = 0.0

    phases = Phases(synchronize)
    phases.on = True
    queued[0] = 50.0  # of before
    with phases(FORWARD_BACKWARD):
        queued[0] = 3.0

    assert {FORWARD_BACKWARD: 3.0} == phases.seconds


def test_an_error_inside_closes_the_phase(clock: Clock) -> None:
    phases = Phases(lambda: None)
    phases.on = True

    def fail() -> None:
        with phases(DATA):
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 7
    with phases(COMMUNICATION):
        clock.now += 2

    assert {DATA: 1.0, COMMUNICATION: 2.0} == phases.seconds
