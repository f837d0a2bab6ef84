from __future__ import annotations

import io
import itertools
import json
import math

import pytest

from frameworks.common import loop
from frameworks.common.case import Case, case_from_dict
from frameworks.common.events import PREFIX, EventLog
from frameworks.common.loop import FinishedStep, profile, train
from frameworks.common.phases import Phases
from frameworks.common.rank_times import MOST_VALUES


def small_case(case_content: dict, *, warmup: int, measured: int) -> Case:
    measure = {"warmup_iterations": warmup, "measured_iterations": measured}
    return case_from_dict({**case_content, "measure": measure})


class Clock:
    """Replaces the module `time` in the loop; only the work of a step advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(loop, "time", made)
    return made


class Synchronous:
    """A trainer that computes inside `step`; step k takes `seconds[k]`."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.started, self.windows = clock, seconds, [], 0

    def start_window(self) -> None:
        self.windows += 1
        self.window_start = self.clock.now

    def step(self, _batch: object, iteration: int) -> FinishedStep:
        self.started.append(iteration)
        self.clock.now += self.seconds[iteration]
        return FinishedStep(loss=10.0 + iteration, window_start=self.window_start)


class WithEvents(Synchronous):
    """A trainer whose device says that every step took exactly a quarter of a second."""

    def step(self, _batch: object, iteration: int) -> WithEvents.Started:
        self.started.append(iteration)
        return self.Started(self, iteration)

    class Started:
        def __init__(self, trainer: WithEvents, iteration: int) -> None:
            self.trainer, self.iteration = trainer, iteration

        def wait(self) -> float:
            # The next step was started before this one is waited for, except at the window's end.
            self.ahead = self.trainer.started[-1] - self.iteration
            return math.nan

        def seconds_since(self, previous: object) -> float:
            self.previous = previous
            return 0.25

        def exchange_seconds(self) -> None:
            return None


def run(trainer: Synchronous, case: Case) -> list[dict]:
    stream = io.StringIO()
    train(trainer, case, itertools.repeat(((), ())), EventLog(0, stream))
    lines = stream.getvalue().splitlines()
    assert all(line.startswith(PREFIX) for line in lines)
    return [json.loads(line[len(PREFIX) :]) for line in lines]


def test_each_step_of_a_synchronous_engine_gets_its_own_seconds(case_content: dict, clock: Clock) -> None:
    """The loop waits one step behind; a step must not be charged with the next one's time."""
    seconds = [0.5, 4.0, 0.25, 2.0]
    events = run(Synchronous(clock, seconds), small_case(case_content, warmup=1, measured=3))

    steps = [event for event in events if event["key"] == "tracked_stats"]
    measured = [event["value"]["seconds"] for event in steps]

    assert [0, 1, 2, 3] == [event["metadata"]["step"] for event in steps]
    assert seconds == measured
    assert [10.0, 11.0, 12.0, 13.0] == [event["value"]["loss"] for event in steps]


def test_warm_up_and_measured_steps_are_two_windows(case_content: dict, clock: Clock) -> None:
    trainer = Synchronous(clock, [1.0] * 5)
    events = run(trainer, small_case(case_content, warmup=2, measured=3))

    kinds = [event["metadata"]["kind"] for event in events if event["key"] == "tracked_stats"]

    assert ["warmup"] * 2 + ["train"] * 3 == kinds
    assert 2 == trainer.windows
    assert "run_start" == events[0]["key"]
    assert ("run_stop", "success") == (events[-1]["key"], events[-1]["metadata"]["status"])


def test_without_warm_up_there_is_one_window(case_content: dict, clock: Clock) -> None:
    trainer = Synchronous(clock, [1.0] * 2)
    run(trainer, small_case(case_content, warmup=0, measured=2))

    assert (1, [0, 1]) == (trainer.windows, trainer.started)


def test_device_events_give_the_seconds_and_the_device_always_has_the_next_step(
    case_content: dict, clock: Clock
) -> None:
    trainer = WithEvents(clock, [])
    made: list[WithEvents.Started] = []
    start = trainer.step
    trainer.step = lambda batch, iteration: made.append(start(batch, iteration)) or made[-1]

    events = run(trainer, small_case(case_content, warmup=0, measured=3))
    steps = [event for event in events if event["key"] == "tracked_stats"]

    assert [0.25] * 3 == [event["value"]["seconds"] for event in steps]
    assert [case_content["batch_size_per_device"] / 0.25] * 3 == [e["value"]["throughput"] for e in steps]
    assert [1, 1, 0] == [started.ahead for started in made]
    assert [None, made[0], made[1]] == [started.previous for started in made]


