"""Small data sets for tests of what reads them, and damage done to them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from dlperf.data.dataset import describe
from dlperf.data.make import make
from dlperf.data.recordio import RecordWriter, read_records
from dlperf.data.records import RecordFile
from dlperf.plan.case import DataSet, ReadMode

CLASSES = 10


def made(folder: Path, *, images: int = 50, parts: int = 2, read: ReadMode = "warm") -> DataSet:
    """A data set in both forms, as a case describes it."""
    make(folder, images=images, classes=CLASSES, seed=1, parts=parts, quality=90)
    return DataSet(
        path=str(folder),
        read=read,
        forms=("recordio", "ofrecord"),
        images=images,
        classes=CLASSES,
        index_sha256="0" * 64,
    )


def with_persons(source: Path, target: Path) -> None:
    """The RecordIO of `source` in InsightFace's order: a range first, a record per person last."""
    target.mkdir()
    with RecordFile(source / "train.rec") as file:
        records = [(int(record.labels[0]), bytes(record.content)) for record in read_records(file)]
    behind = len(records) + 1
    with (target / "train.rec").open("wb") as images, (target / "train.idx").open("wb") as index:
        writer = RecordWriter(images, index)
        writer.write(0, (float(behind), float(behind + CLASSES)), b"")
        for key, (label, content) in enumerate(records, 1):
            writer.write(key, float(label), content)
        for person in range(CLASSES):
            writer.write(behind + person, (1.0, 2.0), b"")
    (target / "property").write_bytes((source / "property").read_bytes())


def first_byte(folder: Path, form: str, number: int) -> tuple[Path, int]:
    """The file and the first byte of image `number`, counted from 0 in the first file of that form."""
    if form == "recordio":
        lines = (folder / "train.idx").read_text().splitlines()
        return folder / "train.rec", int(lines[number].split("\t")[1])
    held = describe(folder).ofrecord
    assert held is not None
    path, offset = held.parts[0].path, 0
    content = path.read_bytes()
    for _ in range(number):
        offset += 8 + struct.unpack_from("<q", content, offset)[0]
    return path, offset


def cut(folder: Path, form: str, number: int) -> tuple[Path, int]:
    """End the file within image `number`; the file, and the first byte of the image."""
    path, offset = first_byte(folder, form, number)
    os.truncate(path, offset + 500)
    return path, offset


def overwrite(folder: Path, form: str, number: int, at: int, content: bytes) -> tuple[Path, int]:
    """Write `content` at byte `at` of the record of image `number`; the file, and the record's first byte."""
    path, offset = first_byte(folder, form, number)
    with path.open("r+b") as stream:
        stream.seek(offset + at)
        stream.write(content)
    return path, offset
