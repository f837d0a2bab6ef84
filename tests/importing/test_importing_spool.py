"""Rows go in and come back, whether they fit into memory or not."""

from __future__ import annotations

import numpy as np
import pytest

from dlperf.importing.columnar import spool
from dlperf.importing.columnar.spool import Spool

DTYPE = np.dtype([("number", "<i8"), ("flag", "?")])


def rows(start: int, stop: int) -> np.ndarray:
    made = np.zeros(stop - start, DTYPE)
    made["number"] = np.arange(start, stop)
    return made


@pytest.mark.parametrize("most_bytes", [1 << 20, 16])
def test_rows_come_back_in_order_as_often_as_asked_and_more_may_follow(
    most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_MOST_BYTES_IN_MEMORY", most_bytes)
    monkeypatch.setattr(spool, "_ROWS_AT_ONCE", 7)
    kept = Spool(DTYPE)
    for start in (0, 10, 20):
        kept.append(rows(start, start + 10))
        numbers = [number for chunk in kept.chunks() for number in chunk["number"].tolist()]
        assert list(range(start + 10)) == numbers
    assert 30 == len(kept)
    assert list(range(5, 25)) == [number for part in kept.chunks(5, 25) for number in part["number"].tolist()]


def test_an_empty_spool_gives_nothing() -> None:
    assert [] == list(Spool(DTYPE).chunks())
