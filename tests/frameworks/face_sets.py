"""Small data sets for tests of what reads them, and damage done to them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from dlperf.data.dataset import describe
from dlperf.data.make import make
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


def images_of(folder: Path) -> list[tuple[int, bytes]]:
    """Label and JPEG of every image, read by hand from the RecordIO of `made`."""
    content = (folder / "train.rec").read_bytes()
    found = []
    for line in (folder / "train.idx").read_text().splitlines():
        offset = int(line.split("\t")[1])
        _, length, flag, label = struct.unpack_from("<IIIf", content, offset)
        assert 0 == flag
        found.append((int(label), content[offset + 32 : offset + 8 + length]))
    return found


def with_persons(source: Path, target: Path) -> None:
    """The RecordIO of `source` in InsightFace's order: a range first, a record per person last."""
    images = images_of(source)
    behind = len(images) + 1
    no_image = [_record(0, b"", float(behind), float(behind + CLASSES))]
    persons = [_record(behind + person, b"", 1.0, 2.0) for person in range(CLASSES)]
    records = [
        *no_image,
        *(_record(key, jpeg, label) for key, (label, jpeg) in enumerate(images, 1)),
        *persons,
    ]
    offsets = [sum(map(len, records[:key])) for key in range(len(records))]
    target.mkdir()
    (target / "train.rec").write_bytes(b"".join(records))
    (target / "train.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)))
    (target / "property").write_bytes((source / "property").read_bytes())


def _record(key: int, jpeg: bytes, *labels: float) -> bytes:
    several = labels if len(labels) > 1 else ()
    header = struct.pack("<IfQQ", len(several), 0.0 if several else labels[0], key, 0)
    content = header + struct.pack(f"<{len(several)}f", *several) + jpeg
    return struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)


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
