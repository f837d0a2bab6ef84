"""Which images a device takes, and what is found to be wrong with them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from face_sets import cut, first_byte, made, overwrite, with_persons
from PIL import Image as Picture

from frameworks.common import case
from frameworks.common.dataset import (
    OFRECORD,
    RECORDIO,
    DataError,
    check,
    find_parts,
    jpeg_problem,
    records,
    share_of,
)

FORMS = (RECORDIO, OFRECORD)


def node_side(data: object) -> case.DataSet:
    content = data.model_dump()
    return case.DataSet(**content)


@pytest.fixture
def data(tmp_path: Path) -> case.DataSet:
    return node_side(made(tmp_path / "faces"))


@pytest.mark.parametrize("form", FORMS)
def test_shares_hold_every_image_once_and_lie_one_behind_the_other(data: case.DataSet, form: str) -> None:
    whole = list(records(share_of(data, form, 0, 1)))
    shares = [share_of(data, form, rank, 2) for rank in range(2)]

    assert [(0, 25), (25, 50)] == [(share.first, share.last) for share in shares]
    assert whole == [record for share in shares for record in records(share)]


def test_insightface_s_first_and_last_records_are_no_images(data: case.DataSet, tmp_path: Path) -> None:
    with_persons(Path(data.path), tmp_path / "upstream")
    share = share_of(data._replace(path=str(tmp_path / "upstream")), RECORDIO, 0, 1)

    found = list(records(share))

    assert 50 == len(found)
    assert 1 == found[0].number  # of the file
    check(share, 50, contents=True)


def test_parts_that_are_no_equal_shares_are_refused(data: case.DataSet) -> None:
    with pytest.raises(DataError, match="3 devices share the images by whole parts: make 3, not 2"):
        share_of(data, OFRECORD, 0, 3)


def test_a_missing_part_is_named(data: case.DataSet) -> None:
    Path(find_parts(data.path).folder, "part-00000").unlink()
    with pytest.raises(DataError, match="part 0 is missing"):
        share_of(data, OFRECORD, 0, 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_ends_within_a_record_is_named_with_record_and_byte(
    data: case.DataSet, form: str
) -> None:
    share = share_of(data, form, 0, 1)
    path, offset = cut(Path(data.path), form, 7)

    check(share, 7)
    with pytest.raises(DataError) as caught:
        check(share, 8)

    error = caught.value
    assert (str(path), 7, offset) == (error.file, error.record, error.offset)
    assert error.what == f"the file ends at byte {offset + 500}, within the record"


@pytest.mark.parametrize(
    ("form", "at", "content", "what"),
    [
        (RECORDIO, 0, b"\x01\x02\x03\x04", "wrong magic number 04030201"),
        (RECORDIO, 4, b"\xff\xff\xff\x1f", "a length of"),
        (RECORDIO, 4, b"\x00\x70\x00\x00", "behind the start of the next record"),
        (OFRECORD, 0, b"\xff" * 8, "a length of -1 bytes"),
        (OFRECORD, 7, b"\x10", "a length of"),
    ],
)
def test_a_damaged_frame_is_named(data: case.DataSet, form: str, at: int, content: bytes, what: str) -> None:
    share = share_of(data, form, 0, 1)
    path, offset = overwrite(Path(data.path), form, 3, at, content)

    with pytest.raises(DataError, match=what) as caught:
        check(share, 50)

    assert (str(path), 3, offset) == (caught.value.file, caught.value.record, caught.value.offset)


@pytest.mark.parametrize(("form", "at"), [(RECORDIO, 32), (OFRECORD, 60)])
def test_a_jpeg_without_its_markers_is_found_when_contents_are_looked_at(
    data: case.DataSet, form: str, at: int
) -> None:
    share = share_of(data, form, 0, 1)
    _, offset = overwrite(Path(data.path), form, 3, at, bytes(200))

    check(share, 50)
    with pytest.raises(DataError, match="corrupt JPEG") as caught:
        check(share, 50, contents=True)

    assert (3, offset) == (caught.value.record, caught.value.offset)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"comment": b"\xff\xda"}])
def test_a_whole_jpeg_has_no_problem_and_a_cut_one_has(options: dict) -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    Picture.fromarray(pixels).save(stream, "JPEG", **options)
    content = stream.getvalue()

    assert jpeg_problem(content) is None
    for length in (0, 1, 3, 20, 300, len(content) - 100):
        assert jpeg_problem(content[:length]) is not None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", FORMS)
def test_random_damage_is_a_data_error_or_nothing(data: case.DataSet, form: str, seed: int) -> None:
    """No other exception, and no endless loop."""
    share = share_of(data, form, 0, 1)
    random = np.random.default_rng(seed)
    path, _ = first_byte(Path(data.path), form, 0)
    content = bytearray(path.read_bytes())
    for place in random.integers(0, len(content), 40):
        content[place] = random.integers(0, 256)
    path.write_bytes(content)

    with contextlib.suppress(DataError):
        check(share, 50, contents=True)


def test_an_index_that_names_too_little_or_nonsense_is_refused(data: case.DataSet) -> None:
    index = Path(data.path, "train.idx")
    lines = index.read_text().splitlines(keepends=True)

    index.write_text("".join(lines[:20]))
    with pytest.raises(DataError, match="it names 20 images, not 50 or more"):
        share_of(data, RECORDIO, 0, 1)
    index.write_text("".join([lines[0], "a line\n", *lines[2:]]))
    with pytest.raises(DataError, match="no key and offset"):
        share_of(data, RECORDIO, 0, 1)
    index.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match="line 2: byte 0 is not behind"):
        share_of(data, RECORDIO, 0, 1)
