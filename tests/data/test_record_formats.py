"""RecordIO and OFRecord: what is written is read back, and each kind of damage has its line."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from data_sets import faults_of, images_of, write_insightface, write_part, write_recordio
from hypothesis import given
from hypothesis import strategies as st

from dlperf.data import ofrecord, recordio
from dlperf.data.records import CHUNK_BYTES, Fault, RecordFile
from dlperf.errors import UserError

# Contents in which the magic number is frequent, at multiples of 4 bytes and elsewhere.
CONTENTS = st.lists(st.sampled_from([recordio.MAGIC, b"a", b"abc", bytes(4), b"\xff" * 9]), min_size=1).map(
    b"".join
)
IMAGES = st.lists(st.tuples(st.integers(0, 2**24), CONTENTS), min_size=1, max_size=20)


def chunked(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Read so little at a time that records lie across."""
    monkeypatch.setattr(recordio, "CHUNK_BYTES", size)
    monkeypatch.setattr(ofrecord, "CHUNK_BYTES", size)


@given(images=IMAGES, chunk=st.sampled_from([16, 64, 100, CHUNK_BYTES]))
def test_images_written_are_read_back(images: list[tuple[int, bytes]], chunk: int) -> None:
    labels, contents = [label for label, _ in images], [content for _, content in images]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        chunked(patch, chunk)
        assert images == images_of(write_recordio(Path(name) / "recordio", labels, contents, classes=None))
        assert images == images_of(write_part(Path(name) / "ofrecord", labels, contents))


@given(labels=st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=1), min_size=1))
def test_several_labels_are_read_back(labels: list[list[float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_recordio(Path(name), labels, [b"image"] * len(labels))
        with RecordFile(folder / "train.rec") as file, recordio.Index(folder / "train.idx") as index:
            keys, offsets = index.peek(len(labels) + 1)
            records = [recordio.read_record(file, offset) for offset in offsets]
    assert list(range(len(labels))) == keys
    assert [(tuple(each), b"image") for each in labels] == records


def test_a_record_larger_than_a_read(tmp_path: Path) -> None:
    images = [(1, os.urandom(3 * CHUNK_BYTES)), (2, b"small"), (3, os.urandom(CHUNK_BYTES))]
    labels, contents = [1, 2, 3], [content for _, content in images]
    assert images == images_of(write_recordio(tmp_path / "recordio", labels, contents))
    assert images == images_of(write_part(tmp_path / "ofrecord", labels, contents))


def test_images_of_insightface_are_those_that_the_range_names(tmp_path: Path) -> None:
    folder = write_insightface(tmp_path, [[b"a", b"b"], [b"c"], [b"d", b"e", b"f"]])
    assert [(0, b"a"), (0, b"b"), (1, b"c"), (2, b"d"), (2, b"e"), (2, b"f")] == images_of(folder)


def test_of_several_labels_the_first_is_the_class(tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [[3.0, 9.5], 4.0], [b"a", b"b"])
    assert [(3, b"a"), (4, b"b")] == images_of(folder)


# A record of RecordIO here has 8 bytes, a header of 24 and 12 of content: 44.
CONTENT = b"photograph.."
SIZE = 44


def put(offset: int, content: bytes) -> Callable[[bytearray], None]:
    def change(file: bytearray) -> None:
        file[offset : offset + len(content)] = content

    return change


def cut(size: int) -> Callable[[bytearray], None]:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def damaged(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def word(length: int, kind: int = 0) -> bytes:
    return struct.pack("<I", kind << 29 | length)


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (put(SIZE, b"\0"), "wrong magic number ced72300", [0, 2]),
        (
            put(SIZE + 4, word(1 << 28)),
            "a length of 268435456 bytes, but no image has more than 64 MiB",
            [0, 2],
        ),
        (
            put(SIZE + 4, word(4000)),
            "cut short: 4000 bytes announced, 80 left in the file",
            [0, 2],
        ),
        (put(SIZE + 4, word(36, 2)), "a part of kind 2 stands at byte 44", [0, 2]),
        (put(SIZE + 4, word(36, 1)), "a part of kind 0 stands at byte 88", [0, 2]),
        (
            put(SIZE + 4, word(12)),
            "12 bytes are too few for the header of an image, which has 24",
            [0, 2],
        ),
        (put(SIZE + 8, word(9)), "9 labels announced in 36 bytes", [0, 2]),
        (
            put(SIZE + 12, struct.pack("<f", 10)),
            "label 10 is out of range: the data set has 10 classes",
            [0, 2],
        ),
        (
            put(SIZE + 12, struct.pack("<f", -1)),
            "label -1 is out of range: the data set has 10 classes",
            [0, 2],
        ),
        (put(SIZE + 12, struct.pack("<f", 1.5)), "label 1.5 is not a whole number", [0, 2]),
        (put(SIZE + 12, struct.pack("<f", float("nan"))), "label nan is not a whole number", [0, 2]),
        (put(SIZE + 12, struct.pack("<f", float("inf"))), "label inf is not a whole number", [0, 2]),
    ],
)  # fmt: skip
def test_a_damaged_record_is_named_and_can_be_skipped(
    change: Callable[[bytearray], None], message: str, left: list[int], tmp_path: Path
) -> None:
    folder = write_recordio(tmp_path, [0, 1, 2], [CONTENT] * 3)
    damaged(folder / "train.rec", change)
    with pytest.raises(Fault) as raised:
        images_of(folder)
    assert f"{folder}/train.rec: record 1 at byte 44: {message}" == str(raised.value)
    faults: list[Fault] = []
    assert [(label, CONTENT) for label in left] == images_of(folder, skip=faults.append)
    assert str(faults[0]) == str(raised.value)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (SIZE + 30, "record 1 at byte 44: cut short: 36 bytes announced, 22 left in the file"),
        (SIZE + 5, "record 1 at byte 44: cut short: the file ends at byte 49"),
        (SIZE, "record 1 at byte 44: train.idx names it, but train.rec ends at byte 44; copy it again"),
    ],
)
def test_a_file_cut_short_is_noticed_before_it_is_read(size: int, message: str, tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [0, 1], [CONTENT] * 2)
    damaged(folder / "train.rec", cut(size))
    with pytest.raises(Fault) as raised:
        images_of(folder)
    assert f"{folder}/train.rec: {message}" == str(raised.value)
    faults: list[Fault] = []
    assert [(0, CONTENT)] == images_of(folder, skip=faults.append)
    assert 1 == len(faults)


