"""Readings of the machine: where they are taken, whose they are, and that a missing one stops nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from run_folders import make_case

from dlperf.results.sentinels import SENTINELS_NAME, Reading, read_sentinels
from dlperf.running.sentinel import BlockWatch, reading

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from dlperf.plan.case import Case


class Clock:
    """A machine that is read as 1, 2, 3, ..."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Reading:
        self.count += 1
        return Reading(matmul_flops_per_second=self.count, copy_bytes_per_second=1)


def two_cells() -> list[Case]:
    """Two versions of one cell and one of another."""
    return [make_case(version="1"), make_case(version="2"), make_case(version="1", num_classes=7)]


def test_one_reading_ends_a_block_and_begins_the_next(tmp_path: Path) -> None:
    first, second, other = two_cells()
    clock = Clock()
    watch = BlockWatch([first, second, other], tmp_path, take=clock)
    for case, repeat in ((first, 1), (second, 1), (second, 2), (first, 2), (other, 1)):
        watch.entering(case, repeat)
    watch.finished()
    found = {
        key: {position: one.matmul_flops_per_second for position, one in around.items()}
        for key, around in read_sentinels(tmp_path).items()
    }
    assert found == {
        (first.case_id, 1): {"before": 1, "after": 2},
        (second.case_id, 1): {"before": 1, "after": 2},
        (first.case_id, 2): {"before": 2, "after": 3},
        (second.case_id, 2): {"before": 2, "after": 3},
        (other.case_id, 1): {"before": 3, "after": 4},
    }
    assert clock.count == 4


def test_a_machine_that_cannot_be_read_stops_no_run(tmp_path: Path) -> None:
    case = make_case()
    watch = BlockWatch([case], tmp_path, take=lambda: None)
    watch.entering(case, 1)
    watch.finished()
    assert read_sentinels(tmp_path) == {}


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    case = make_case()
    watch = BlockWatch([case], tmp_path, take=Clock())
    watch.entering(case, 1)
    with (tmp_path / SENTINELS_NAME).open("a") as stream:
        stream.write('{"schema_version": 1, "at": "2026\n')
    watch.finished()
    assert set(read_sentinels(tmp_path)[case.case_id, 1]) == {"before", "after"}


def test_this_machine_can_be_read() -> None:
    taken = reading()
    assert taken is not None
    assert taken.matmul_flops_per_second > 1e6
    assert taken.copy_bytes_per_second > 1e6


def test_a_python_that_prints_something_else_gives_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('welcome')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert reading() is None
