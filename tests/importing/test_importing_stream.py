"""Logs out of files, compressed files and archives, in constant memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest
import zstandard
from log_makers import DIALECTS, parse

from dlperf.errors import UserError
from dlperf.importing import archives
from dlperf.importing import archives as stream
from dlperf.importing.archives import Log, open_logs, open_stream
from dlperf.importing.reader import LogReader

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "".join(f"train: iter {step}, loss 44.1, throughput: 12.500\n" for step in range(50)).encode()


def records_of(path: Path) -> dict[str, int]:
    """How many records each log in the file has."""
    counts = {}
    for log in open_logs(path):
        counts[log.name.removeprefix(str(path))] = sum(
            map(len, LogReader(log, dialects=list(DIALECTS.values())))
        )
    return counts


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress, bytes])
def test_a_compressed_file_is_read_by_its_content(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(pack(TEXT))
    assert {"": 50} == records_of(path)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_pieces_packed_one_behind_the_other_are_one_log(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(pack(TEXT[:500]) + pack(TEXT[500:]))
    assert {"": 50} == records_of(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress, bytes])
def test_a_tar_archive_gives_its_members(pack: type[bytes], tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in (("1n1g/a.log", TEXT), ("1n1g/b.log.gz", gzip.compress(TEXT))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("a folder"))
    path = tmp_path / "logs.tar.something"
    path.write_bytes(pack(made.getvalue()))
    assert {"!1n1g/a.log": 50, "!1n1g/b.log.gz": 50, "!a folder": 0} == records_of(path)


def test_a_zip_archive_gives_its_members(tmp_path: Path) -> None:
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1n1g/a.log", TEXT)
        archive.writestr("1n1g/b.log.gz", gzip.compress(TEXT))
        archive.mkdir("empty")
    assert {"!1n1g/a.log": 50, "!1n1g/b.log.gz": 50} == records_of(path)


def test_nothing_of_an_archive_is_written_to_disk(tmp_path: Path) -> None:
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside.log", TEXT)
        archive.writestr("/etc/outside.log", TEXT)
    assert 2 == len(records_of(path))
    assert ["logs.zip"] == [found.name for found in tmp_path.rglob("*")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT)[:20] + b"junk" * 20, "damaged compressed data"),
        (b"\x28\xb5\x2f\xfd" + b"junk" * 20, "damaged compressed data"),
        (b"PK\x05\x06" + b"\0" * 18, None),
    ],
    ids=["gzip", "zstd", "zip"],
)
def test_damaged_files_are_named(content: bytes, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(content)
    if message is None:  # an empty zip archive holds nothing
        assert {} == records_of(path)
        return
    with pytest.raises(UserError, match=rf"a\.log: {message}"):
        records_of(path)


def a_tar(*members: tuple[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_a_zip_member_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.log", TEXT)
    path = tmp_path / "logs.zip"
    path.write_bytes(made.getvalue().replace(b"iter 7,", b"iter 8,"))
    with pytest.raises(UserError, match=r"logs\.zip!a\.log: damaged compressed data: Bad CRC-32"):
        records_of(path)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_tar_archive_that_stops_within_a_member_is_named(kept: float, tmp_path: Path) -> None:
    """At its beginning, and where some of its records were read already."""
    path = tmp_path / "logs.tar"
    long = TEXT * 100
    path.write_bytes(a_tar(("a.log", long))[: int(kept * len(long))])
    with pytest.raises(UserError, match=r"damaged (tar )?archive: unexpected end of data"):
        records_of(path)


@pytest.mark.parametrize(("size", "message"), [(1536, "bad checksum"), (100, "truncated header")])
def test_a_damaged_header_within_a_tar_archive_is_not_its_end(
    size: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "logs.tar"
    first = a_tar(("a.log", b"x" * 512))[:1024]
    path.write_bytes(first + b"junk".ljust(size, b"\xff"))
    with pytest.raises(UserError, match=f"damaged tar archive: {message}"):
        records_of(path)


def test_names_that_nobody_can_print_are_shown_printably(tmp_path: Path) -> None:
    path = tmp_path / "logs.tar"
    path.write_bytes(a_tar(("red\x1b[31m\u202e.log", TEXT)))
    assert {"!red\ufffd[31m\ufffd.log": 50} == records_of(path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_RATIO", 100)
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 1 << 20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\n" * (32 << 20)))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        records_of(path)


def test_a_bomb_within_an_archive_counts_against_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer alone stays below the ratio; together the zip of some kilobytes gives 64 MiB."""
    monkeypatch.setattr(archives, "LARGEST_RATIO", 1100)
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 1 << 20)
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.log.gz", gzip.compress(TEXT))
        archive.writestr("b.log.gz", gzip.compress(b"\n" * (64 << 20)))
    a, *_ = open_logs(path)
    assert b"train: iter" in a.start()
    with pytest.raises(UserError, match=r"logs\.zip!b\.log\.gz: unpacks to more than 1100 times its size"):
        records_of(path)


