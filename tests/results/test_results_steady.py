"""Steady state: what is flat stays, what moves is cut or has no number, pauses stand apart."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import at_most
from run_folders import make_case, write_run

from dlperf.plan.case import Measure
from dlperf.results.extract import extract
from dlperf.results.schema import RunResult, Status
from dlperf.statistics.changepoint import FEWEST_JUDGED, Shape, classify
from frameworks.common.events import START, EventLog

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.results.extract import Extracted


def noise(count: int, *, seed: int = 1, cv: float = 0.03) -> np.ndarray:
    """Log durations of iterations that correlate with their neighbours by 0.3."""
    stream = np.random.default_rng(seed)
    shocks = stream.normal(0, cv * np.sqrt(1 - 0.3**2), count)
    series = np.zeros(count)
    for place in range(1, count):
        series[place] = 0.3 * series[place - 1] + shocks[place]
    return series


def series(*stretches: tuple[int, float], seed: int = 1) -> list[float]:
    """Durations: so many iterations at so many seconds, with noise."""
    levels = np.concatenate([np.full(count, level) for count, level in stretches])
    return [float(each) for each in levels * np.exp(noise(len(levels), seed=seed))]


@pytest.mark.parametrize(
    ("stretches", "shape", "first"),
    [
        ([(100, 0.1)], Shape.FLAT, 0),
        ([(30, 0.13), (70, 0.1)], Shape.WARM_UP, 30),
        ([(30, 0.1), (70, 0.13)], Shape.SLOWDOWN, 30),
        ([(70, 0.13), (30, 0.1)], Shape.WARM_UP, None),
        ([(70, 0.1), (30, 0.13)], Shape.SLOWDOWN, None),
        ([(35, 0.1), (35, 0.12), (35, 0.15)], Shape.DRIFTING, None),
        ([(35, 0.15), (35, 0.1), (35, 0.15)], Shape.NONE, None),
        ([(20, 0.15), (20, 0.2), (100, 0.1)], Shape.WARM_UP, 40),
    ],
)
def test_every_shape_is_recognised(
    stretches: list[tuple[int, float]], shape: Shape, first: int | None
) -> None:
    segments = classify(series(*stretches))
    assert segments.shape is shape
    if first is None:
        assert segments.first is None
    else:
        assert segments.first == pytest.approx(first, abs=3)


def test_flat_runs_are_called_flat() -> None:
    shapes = [classify(series((100, 0.1), seed=seed)).shape for seed in range(200)]
    assert shapes.count(Shape.FLAT) >= 198


def test_a_change_below_2_percent_is_none() -> None:
    levels = [1.0] * 50 + [1.015] * 50
    segments = classify(
        [level * float(np.exp(each)) for level, each in zip(levels, noise(100, cv=0.001), strict=True)]
    )
    assert segments.shape is Shape.FLAT


def test_a_few_slow_iterations_are_no_stretch_and_very_slow_ones_are_pauses() -> None:
    durations = series((100, 0.1))
    for place in (20, 50, 51):
        durations[place] = 0.4
    assert classify(durations).shape is Shape.FLAT
    durations[50] = 3.0
    assert classify(durations).pauses == (50,)


def test_a_clock_that_ticks_coarsely_makes_no_stretches() -> None:
    assert classify([0.1] * 100).shape is Shape.FLAT
    assert classify([0.1, 0.1, 0.1, 0.101] * 25).shape is Shape.FLAT


def test_a_long_series_is_judged_in_seconds() -> None:
    segments = classify(series((20_000, 0.13), (40_000, 0.1)))
    assert segments.shape is Shape.WARM_UP
    assert segments.first == pytest.approx(20_000, abs=60)


@settings(max_examples=at_most(30))
@given(st.lists(st.floats(min_value=1e-4, max_value=1e3), min_size=FEWEST_JUDGED, max_size=150))
def test_whatever_comes_a_steady_stretch_covers_half_of_the_time(seconds: list[float]) -> None:
    segments = classify(seconds)
    kept = [place for place in range(len(seconds)) if place not in segments.pauses]
    if segments.first is not None:
        steady = [seconds[place] for place in kept if place >= segments.first]
        assert len(steady) >= 30
        assert sum(steady) * 2 >= sum(seconds[place] for place in kept) * (1 - 1e-9)
    assert (segments.shape is Shape.FLAT) == (len(segments.levels) == 1)


def extracted(folder: Path, durations: list[float]) -> Extracted:
    case = make_case(measure=Measure(warmup_iterations=2, measured_iterations=len(durations)))
    return extract(write_run(folder, case, seconds=(9.0, 9.0, *durations)))


def test_a_flat_run_counts_every_measured_step(tmp_path: Path) -> None:
    durations = series((100, 0.1))
    made = extracted(tmp_path, durations)
    figures = made.result.figures
    assert made.result.status is Status.OK
    assert made.result.reason is None
    assert figures is not None
    assert (figures.accepted_steps, figures.dropped_steps) == (100, 2)
    assert figures.samples_per_sec == pytest.approx(800 / sum(durations))
    assert made.result.steadiness is not None
    assert made.result.steadiness.first_step == 2


def test_a_warm_up_is_left_out_of_the_rate_and_said(tmp_path: Path) -> None:
    durations = series((30, 0.2), (70, 0.1))
    made = extracted(tmp_path, durations)
    figures = made.result.figures
    assert figures is not None
    assert figures.accepted_steps == 70
    assert figures.samples_per_sec == pytest.approx(560 / sum(durations[30:]))
    assert made.result.reason == "warm-up: counted from step 32"
    assert [step.kind for step in made.steps].count("unsteady") == 30


def test_pauses_are_in_no_rate_and_in_the_reason(tmp_path: Path) -> None:
    durations = series((100, 0.1))
    durations[40] = 2.0
    made = extracted(tmp_path, durations)
    figures = made.result.figures
    assert figures is not None
    assert figures.samples_per_sec == pytest.approx(99 * 8 / (sum(durations) - 2.0))
    assert made.result.reason == "flat; 1 pause of 2 s in all, in no rate"
    assert made.steps[42].kind == "pause"


@pytest.mark.parametrize(
    ("stretches", "status"),
    [
        ([(70, 0.13), (30, 0.1)], Status.INSUFFICIENT),
        ([(70, 0.1), (30, 0.13)], Status.UNSTEADY),
        ([(35, 0.15), (35, 0.1), (35, 0.15)], Status.UNSTEADY),
    ],
)
def test_a_run_without_a_steady_state_has_no_number(
    tmp_path: Path, stretches: list[tuple[int, float]], status: Status
) -> None:
    result = extracted(tmp_path, series(*stretches)).result
    assert result.status is status
    assert result.figures is None
    assert result.reason is not None
    assert "no steady state" in result.reason


def test_a_short_run_is_taken_as_it_is_and_its_file_says_nothing_new(tmp_path: Path) -> None:
    durations = [0.2] * 20 + [0.1] * 39
    made = extracted(tmp_path, durations)
    assert made.result.status is Status.OK
    assert made.result.figures is not None
    assert made.result.figures.accepted_steps == 59
    assert "steadiness" not in json.loads(made.result.model_dump_json())


def test_a_result_with_a_course_is_read_back(tmp_path: Path) -> None:
    result = extracted(tmp_path, series((30, 0.2), (70, 0.1))).result
    assert RunResult.model_validate_json(result.model_dump_json()) == result


def averaged(folder: Path, lines: list[tuple[int, float]], *, measured: int) -> Extracted:
    """Of a log whose lines cover so many iterations, each at so many seconds."""
    case = make_case(measure=Measure(warmup_iterations=0, measured_iterations=measured))
    run, stream, step = write_run(folder, case, seconds=()), io.StringIO(), -1
    log = EventLog(0, stream)
    log.event("run_start", event_type=START)
    for iterations, seconds in lines:
        step += iterations
        log.step(step, 8 * iterations, seconds * iterations, 1.0, "train", iterations=iterations)
    (run / "logs" / "rank0.log").write_text(stream.getvalue())
    return extract(run)


def test_lines_that_cover_different_numbers_of_iterations_are_one_speed(tmp_path: Path) -> None:
    lines = [(5 if place < 50 else 20, seconds) for place, seconds in enumerate(series((100, 0.1)))]
    made = averaged(tmp_path, lines, measured=1250)
    assert made.result.status is Status.OK
    assert made.result.steadiness is not None
    assert (made.result.steadiness.shape, made.result.figures.accepted_steps) == ("flat", 1250)
    assert made.rule.endswith("each is the program's own average over 20 iterations")
    seconds = sum(iterations * each for iterations, each in lines)
    assert made.result.figures.samples_per_sec == pytest.approx(8 * 1250 / seconds)


def test_few_coarse_lines_are_not_judged(tmp_path: Path) -> None:
    lines = [(50, seconds) for seconds in series((5, 0.2), (5, 0.1))]
    made = averaged(tmp_path, lines, measured=500)
    assert (Status.OK, None) == (made.result.status, made.result.steadiness)


def test_iterations_are_counted_and_not_lines(tmp_path: Path) -> None:
    made = averaged(tmp_path, [(50, 0.1)] * 9, measured=500)
    assert made.result.status is Status.INCOMPLETE
    assert "450 of 500 measured iterations are in the log" in made.result.reason