def test_padding_that_is_missing_is_a_record_cut_short(tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [0], [b"photograph"])
    damaged(folder / "train.rec", cut(42))
    assert ["train.rec: record 0 at byte 0: cut short: its padding is missing"] == faults_of(folder)


def test_a_record_in_parts_that_is_damaged_in_a_later_part(tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [0, 1], [b"1234" + recordio.MAGIC + b"5678", CONTENT])
    assert [(0, b"1234" + recordio.MAGIC + b"5678"), (1, CONTENT)] == images_of(folder)
    damaged(folder / "train.rec", put(36, b"\0"))
    message = "record 0 at byte 0: wrong magic number ced72300 in its part at byte 36"
    assert [f"train.rec: {message}"] == faults_of(folder)


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ("0\t0\n1\t48\n2\t88\n", ["train.idx: record 1 at byte 48: no record of train.rec begins there",
                                 "train.rec: record 1 at byte 44: train.idx does not name it"]),
        ("0\t0\n2\t88\n", ["train.rec: record 1 at byte 44: train.idx does not name it"]),
        ("0\t0\n1\t44\n", ["train.rec: record 2 at byte 88: train.idx does not name it"]),
        ("0\t0\n1\t44\n2\t88\n3\t132\n",
         ["train.idx: record 3 at byte 132: no record of train.rec begins there"]),
    ],
)  # fmt: skip
def test_an_index_of_another_file(lines: str, messages: list[str], tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [0, 1, 2], [CONTENT] * 3)
    (folder / "train.idx").write_text(lines)
    assert messages == faults_of(folder)


ORDERED = "an index must be in the order of its file"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\t0\n1\n2\t88\n", "2: '1' is no key, tab and offset"),
        ("0\t0\nx\t44\n2\t88\n", "2: 'x\\t44' is no key, tab and offset"),
        ("0\t0\n\n2\t88\n", "2: '' is no key, tab and offset"),
        ("0\t44\n1\t0\n2\t88\n", "2: byte 0 does not lie behind byte 44 of the line above; " + ORDERED),
        ("0\t-4\n1\t44\n2\t88\n", "1: byte -4 does not lie behind byte -1 of the line above; " + ORDERED),
    ],
)  # fmt: skip
def test_a_line_of_an_index_that_is_wrong(lines: str, message: str, tmp_path: Path) -> None:
    folder = write_recordio(tmp_path, [0, 1, 2], [CONTENT] * 3)
    (folder / "train.idx").write_text(lines)
    with pytest.raises(UserError) as raised:
        images_of(folder)
    assert f"{folder}/train.idx:{message}" == str(raised.value)


# Of a part here a record has 8 bytes, 16 of `label` and 29 of `encoded`.
PART_SIZE = 53


