"""A/A runs of one session and of several: how much equal sides differ, and which change counts then."""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sides import HARDWARE, scaled, side, side_case, speed

from dlperf.compare.matching import Pair
from dlperf.compare.output import as_json, cells, noise_profile_line
from dlperf.compare.sets import PEAK_ANONYMOUS, SAMPLES_PER_SECOND, CaseSamples, RunValues, Verdict
from dlperf.compare.tests import qualify
from dlperf.compare.verdicts import Settings, compare
from dlperf.errors import UserError
from dlperf.results.noise_profile import NoiseProfile, read_noise_profile

if TYPE_CHECKING:
    from pathlib import Path


NONE = NoiseProfile(dlperf_version="", sessions=())
NOISE = (0.001, 0.002, 0.004, 0.02)


def session_of(
    stream: np.random.Generator, day: str, *, levels: tuple[float, ...] = (1.0,) * 4
) -> list[CaseSamples]:
    """A/A runs of four cases, each with a noise of its own, made on `day` at these levels."""
    made = []
    for number, (noise, level) in enumerate(zip(NOISE, levels, strict=True)):
        case = side_case(100 * level * np.exp(stream.normal(0, noise, 10)), num_classes=number + 2)
        runs = [run.model_copy(update={"started_at": f"{day}T10:00:{run.repeat:02}Z"}) for run in case.runs]
        made.append(case.model_copy(update={"runs": tuple(runs)}))
    return made


@functools.cache
def qualified(*levels: float) -> NoiseProfile:
    """One session for each level of the machine."""
    stream, found = np.random.default_rng(5), NONE
    for number, level in enumerate(levels):
        cases = session_of(stream, f"2026-01-{number + 1:02}", levels=(level,) * 4)
        found = found.with_session(qualify(side(cases)))
    return found


def test_qualification_measures_false_alarms_and_a_noise_floor() -> None:
    found = qualified(1.0)
    (session,) = found.sessions
    floors = [one.noise_floor for one in session.noise if one.metric == "samples_per_sec"]
    assert (session.runs, session.cases) == (5, 4)
    assert found.false_alarms / found.splits < 0.1
    assert floors[0] < floors[3]
    assert 0.01 < floors[3] < 0.06
    assert noise_profile_line(found).startswith("qualified on 2026-01-01: ")


def test_a_noise_floor_is_found_for_the_same_cell_and_hardware_alone() -> None:
    stream = np.random.default_rng(6)
    session = qualify(side(side_case(100 * np.exp(stream.normal(0, 0.02, 10)))))
    settings = Settings(noise_profile=NONE.with_session(session))
    same = compare(side(side_case()), side(side_case(version="2")), settings=settings)
    other = compare(
        side(side_case(num_classes=7)), side(side_case(num_classes=7, version="2")), settings=settings
    )
    assert same.rows[0].noise_floor is not None
    assert same.rows[0].noise_floor.value == pytest.approx(session.noise[0].noise_floor)
    assert other.rows[0].noise_floor is None


def test_sessions_before_and_after_a_reboot_are_of_one_machine() -> None:
    found, rebooted = qualified(1.0, 1.02), "Example CPU 3000, 8 cores, 15 GiB"
    later = found.sessions[1].model_copy(
        update={
            "noise": tuple(one.model_copy(update={"hardware": rebooted}) for one in found.sessions[1].noise)
        }
    )
    moved = NoiseProfile(dlperf_version="", sessions=(found.sessions[0], later))
    assert moved.of_sessions == found.of_sessions != {}
    where = [(side_case(num_classes=2).case, rebooted)]
    assert moved.floor(where, "samples_per_sec", in_turns=False) is not None


def test_one_session_knows_nothing_of_another_and_says_so() -> None:
    found = qualified(1.0)
    assert found.of_sessions == {}
    baseline = side(side_case(num_classes=2))
    candidate = side(side_case(scaled(0.85), num_classes=2, session="friday"))
    findings = compare(baseline, candidate, settings=Settings(noise_profile=found))
    assert speed(findings).verdict is Verdict.INCONCLUSIVE
    assert any("from one session to another was not measured" in note for note in findings.notes)


def test_what_sessions_differ_by_is_no_change_of_a_framework() -> None:
    found = qualified(1.0, 1.02, 0.99, 1.01)
    baseline = side(side_case(num_classes=2))
    later = {"num_classes": 2, "session": "friday"}
    settings = Settings(noise_profile=found)
    findings = compare(baseline, side(side_case(scaled(0.97), **later)), settings=settings)
    row = speed(findings)
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.noise_floor is not None
    assert row.noise_floor.sessions == 4
    assert "(4 sessions)" in cells(row)[7]
    assert "is known for 3 of 3 findings, from 4 sessions of A/A runs" in "\n".join(findings.notes)
    assert '"noise_floor_sessions": 4' in as_json(findings, exit_code=0)
    halved = compare(baseline, side(side_case(scaled(0.5), **later)), settings=settings)
    assert speed(halved).verdict is Verdict.SLOWER


