"""Files of our own: written whole or not at all; what is wrong with one is one line, with what to do."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from dlperf.errors import UserError
from dlperf.files import read_document, write_atomically, write_document
from dlperf.model import Model

ROOT = Path(__file__).resolve().parents[1]


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


def test_a_document_and_then_its_folder_are_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that loses what was not flushed cannot be had in a test: the calls are recorded in its place.
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def recorded_replace(old: str, new: Path) -> None:
        replace(old, new)
        calls.append(f"named {new.name}")

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_document(tmp_path / "new" / "note.json", Note(lines=3))
    assert ["file", "named note.json", "folder"] == calls


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_atomically(path, "text, no bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    write_atomically(tmp_path / "report.md", b"x")
    assert (tmp_path / "report.md").stat().st_mode & 0o777 == 0o644


# Forks a writer for each path that it is told, and says its process.
WRITERS = """
import os, sys
from pathlib import Path
from dlperf.files import write_atomically
for path in sys.stdin:
    writer = os.fork()
    while not writer:
        write_atomically(Path(path.strip()), b"a" * 100_000)
        write_atomically(Path(path.strip()), b"b" * 3_000_000)
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("gone", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITERS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in range(10):
            path = tmp_path / f"result{number}.json"
            print(path, file=program.stdin, flush=True)
            writer = int(program.stdout.readline())
            deadline = time.monotonic() + 30
            while not path.exists() and time.monotonic() < deadline:
                os.sched_yield()
            os.kill(writer, signal.SIGKILL)
            assert "gone\n" == program.stdout.readline()
            content = path.read_bytes()
            assert (content[:1], len(content)) in {(b"a", 100_000), (b"b", 3_000_000)}
            assert content == content[:1] * len(content)
        program.stdin.close()


def test_links_are_followed_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    link, target, pipe = tmp_path / "link", tmp_path / "target", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert (True, "new") == (link.is_symlink(), target.read_text())
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"new")
    assert (True, b"new") == (pipe.is_fifo(), os.read(reader, 10))
    os.close(reader)