@pytest.mark.parametrize(
    ("change", "message", "left"),
    [
        (put(PART_SIZE, struct.pack("<q", -5)),
         "a length of -5 bytes, but no image has more than 64 MiB", [0]),
        (put(PART_SIZE, struct.pack("<q", 0)), "a length of 0 bytes", [0]),
        (put(PART_SIZE, struct.pack("<q", 1 << 60)),
         "a length of 1152921504606846976 bytes, but no image has more than 64 MiB", [0]),
        (put(PART_SIZE, struct.pack("<q", 500)),
         "cut short: 500 bytes announced, 98 left in the file", [0]),
        (cut(PART_SIZE + 20), "cut short: 45 bytes announced, 12 left in the file", [0]),
        (cut(PART_SIZE + 3), "cut short: the file ends at byte 56", [0]),
        (put(PART_SIZE + 8, b"\x0f"), "not a message of Protocol Buffers", [0, 2]),
        (put(PART_SIZE + 9, b"\x7f"), "its message ends within a field", [0, 2]),
        (put(PART_SIZE + 12, b"lapel"), "it has no feature `label`, one whole number", [0, 2]),
        (put(PART_SIZE + 28, b"encrypt"),
         "it has no feature `encoded`, one string of bytes", [0, 2]),
        (put(PART_SIZE + 23, b"\x0a"),
         "label 10 is out of range: the data set has 10 classes", [0, 2]),
    ],
)  # fmt: skip
def test_a_damaged_record_of_a_part(
    change: Callable[[bytearray], None], message: str, left: list[int], tmp_path: Path
) -> None:
    folder = write_part(tmp_path, [0, 1, 2], [CONTENT] * 3)
    (folder / "property").write_text("10,112,112")
    damaged(folder / "part-00000", change)
    with pytest.raises(Fault) as raised:
        images_of(folder)
    assert f"{folder}/part-00000: record 1 at byte 53: {message}" == str(raised.value)
    faults: list[Fault] = []
    assert [(label, CONTENT) for label in left] == images_of(folder, skip=faults.append)
    assert [str(raised.value)] == list(map(str, faults))


def test_an_image_without_content(tmp_path: Path) -> None:
    write_recordio(tmp_path / "recordio", [0, 1], [CONTENT, b""])
    write_part(tmp_path / "ofrecord", [0, 1], [CONTENT, b""])
    assert ["train.rec: record 1 at byte 44: no image in it"] == faults_of(tmp_path / "recordio")
    assert ["part-00000: record 1 at byte 53: no image in it"] == faults_of(tmp_path / "ofrecord")


def test_labels_of_64_bits_and_not_packed(tmp_path: Path) -> None:
    """As protobuf's other writers may have it."""
    label = b"\x0a\x05label\x12\x04\x2a\x02\x08\x07"  # int64_list, whose value stands alone
    image = b"\x0a\x07encoded\x12\x05\x0a\x03\x0a\x01x"
    message = b"\x0a" + bytes([len(image)]) + image + b"\x0a" + bytes([len(label)]) + label
    (tmp_path / "part-00000").write_bytes(struct.pack("<q", len(message)) + message)
    assert [(7, b"x")] == images_of(tmp_path)


@given(seed=st.integers(0, 2**32))
def test_any_damage_is_a_fault_or_nothing(seed: int) -> None:
    """Files with bytes changed, cut out, put in or doubled are read or refused, and skipping always ends."""
    generator = random.Random(seed)  # noqa: S311 - damage needs no cryptography
    contents = [generator.randbytes(generator.choice([1, 12, 300])) for _ in range(5)]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        chunked(patch, generator.choice([64, 200, CHUNK_BYTES]))
        for form in ("recordio", "ofrecord"):
            folder = Path(name) / form
            if form == "recordio":
                write_recordio(folder, [0, 1, 2, 3, 4], contents)
                files = ["train.rec", "train.idx", "property"]
            else:
                write_part(folder, [0, 1, 2, 3, 4], contents)
                files = ["part-00000"]
            for _ in range(generator.randint(1, 3)):
                damaged(folder / generator.choice(files), at_random(generator))
            for skip in (None, lambda _fault: None):
                try:
                    found = images_of(folder, skip=skip)
                except UserError as error:
                    assert "\n" not in str(error)  # noqa: PT017
                else:
                    assert len(found) <= 10


def at_random(generator: random.Random) -> Callable[[bytearray], None]:
    def change(file: bytearray) -> None:
        at = generator.randrange(len(file) + 1)
        length = generator.randint(1, 8)
        kind = generator.randrange(4)
        if kind == 0:
            file[at : at + length] = generator.randbytes(length)
        elif kind == 1:
            del file[at : at + length * generator.choice([1, 100])]
        elif kind == 2:
            file[at:at] = generator.choice([recordio.MAGIC, generator.randbytes(length), bytes(4)])
        else:
            file[at:at] = file[generator.randrange(len(file) + 1) :][:60]

    return change