def test_what_a_file_unpacks_to_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs.tar"
    path.write_bytes(a_tar(("a.log", TEXT), ("b.log", TEXT)))
    assert 2 == len(records_of(path))
    monkeypatch.setattr(archives, "MOST_UNPACKED_BYTES", len(TEXT) + 1)
    with pytest.raises(UserError, match=r"logs\.tar!b\.log: unpacks to more than 0 GiB; unpack it"):
        records_of(path)


@pytest.mark.parametrize("member", ["inner.tar", "inner.zip", "inner.tar.gz"])
def test_an_archive_within_an_archive_is_named(member: str, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as inner:
        inner.writestr("a.log", TEXT)
    content = {"inner.tar": a_tar(("a.log", TEXT)), "inner.zip": made.getvalue()}
    content["inner.tar.gz"] = gzip.compress(content["inner.tar"])
    path = tmp_path / "logs.tar"
    path.write_bytes(a_tar((member, content[member])))
    with pytest.raises(UserError, match=rf"logs\.tar!{member}: an archive within an archive; unpack it"):
        records_of(path)


def test_an_archive_through_a_pipe_is_recognised_however_it_arrives() -> None:
    read, write = os.pipe()
    content = a_tar(("a.log", TEXT))

    def trickle() -> None:
        with os.fdopen(write, "wb", buffering=0) as stream:
            for start in range(0, len(content), 100):
                stream.write(content[start : start + 100])

    writer = threading.Thread(target=trickle)
    writer.start()
    with os.fdopen(read, "rb") as stream:
        assert ["<stdin>!a.log"] == [log.name for log in open_stream("<stdin>", stream)]
    writer.join()


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.log: cannot be read: No such file"):
        records_of(tmp_path / "nothing.log")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        records_of(tmp_path)


def test_a_line_without_end_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar that never ends its line: it is cut where it goes back to the line's beginning."""
    monkeypatch.setattr(stream, "LONGEST_LINE", 4096)
    bar = b"  12%|##        | 120/1000 [00:12<01:22]\r" * 20
    data = b"".join(bar + line + b"\r" for line in TEXT.splitlines())
    log = Log(name="a.log", stream=io.BytesIO(data), chunk_bytes=512)
    largest = 0
    for part, _is_last in log.chunks():
        largest = max(largest, len(part))
    assert largest < 4096 + 512
    reader = LogReader(
        Log(name="a.log", stream=io.BytesIO(data), chunk_bytes=512), dialects=[DIALECTS["oneflow_face"]]
    )
    assert 50 == sum(map(len, reader))
    assert 1 == reader.lines


def test_utf_16_as_a_windows_shell_redirects_it() -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        mark = "\ufeff".encode(encoding)
        assert 50 == len(parse(mark + TEXT.decode().encode(encoding))[1])


def test_standard_input_may_be_compressed() -> None:
    (log,) = open_stream("<stdin>", io.BytesIO(gzip.compress(TEXT)))
    assert 50 == sum(map(len, LogReader(log, dialects=list(DIALECTS.values()))))


def test_line_numbers_count_from_1_over_chunks() -> None:
    log = Log(name="a.log", stream=io.BytesIO(b"\n\n" + TEXT), chunk_bytes=100)
    reader = LogReader(log, dialects=list(DIALECTS.values()))
    assert list(range(3, 53)) == [record.line for batch in reader for record in batch.records()]
    assert 52 == reader.lines