def test_of_two_frameworks_both_must_have_been_run_in_several_sessions() -> None:
    found = qualified(1.0, 1.02, 0.99, 1.01)
    cases = [(side_case(num_classes=2, framework=name).case, HARDWARE) for name in ("mxnet", "pytorch")]
    one = found.floor(cases[:1], "samples_per_sec", in_turns=False)
    both = found.floor(cases, "samples_per_sec", in_turns=False)
    assert one is not None
    assert both is not None
    assert (one.sessions, both.sessions) == (4, 0)


def test_sides_that_were_run_in_turns_are_not_held_against_sessions() -> None:
    settings = Settings(noise_profile=qualified(1.0, 1.02, 0.99, 1.01))
    sides = side(side_case(num_classes=2)), side(side_case(scaled(0.97), num_classes=2, version="2"))
    findings = compare(*sides, settings=settings)
    assert speed(findings).verdict is Verdict.SLOWER
    assert not any("session" in note for note in findings.notes)


def test_the_floor_of_sessions_is_the_t_interval_of_a_difference_of_two() -> None:
    levels = (1.0, 1.02, 0.99, 1.01)
    found = qualified(*levels)
    pair = Pair(baseline=side_case(num_classes=2), candidate=side_case(num_classes=2), differences=())
    floor = Settings(noise_profile=found).noise_floor(pair, SAMPLES_PER_SECOND, in_turns=False)
    half = 3.182 * math.sqrt(2) * float(np.std(np.log(levels), ddof=1))  # t(0.975) of 3 degrees
    assert floor is not None
    assert floor.value == pytest.approx(math.expm1(half), rel=0.1)
    memory = Settings(noise_profile=found).noise_floor(pair, PEAK_ANONYMOUS, in_turns=False)
    assert memory is not None
    assert memory.value == pytest.approx(0.0)


def test_of_100_pairs_of_sessions_without_a_change_5_at_most_exceed_the_floor() -> None:
    stream = np.random.default_rng(8)
    exceeded = 0
    for _ in range(100):
        level = np.exp(stream.normal(0, 0.02, 5))  # of the machine, the same for all cases
        found = NONE
        for number in range(3):
            cases = [
                case_at(100 * level[number] * np.exp(stream.normal(0, 0.003, 10)), classes, number)
                for classes in (2, 3)
            ]
            found = found.with_session(qualify(side(cases), splits=1))
        floor = max(one.value for one in found.of_sessions.values())
        exceeded += abs(level[3] / level[4] - 1) > floor
    assert exceeded <= 8  # 5 expected of a floor that knows the variance; 8 is its 95th percentile


def case_at(rates: np.ndarray, classes: int, number: int) -> CaseSamples:
    case = side_case(num_classes=classes)
    runs = [
        RunValues(
            repeat=repeat,
            started_at=f"2026-01-{number + 1:02}T10:00:{repeat:02}Z",
            values={"samples_per_sec": float(rate)},
        )
        for repeat, rate in enumerate(rates, 1)
    ]
    return case.model_copy(update={"runs": tuple(runs)})


def test_a_session_that_is_counted_again_takes_its_own_place() -> None:
    first = qualified(1.0, 1.1)
    again = first.with_session(first.sessions[0])
    assert first.sessions == again.sessions
    assert "qualified 2026-01-01 to 2026-01-02 in 2 sessions" in noise_profile_line(again)


def test_too_few_runs_qualify_nothing() -> None:
    with pytest.raises(UserError, match="no case has 8 good runs"):
        qualify(side(side_case()))


def test_a_value_that_is_no_figure_is_named() -> None:
    runs = [case_at(np.full(10, 100.0), 2, 0), case_at(np.zeros(10), 3, 0)]
    with pytest.raises(UserError, match="a run's samples/s is 0, which is no figure"):
        qualify(side(runs))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 1}', "of schema version 1; this dlperf reads up to 2: remove it"),
        ('{"schema_version": 3}', "of schema version 3; this dlperf reads up to 2: use a newer dlperf"),
        ('{"schema_version": 2}', "no qualification: dlperf_version: Field required"),
        ("[]", "no qualification: the file"),
        ("{", "no qualification: not JSON"),
    ],
)
def test_a_file_that_is_no_qualification_of_this_dlperf_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "qualification.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_noise_profile(path)


def test_a_level_of_a_qualification_is_above_0(tmp_path: Path) -> None:
    """Its logarithm is taken."""
    path = tmp_path / "qualification.json"
    path.write_text(re.sub(r'"level":[0-9.]+', '"level":0.0', qualified(1.0).model_dump_json(), count=1))
    with pytest.raises(UserError, match=r"noise\.0\.level: Input should be greater than 0"):
        read_noise_profile(path)
