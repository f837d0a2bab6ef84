"""Files in the page cache: dropped, read, counted; on this machine's real file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frameworks.common.page_cache import Span, bytes_read, drop, file_system, resident_share, warm

MIB = 1 << 20


@pytest.fixture
def spans(tmp_path: Path) -> list[Span]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MIB + 100))
    if file_system(str(path)) in ("tmpfs", "ramfs", "overlay"):
        pytest.skip(f"a {file_system(str(path))} has no page cache of its own to drop")
    return [Span(str(path), 10, 8 * MIB + 100)]


def test_a_dropped_file_is_not_resident_and_a_read_one_is(spans: list[Span]) -> None:
    """The file was just written, so its pages are dirty, and the kernel drops only clean ones."""
    assert resident_share(spans) == 1
    drop(spans)
    assert resident_share(spans) == 0
    warm(spans)
    assert resident_share(spans) == 1


def test_a_part_of_a_file_is_dropped(spans: list[Span]) -> None:
    drop([spans[0]._replace(end=4 * MIB)])
    assert resident_share(spans) == pytest.approx(0.5, abs=0.01)


def test_no_span_has_no_share() -> None:
    assert resident_share([]) is None


def test_bytes_are_counted_by_calls(spans: list[Span]) -> None:
    before = bytes_read([os.getpid()])
    warm(spans)
    after = bytes_read([os.getpid()])
    assert before is not None
    assert after is not None
    assert after.calls - before.calls >= spans[0].end - spans[0].begin
    assert bytes_read([2**30]) is None


def test_the_file_system_is_the_one_that_holds_the_path() -> None:
    assert "proc" == file_system("/proc/self/status")
    assert file_system("/") is not None