def test_a_loss_that_is_nan_or_infinite_is_written_as_text(case_content: dict, clock: Clock) -> None:
    events = run(WithEvents(clock, []), small_case(case_content, warmup=0, measured=1))
    value = next(event["value"] for event in events if event["key"] == "tracked_stats")

    assert (None, "nan") == (value["loss"], value["loss_text"])


class HostTimed(Synchronous):
    """An asynchronous engine without device events: a step ends when it is waited for."""

    def step(self, _batch: object, iteration: int) -> HostTimed.Started:
        return self.Started(self, iteration)

    class Started:
        def __init__(self, trainer: HostTimed, iteration: int) -> None:
            self.trainer, self.iteration = trainer, iteration

        def wait(self) -> float:
            self.trainer.clock.now += self.trainer.seconds[self.iteration]
            return 1.0

        def seconds_since(self, _previous: object) -> None:
            return None

        def exchange_seconds(self) -> float:
            return self.trainer.seconds[self.iteration] / 4


def rank_steps(events: list[dict]) -> list[dict]:
    return [event for event in events if event["key"] == "rank_steps"]


def test_a_rank_says_how_much_of_each_measured_step_was_its_own(case_content: dict, clock: Clock) -> None:
    events = run(HostTimed(clock, [8.0, 0.5, 4.0, 1.0]), small_case(case_content, warmup=1, measured=3))

    (event,) = rank_steps(events)

    assert {"rank": 0, "step": 1, "iterations": 3} == event["metadata"]
    assert {"compute_seconds": [0.375, 3.0, 0.75], "exchange_seconds": [0.125, 1.0, 0.25]} == event["value"]


def test_without_exchanges_a_rank_says_nothing_of_its_steps(case_content: dict, clock: Clock) -> None:
    events = run(Synchronous(clock, [0.5, 4.0]), small_case(case_content, warmup=0, measured=2))

    assert [] == rank_steps(events)


def test_a_long_window_is_told_in_means_over_stretches(case_content: dict, clock: Clock) -> None:
    steps = 2 * MOST_VALUES + 1
    events = run(
        HostTimed(clock, [4.0, *[8.0] * (steps - 1)]), small_case(case_content, warmup=0, measured=steps)
    )

    (event,) = rank_steps(events)

    assert [5.0, *[6.0] * ((steps - 1) // 3)] == event["value"]["compute_seconds"]
    assert len(event["value"]["exchange_seconds"]) <= MOST_VALUES


def test_without_device_events_the_return_of_wait_ends_a_step(case_content: dict, clock: Clock) -> None:
    seconds = [0.5, 4.0, 0.25]
    events = run(HostTimed(clock, seconds), small_case(case_content, warmup=0, measured=3))

    assert seconds == [event["value"]["seconds"] for event in events if event["key"] == "tracked_stats"]


class WithPhases(Synchronous):
    """A trainer that counts half a second of every step as data, while phases are on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, [0.0] * 10)
        self.phases = Phases(lambda: None)

    def step(self, batch: object, iteration: int) -> FinishedStep:
        if self.phases.on:
            self.phases.seconds["data"] = self.phases.seconds.get("data", 0.0) + 0.5
        return super().step(batch, iteration)


def profiled(trainer: Synchronous, case: Case) -> list[dict]:
    stream = io.StringIO()
    profile(trainer, case, itertools.repeat(((), ())), EventLog(0, stream))
    return [json.loads(line[len(PREFIX) :]) for line in stream.getvalue().splitlines()]


def test_the_breakdown_is_a_mean_over_steps_after_the_measured_ones(case_content: dict, clock: Clock) -> None:
    trainer = WithPhases(clock)

    (event,) = profiled(trainer, small_case(case_content, warmup=2, measured=5))

    assert [7, 8, 9] == trainer.started
    assert ("time_breakdown", 3) == (event["key"], event["metadata"]["iterations"])
    assert 0.5 == pytest.approx(event["value"]["data"], abs=0.01)  # `next` of the batch is data too
    assert not trainer.phases.on


def test_an_engine_without_phases_prints_no_breakdown(case_content: dict, clock: Clock) -> None:
    trainer = Synchronous(clock, [])
    trainer.phases = None

    assert [] == profiled(trainer, small_case(case_content, warmup=2, measured=5))
    assert [] == trainer.started
