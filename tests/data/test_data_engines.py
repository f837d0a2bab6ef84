"""The engines' own readers and writers, byte for byte beside ours."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlperf.data.convert import convert
from dlperf.data.dataset import describe
from dlperf.data.make import make
from dlperf.data.ofrecord import part_name, write_images
from dlperf.data.ofrecord import read_batches as read_batches_of_part
from dlperf.data.reading import read_images
from dlperf.data.recordio import MAGIC, Index, RecordWriter, read_batches, read_record
from dlperf.data.records import Content, RecordFile

PROGRAMS = Path(__file__).parent / "programs"

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Engine = Callable[[str], Path]


def answer(python: Path, program: str, *arguments: object, stdin: Any = None) -> Any:
    done = subprocess.run(
        [python, PROGRAMS / program, *map(str, arguments)],
        input=json.dumps(stdin),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# A magic number at a multiple of 4 bytes (behind the header of 24) cuts a record, elsewhere it does not.
CONTENTS = [
    b"",
    b"x",
    b"a photograph",
    MAGIC,
    b"1234" + MAGIC + b"5678",
    MAGIC * 3 + b"z",
    b"12" + MAGIC + b"34",
    bytes(range(256)) * 5000,
]


def test_mxnet_reads_what_we_write(tmp_path: Path, engine_python: Engine) -> None:
    expected = [[key, float(key % 3), content.hex()] for key, content in enumerate(CONTENTS)]
    expected.append([len(CONTENTS), [3.0, 7.0], ""])
    with (tmp_path / "train.rec").open("wb", 0) as records, (tmp_path / "train.idx").open("wb") as index:
        writer = RecordWriter(records, index)
        writer.write(0, [label for _, label, _ in expected], contents_of(expected))
    assert expected == answer(engine_python("mxnet"), "mxnet_recordio.py", "read", tmp_path)


def test_we_read_what_mxnet_writes_and_write_the_same_bytes(tmp_path: Path, engine_python: Engine) -> None:
    written = [[key, float(key % 3), content.hex()] for key, content in enumerate(CONTENTS)]
    written.append([len(CONTENTS), [3.0, 7.0], ""])
    answer(engine_python("mxnet"), "mxnet_recordio.py", "write", tmp_path, stdin=written)
    with RecordFile(tmp_path / "train.rec") as file, Index(tmp_path / "train.idx") as index:
        batches = list(read_batches(file))
        keys, offsets = index.peek(1000)
        by_index = [read_record(file, offset) for offset in offsets]
    labels = [label if isinstance(label, list) else [label] for _, label, _ in written]
    assert [key for key, _, _ in written] == keys
    assert labels == [list(record.labels) for record in by_index]
    assert contents_of(written) == [record.content for record in by_index]
    assert contents_of(written) == [bytes(content) for batch in batches for content in batch.contents]
    assert [label[0] for label in labels] == [label for batch in batches for label in batch.labels]
    assert offsets == [offset for batch in batches for offset in batch.offsets]
    ours = tmp_path / "ours"
    ours.mkdir()
    with (ours / "train.rec").open("wb", 0) as stream, (ours / "train.idx").open("wb") as lines:
        writer = RecordWriter(stream, lines)
        writer.write(0, [label for _, label, _ in written], contents_of(written))
    assert (tmp_path / "train.rec").read_bytes() == (ours / "train.rec").read_bytes()
    assert (tmp_path / "train.idx").read_bytes() == (ours / "train.idx").read_bytes()


def contents_of(records: list[list[Any]]) -> list[bytes]:
    return [bytes.fromhex(content) for _, _, content in records]


def images_of(folder: Path) -> list[tuple[int, Content]]:
    """Label and encoded image of all images in train.rec, or else in the parts."""
    description = describe(folder)
    held = description.recordio or description.ofrecord
    assert held is not None
    batches = read_images(held, classes=description.classes)
    return [pair for batch in batches for pair in zip(batch.labels, batch.contents, strict=True)]


def decoded(folder: Path) -> list[list[Any]]:
    """Label and pixels [112, 112, 3] of each image, by Pillow."""
    return [
        [label, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))]
        for label, content in images_of(folder)
    ]


def as_insightface(source: Path, target: Path, *, persons_first: bool) -> None:
    """The images of `source`, four per person, with the range and the records of persons; two indexes."""
    images = [content for _, content in images_of(source)]
    persons = len(images) // 4
    keys = len(images) + 1
    target.mkdir()
    with (target / "train.rec").open("wb", 0) as records, (target / "train.idx").open("wb") as index:
        writer = RecordWriter(records, index)
        writer.write(0, [[keys, keys + persons]], [b""])
        ranges = [[4 * person + 1, 4 * person + 5] for person in range(persons)]
        if persons_first:
            writer.write(keys, ranges, [b""] * persons)
        writer.write(1, [number // 4 for number in range(len(images))], images)
        if not persons_first:
            writer.write(keys, ranges, [b""] * persons)
    (target / "property").write_text(f"{persons},112,112")
    lines = (target / "train.idx").read_text().splitlines(keepends=True)
    (target / "images.idx").write_text("".join(line for line in lines if 0 < int(line.split("\t")[0]) < keys))


def iterated(python: Path, folder: Path, index: str, parts: int = 1) -> list[list[Any]]:
    program = "mxnet_recordio.py"
    return [
        image
        for part in range(parts)
        for image in answer(python, program, "iterate", folder, index, part, parts)
    ]


def test_the_iterator_of_mxnet_reads_what_we_make(tmp_path: Path, engine_python: Engine) -> None:
    python = engine_python("mxnet")
    make(tmp_path / "faces", images=12, classes=3, seed=1, parts=2, quality=95)
    found = iterated(python, tmp_path / "faces", "train.idx")
    assert [label for label, _ in decoded(tmp_path / "faces")] == [label for label, _ in found]
    assert len({pixels for _, pixels in found}) == 12
    assert found == iterated(python, tmp_path / "faces", "train.idx", parts=3)


def test_the_iterator_of_mxnet_reads_an_insightface_set_only_once_it_is_rewritten(
    tmp_path: Path, engine_python: Engine
) -> None:
    """The table of docs/data.md."""
    python = engine_python("mxnet")
    make(tmp_path / "faces", images=12, classes=3, seed=1, parts=2, quality=95)
    as_insightface(tmp_path / "faces", tmp_path / "usual", persons_first=False)
    as_insightface(tmp_path / "faces", tmp_path / "reordered", persons_first=True)
    for index in ("train.idx", "images.idx"):
        with pytest.raises(AssertionError, match=r"!buf.empty\(\)"):
            iterated(python, tmp_path / "usual", index)
    convert(tmp_path / "usual", tmp_path / "plain", to="recordio", parts=None)
    expected = iterated(python, tmp_path / "plain", "train.idx")
    assert [float(number // 4) for number in range(12)] == [label for label, _ in expected]
    assert expected == iterated(python, tmp_path / "reordered", "images.idx", parts=2)


def test_the_reader_of_oneflow_reads_what_we_make_in_order(tmp_path: Path, engine_python: Engine) -> None:
    folder = tmp_path / "faces"
    make(folder, images=7, classes=7, seed=1, parts=3, quality=95)
    arguments = ("read", folder / "ofrecord" / "train", 3, 7)
    found = answer(engine_python("oneflow"), "oneflow_ofrecord.py", *arguments)
    expected = [[label, hashlib.sha256(pixels.tobytes()).hexdigest()] for label, pixels in decoded(folder)]
    assert expected == found


LABELS = (0, 1, 127, 128, 300, 2**24 - 1, 2**31 - 1, 5)


def test_the_protobuf_of_oneflow_parses_what_we_write(tmp_path: Path, engine_python: Engine) -> None:
    path = tmp_path / part_name(0)
    expected = [[label, content.hex()] for label, content in zip(LABELS, CONTENTS, strict=True)]
    with path.open("wb", 0) as stream:
        write_images(stream, list(LABELS), CONTENTS)
    assert expected == answer(engine_python("oneflow"), "oneflow_ofrecord.py", "parse", path)


def test_we_read_what_the_protobuf_of_oneflow_wrote(tmp_path: Path, engine_python: Engine) -> None:
    written = [[label, content.hex()] for label, content in zip(LABELS, CONTENTS, strict=True)]
    path = tmp_path / part_name(0)
    answer(engine_python("oneflow"), "oneflow_ofrecord.py", "write", path, stdin=written)
    with RecordFile(path) as file:
        batches = list(read_batches_of_part(file))
    assert list(LABELS) == [label for batch in batches for label in batch.labels]
    assert [bytes(content) for batch in batches for content in batch.contents] == CONTENTS
