"""How a run read its data set: from the events of its ranks to `reading` of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from run_folders import log_text, make_case, write_run

from dlperf.logs.events import event_line
from dlperf.plan.case import Case, DataSet, Topology
from dlperf.results.extract import extract

if TYPE_CHECKING:
    from pathlib import Path

    from dlperf.results.schema import DataReading

CASE = make_case(
    data=DataSet(
        path="/data/faces", read="warm", forms=("recordio",), images=9, classes=9, index_sha256="ab" * 32
    ),
    topology=Topology(nodes=1, devices_per_node=2),
)
PREPARED = {"form": "recordio", "bytes": 100, "resident_share": 1.0, "file_system": "ext4"}
WINDOW = {"seconds": 4.0, "wait_seconds": 1.0, "read_bytes": 4000, "storage_bytes": 400}


def reading(folder: Path, *ranks: list[tuple[str, Any, str | None]], case: Case = CASE) -> DataReading | None:
    """The result's `reading`, where each rank prints these events: key, value, kind of the window."""
    written = write_run(folder, case)
    for number, events in enumerate(ranks):
        lines = [
            event_line(key, value, {"rank": number, **({"kind": kind} if kind else {})})
            for key, value, kind in events
        ]
        text = log_text(case, seconds=(1.0,) * 6, rank=number) + "".join(lines)
        (written / "logs" / f"rank{number}.log").write_text(text)
    return extract(written).result.reading


def events(prepared: Any, window: Any) -> list[tuple[str, Any, str | None]]:
    return [("data_set", prepared, None), ("reading", window, "train")]


def test_the_rank_that_waited_most_decides_and_rates_add_up(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        events(PREPARED, WINDOW),
        events({**PREPARED, "bytes": 300, "resident_share": 0.5}, {**WINDOW, "wait_seconds": 3.0}),
    )
    assert found is not None
    assert ("recordio", "ext4") == (found.form, found.file_system)
    assert (0.75, 2000.0, 200.0) == (
        found.wait_share,
        found.bytes_per_second,
        found.storage_bytes_per_second,
    )
    assert 0.625 == found.resident_share


def test_warm_up_does_not_count_and_the_last_run_of_a_log_does(tmp_path: Path) -> None:
    early = [("reading", {**WINDOW, "wait_seconds": 4.0}, "train")]
    warmup = [("reading", {**WINDOW, "wait_seconds": 4.0}, "warmup")]
    found = reading(tmp_path, [*early, *events(PREPARED, WINDOW), *warmup], events(PREPARED, WINDOW))
    assert found is not None
    assert 0.25 == found.wait_share


def test_what_one_rank_does_not_know_is_not_known(tmp_path: Path) -> None:
    unknown = {**WINDOW, "read_bytes": None, "storage_bytes": None}
    found = reading(tmp_path, events(PREPARED, WINDOW), events({**PREPARED, "resident_share": None}, unknown))
    assert found is not None
    assert (None, None, None) == (
        found.resident_share,
        found.bytes_per_second,
        found.storage_bytes_per_second,
    )
    assert 0.25 == found.wait_share


@pytest.mark.parametrize("window", [None, [], {}, {"seconds": 0}, {"seconds": "4"}, {"seconds": -1.0}])
def test_a_window_that_says_nothing_is_not_measured(tmp_path: Path, window: Any) -> None:
    found = reading(tmp_path, events(PREPARED, window), events(PREPARED, window))
    assert found is not None
    assert (None, None, 1.0) == (found.wait_share, found.bytes_per_second, found.resident_share)


def test_without_events_or_a_data_set_there_is_no_reading_and_nothing_is_written(tmp_path: Path) -> None:
    assert reading(tmp_path / "silent") is None
    synthetic = CASE.changed(data=None)
    both = events(PREPARED, WINDOW)
    assert reading(tmp_path / "synthetic", both, both, case=synthetic) is None
    result = extract(next((tmp_path / "synthetic" / "runs").glob("*/r1"))).result
    assert "reading" not in result.model_dump(mode="json")
