"""A case over sessions: in order, with the place where it changed, and no change made out of noise."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner, Result
from run_folders import failed, make_case, store_good_runs, write_run
from sides import scaled, side, side_case

from dlperf.cli import main
from dlperf.compare.history import History, histories, history_chart
from dlperf.compare.sets import PEAK_ANONYMOUS, SAMPLES_PER_SECOND
from dlperf.errors import UserError
from dlperf.plan.case import DataSet
from dlperf.results.store import store_run

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.compare.sets import ResultSet


def session(day: int, factor: float = 1.0, **changes: object) -> ResultSet:
    one = side_case(scaled(factor), **changes)
    runs = tuple(run.model_copy(update={"started_at": f"2026-03-{day:02}T10:00:00Z"}) for run in one.runs)
    return side(one.model_copy(update={"runs": runs}), label=f"day {day}")


def without_figure() -> ResultSet:
    one = side_case()
    runs = tuple(run.model_copy(update={"values": {"samples_per_sec": 0.0}}) for run in one.runs)
    return side(one.model_copy(update={"runs": runs}))


def history(*sides: ResultSet, by: str = "date") -> History:
    (one,) = histories(sides, "mxnet", metric=SAMPLES_PER_SECOND, by=by)  # type: ignore[arg-type]
    return one


def noisy(days: int, *, change_on: int | None = None, seed: int = 1) -> list[ResultSet]:
    stream = np.random.default_rng(seed)
    factors = np.exp(stream.normal(0, 0.004, days))
    return [
        session(day, float(factor) * (0.95 if change_on is not None and day >= change_on else 1.0))
        for day, factor in enumerate(factors, 1)
    ]


def test_sessions_stand_in_the_order_of_their_days_whatever_the_order_of_the_folders() -> None:
    points = history(session(3), session(1), session(2)).points
    assert [point.source for point in points] == ["day 1", "day 2", "day 3"]


def test_sessions_with_another_kind_of_memory_are_gaps() -> None:
    older = side(side_case(memory=6e8, peak="peak_memory_bytes"), label="older")
    (found,) = histories([session(1), older], "mxnet", metric=PEAK_ANONYMOUS, by="date")
    assert ["day 1"] == [point.source for point in found.points]
    assert [("older", "its runs have no peak anonymous memory")] == [
        (gap.source, gap.why) for gap in found.gaps
    ]


def test_versions_are_ordered_as_numbers() -> None:
    ordered = ["1.9.1", "1.9.1+cu102", "1.10.0rc1", "1.10.0", "1.10.0.post0"]
    sides = [session(day, version=version) for day, version in enumerate(reversed(ordered), 1)]
    assert [point.version for point in history(*sides, by="version").points] == ordered


def test_a_value_that_is_no_figure_is_named() -> None:
    with pytest.raises(UserError, match="a run's samples/s is 0, which is no figure"):
        history(session(1), without_figure())


def test_a_change_is_marked_where_it_happened() -> None:
    points = history(*noisy(12, change_on=7)).points
    assert [point.day[:10] for point in points if point.change is not None] == ["2026-03-07"]
    assert points[6].change == pytest.approx(0.95, abs=0.01)


def test_noise_alone_is_seldom_a_change() -> None:
    found = [len(history(*noisy(20, seed=seed)).starts) - 1 for seed in range(20)]
    assert sum(map(bool, found)) <= 2


def test_a_session_without_a_figure_is_a_gap_and_not_forgotten() -> None:
    failed = side_case((), version="1.9.2", more={"reason": "rank 0 ended with exit code 3"})
    (gap,) = history(session(1), side(failed, label="day 2")).gaps
    assert (gap.source, gap.version) == ("day 2", "1.9.2")
    assert gap.why == "crash: rank 0 ended with exit code 3"


def test_other_hardware_is_a_history_of_its_own() -> None:
    other = side_case(more={"hardware": "another"})
    found = histories([session(1), side(other)], "mxnet", metric=SAMPLES_PER_SECOND, by="date")
    assert [(one.hardware, len(one.points)) for one in found][1] == ("another", 1)


def test_a_name_of_several_cases_lists_them() -> None:
    with pytest.raises(UserError, match="differ in more than the version") as raised:
        histories([session(1), session(2, num_classes=7)], "mxnet", metric=SAMPLES_PER_SECOND, by="date")
    assert len(str(raised.value).splitlines()) == 3
    with pytest.raises(UserError, match="no case is named 'torch'"):
        histories([session(1)], "torch", metric=SAMPLES_PER_SECOND, by="date")


def test_other_data_is_another_case_and_the_same_data_elsewhere_is_not() -> None:
    faces = DataSet(
        path="/data/faces", read="warm", forms=("recordio",), images=9, classes=9, index_sha256="ab" * 32
    )
    moved, cold = faces.model_copy(update={"path": "/mnt/faces"}), faces.model_copy(update={"read": "cold"})
    found = history(session(1, data=faces), session(2, data=moved))
    assert ["day 1", "day 2"] == [point.source for point in found.points]
    assert found.title.endswith("fp32 faces warm")
    with pytest.raises(UserError, match="differ in more than the version"):
        history(session(1, data=faces), session(2, data=cold))


def test_the_chart_names_the_change_in_both_forms() -> None:
    chart = history_chart(history(*noisy(12, change_on=7)), by="date")
    assert chart[".png"].startswith(b"\x89PNG")
    texts = "".join(ET.fromstring(chart[".svg"]).itertext())  # noqa: S314 - made by ourselves a line above
    assert "2026-03-07" in texts
    assert "-5." in texts or "-4." in texts
    assert "of 12 sessions, 1 change" in chart[".svg"].decode()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["history", *map(str, arguments)])


def test_the_command_reads_folders_and_baselines(tmp_path: Path) -> None:
    for name, version in (("a", "1.9.0"), ("b", "1.9.1")):
        store_good_runs(tmp_path / "results" / name, make_case(version=version), [100.0, 101.0, 99.0])
    done = run("mxnet", tmp_path / "results", "--chart", tmp_path / "c.svg", "--by", "version")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    failing = make_case(version="1.9.2")
    store_run(write_run(tmp_path / "results" / "c", failing, outcome=failed("rank_failed")))
    lines = run("mxnet", tmp_path / "results").stdout.splitlines()
    assert lines[-2].startswith(f"no figure in {tmp_path / 'results'}, 1.9.2: crash: ")
    assert lines[0].startswith("mxnet, y1 data 1n1g b8 c100 fp32 on Example CPU 3000")
    assert lines[-1] == "changes are detected from 6 sessions on"
    assert "100.00" in lines[3]
    baseline = tmp_path / "old.json"
    baseline.write_text(session(1).model_dump_json())
    assert '"day": "2026-03-01T10:00"' in run("mxnet", baseline, "--format", "json").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--chart", "x.gif"), "must end in .png or .svg"),
        (("--metric", "samples"), "unknown metric 'samples'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("mxnet", tmp_path, *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True)
