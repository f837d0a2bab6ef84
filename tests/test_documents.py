"""JSON files of our own: what is wrong with one is one line, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from dlperf.errors import UserError
from dlperf.files import read_document
from dlperf.model import Model

if TYPE_CHECKING:
    from pathlib import Path


class Note(Model):
    schema_version: Literal[2] = 2
    lines: int


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_text(Note(lines=3).model_dump_json())
    assert Note(lines=3) == read_document(path, Note, kind="note", remedy="write one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no note: not JSON"),
        (b"\xff", "no note: not JSON"),
        (b"[" * 100_000, "no note: not JSON"),
        (b"[]", "no note: the file: Input should be an object"),
        (b'{"lines": "3"}', "no note: lines: Input should be a valid integer"),
        (
            b'{"schema_version": 3, "more": 1}',
            "a note of schema version 3; this dlperf reads up to 2: use a newer dlperf",
        ),
        (b'{"schema_version": 1}', "a note of schema version 1; this dlperf reads up to 2: remove it"),
        (b'{"schema_version": "x", "lines": 1}', "no note: schema_version: Input should be 2"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_document(path, Note, kind="note", remedy="write one")
    assert f"{path}: {message}; write one" == str(raised.value)
