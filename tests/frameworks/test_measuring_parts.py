"""What the measuring program does without PyTorch: its rounds, and its files on the disk."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.measuring.disks import disk_rates, files_below, limits, read_rate
from frameworks.measuring.rounds import rounds_of_links, rounds_of_nodes


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_pair_meets_once_and_no_node_twice_in_a_round(nodes: int, parallel: int) -> None:
    rounds = rounds_of_links(nodes, parallel=parallel)
    assert sorted(pair for pairs in rounds for pair in pairs) == list(combinations(range(nodes), 2))
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy)) <= max(2, parallel)


def test_all_nodes_at_once_need_as_few_rounds_as_there_can_be() -> None:
    assert [1, 3, 5, 7, 7] == [len(rounds_of_links(nodes, parallel=nodes)) for nodes in (2, 4, 5, 7, 8)]


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_node_has_its_turn(nodes: int, parallel: int) -> None:
    rounds = rounds_of_nodes(nodes, parallel=parallel)
    assert [(node,) for node in range(nodes)] == [each for busy in rounds for each in busy]
    assert max(map(len, rounds)) <= parallel


def test_the_file_on_the_disk_is_removed(tmp_path: Path) -> None:
    written, read = disk_rates(tmp_path, most_bytes=8 << 20, seconds=5)
    assert written > 0 < read
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:  # stands in for a disk that fills up while the file is written
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk_rates(tmp_path, most_bytes=8 << 20, seconds=5)
    assert not list(tmp_path.iterdir())


def test_data_are_read_up_to_the_bound_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "second").write_bytes(b"x" * 5000)
    (tmp_path / "first").write_bytes(b"x" * 5000)
    (tmp_path / "a-link").symlink_to("/etc/passwd")
    assert [tmp_path / "first"] == files_below(tmp_path, most_bytes=5000)
    files = files_below(tmp_path, most_bytes=1 << 20)
    assert [tmp_path / "first", tmp_path / "b" / "second"] == files
    assert read_rate(files, most_bytes=1 << 20, seconds=5) > 0
    with pytest.raises(OSError, match="nothing to read"):
        read_rate([], most_bytes=1 << 20, seconds=5)


def test_limits_are_those_of_this_process(tmp_path: Path) -> None:
    found = limits(tmp_path, None)
    assert found["shared_memory_bytes"] > 0
    assert (None, True) == (found["data_file_system"], isinstance(found["file_system"], str))
