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
from dlperf.data.ofrecord import PartWriter, part_name
from dlperf.data.reading import read_images
from dlperf.data.recordio import MAGIC, RecordWriter, read_index, read_record, read_records
from dlperf.data.records import RecordFile

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
    with (tmp_path / "train.rec").open("wb") as records, (tmp_path / "train.idx").open("wb") as index:
        writer = RecordWriter(records, index)
        for key, label, content in expected:
            writer.write(key, label, bytes.fromhex(content))
    assert expected == answer(engine_python("mxnet"), "mxnet_recordio.py", "read", tmp_path)


def test_we_read_what_mxnet_writes_and_write_the_same_bytes(tmp_path: Path, engine_python: Engine) -> None:
    written = [[key, float(key % 3), content.hex()] for key, content in enumerate(CONTENTS)]
    written.append([len(CONTENTS), [3.0, 7.0], ""])
    answer(engine_python("mxnet"), "mxnet_recordio.py", "write", tmp_path, stdin=written)
    lines = list(read_index(tmp_path / "train.idx"))
    with RecordFile(tmp_path / "train.rec") as file:
        found = list(read_records(file))
        by_index = [read_record(file, line.offset) for line in lines]
    labels = [label if isinstance(label, list) else [label] for _, label, _ in written]
    assert [key for key, _, _ in written] == [line.key for line in lines]
    assert labels == [list(record.labels) for record in found]
    assert [content for _, _, content in written] == [bytes(record.content).hex() for record in found]
    assert [(r.offset, bytes(r.content)) for r in found] == [(r.offset, bytes(r.content)) for r in by_index]
    records, index = io.BytesIO(), io.BytesIO()
    writer = RecordWriter(records, index)
    for key, label, content in written:
        writer.write(key, label, bytes.fromhex(content))
    assert (tmp_path / "train.rec").read_bytes() == records.getvalue()
    assert (tmp_path / "train.idx").read_bytes() == index.getvalue()


def decoded(folder: Path) -> list[list[Any]]:
    """Label and pixels [112, 112, 3] of each image, by Pillow."""
    held = describe(folder).recordio
    assert held is not None
    images = read_images(held, classes=None)
    return [
        [image.label, np.asarray(Image.open(io.BytesIO(image.content)).convert("RGB"))] for image in images
    ]


def as_insightface(source: Path, target: Path, *, persons_first: bool) -> None:
    """The images of `source`, four per person, with the range and the records of persons; two indexes."""
    held = describe(source).recordio
    assert held is not None
    images = list(read_images(held, classes=None))
    persons = len(images) // 4
    keys = len(images) + 1
    target.mkdir()
    with (target / "train.rec").open("wb") as records, (target / "train.idx").open("wb") as index:
        writer = RecordWriter(records, index)
        writer.write(0, [keys, keys + persons], b"")

        def write_persons() -> None:
            for person in range(persons):
                writer.write(keys + person, [4 * person + 1, 4 * person + 5], b"")

        if persons_first:
            write_persons()
        for number, image in enumerate(images):
            writer.write(number + 1, number // 4, image.content)
        if not persons_first:
            write_persons()
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
    with path.open("wb") as stream:
        writer = PartWriter(stream)
        for label, content in expected:
            writer.write(label, bytes.fromhex(content))
    assert expected == answer(engine_python("oneflow"), "oneflow_ofrecord.py", "parse", path)


def test_we_read_what_the_protobuf_of_oneflow_wrote(tmp_path: Path, engine_python: Engine) -> None:
    written = [[label, content.hex()] for label, content in zip(LABELS, CONTENTS, strict=True)]
    answer(engine_python("oneflow"), "oneflow_ofrecord.py", "write", tmp_path / part_name(0), stdin=written)
    held = describe(tmp_path).ofrecord
    assert held is not None
    images = list(read_images(held, classes=None))
    assert written == [[image.label, bytes(image.content).hex()] for image in images]
