"""A data set in a folder as the training programs read it: which images a device takes, and what is damaged.

A data set holds RecordIO (train.rec with train.idx), OFRecord (part-00000, ...) or both, of the same images
in the same order; docs/data.md describes the files. The images are numbered from 0 in that order. Device r of
R takes those from N r // R up to N (r + 1) // R, and behind the last of them again the first.

Nothing here decodes an image: this tells where a record is, whether its frame is whole, and whether the
markers of its JPEG are. Standard library alone, because it also runs where an engine has failed.
"""

import json
import os
import re
import struct
from array import array
from itertools import islice
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

from frameworks.common.case import DataSet

RECORDIO, OFRECORD = "recordio", "ofrecord"
RECORDS, INDEX = "train.rec", "train.idx"
# Where the parts of an OFRecord data set may lie.
PARTS_FOLDERS = ("ofrecord/train", "ofrecord", "train", ".")
_PART_NAME = re.compile(r"part-([0-9]{1,9})")
# With which a program ends that could not read its data: EX_IOERR of sysexits.h.
EXIT_DATA = 74
# No image is as large; a length beyond it is damage.
MOST_RECORD_BYTES = 64 << 20

_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")  # magic, kind of the part (3 bits) and length (29 bits)
_KIND_SHIFT, _LENGTH_MASK = 29, (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_IMAGE_HEADER = struct.Struct("<IfQQ")  # number of labels behind it, label, two ids
_LENGTH = struct.Struct("<q")


class DataError(Exception):
    """An image that cannot be read; `record` counts the images of the file from 0."""

    def __init__(
        self, file: str, what: str, record: Optional[int] = None, offset: Optional[int] = None
    ) -> None:
        super().__init__(file, what, record, offset)  # all of them, so that it can be pickled
        self.file, self.what, self.record, self.offset = file, what, record, offset

    def __str__(self) -> str:
        if self.record is None:
            return f"{self.file}: {self.what}"
        return f"{self.file}: record {self.record} at byte {self.offset}: {self.what}"


class Image(NamedTuple):
    """An encoded image and its class."""

    content: bytes
    label: int


class Record(NamedTuple):
    """Where an image is: its file, its number there, its first byte, and the first byte behind it."""

    file: str
    number: int
    offset: int
    end: int


class Share(NamedTuple):
    """The images of one device, `first` to `last` - 1 of the data set.

    In RecordIO `files` is train.rec alone, and `offsets` holds the first byte of each image and, last, the
    first byte behind the share; `before` records without an image are before image 0. In OFRecord `files` are
    the device's own parts, and `offsets` is empty.
    """

    form: str
    first: int
    last: int
    files: Tuple[str, ...]
    offsets: "array[int]"
    before: int = 0

    @property
    def images(self) -> int:
        """The number of images."""
        return self.last - self.first


def share_of(data: DataSet, form: str, rank: int, world_size: int) -> Share:
    """The images of device `rank` in one of the forms that the data set has.

    Raises:
        DataError: the index or the parts do not hold what they should.
        OSError: a file cannot be opened.
    """
    first, last = (data.images * number // world_size for number in (rank, rank + 1))
    if form == RECORDIO:
        return _recordio_share(Path(data.path), first, last)
    return _ofrecord_share(data, first, last, rank, world_size)


def _recordio_share(folder: Path, first: int, last: int) -> Share:
    records, index = folder / RECORDS, folder / INDEX
    # InsightFace's first record holds no image, but the keys of the images.
    before = 1 if _is_header(str(records)) else 0
    with index.open("rb") as lines:
        try:
            own = islice(lines, before + first, before + last + 1)
            offsets = array("q", (int(line.split(b"\t")[1]) for line in own))
        except (ValueError, IndexError, OverflowError):
            raise DataError(str(index), "a line is no key and offset with a tab between") from None
    images = last - first
    if len(offsets) < images:
        raise DataError(str(index), f"it names {first + len(offsets)} images, not {last} or more")
    if len(offsets) == images:
        offsets.append(records.stat().st_size)
    unordered = (number for number in range(1, images) if offsets[number] <= offsets[number - 1])
    for number in unordered:
        line_number = before + first + number + 1
        what = f"line {line_number}: byte {offsets[number]} is not behind that of the line above"
        raise DataError(str(index), what)
    return Share(RECORDIO, first, last, (str(records),), offsets, before)


def _is_header(path: str) -> bool:
    with Path(path).open("rb") as stream:
        start = stream.read(_FRAME.size + _IMAGE_HEADER.size)
    if len(start) < _FRAME.size + _IMAGE_HEADER.size:
        return False
    _, word = _FRAME.unpack_from(start)
    labels = _IMAGE_HEADER.unpack_from(start, _FRAME.size)[0]
    return word & _LENGTH_MASK == _IMAGE_HEADER.size + 4 * labels


class Parts(NamedTuple):
    """The parts of an OFRecord data set, in the order of their numbers, which have so many digits.

    `digits` is -1 where numbers have no leading zeros, as OneFlow's `part_name_suffix_length` has it.
    """

    folder: str
    names: Tuple[str, ...]
    digits: int


def find_parts(folder: str) -> Parts:
    """Find part-00000 and on.

    Raises:
        DataError: there are none, or some are missing.
    """
    for place in PARTS_FOLDERS:
        inner = Path(folder, place)
        names = [path.name for path in inner.iterdir()] if inner.is_dir() else []
        found = {int(match[1]): match[1] for match in map(_PART_NAME.fullmatch, names) if match}
        if not found:
            continue
        if sorted(found) != list(range(len(found))):
            missing = next(number for number in range(len(found)) if number not in found)
            raise DataError(str(inner), f"part {missing} is missing")
        digits = -1 if found[0] == "0" else len(found[0])
        return Parts(str(inner), tuple(f"part-{found[number]}" for number in sorted(found)), digits)
    raise DataError(folder, "it holds no part-00000")


def _ofrecord_share(data: DataSet, first: int, last: int, rank: int, world_size: int) -> Share:
    """Whole parts, because OneFlow's reader gives each rank some of them."""
    parts = find_parts(data.path)
    count = len(parts.names)
    begin, end = (count * number // world_size for number in (rank, rank + 1))
    if world_size > 1:
        counts = _counts(parts)
        if count % world_size or (sum(counts[:begin]), sum(counts[:end])) != (first, last):
            what = f"{world_size} devices share the images by whole parts: make {world_size}, not {count}"
            raise DataError(parts.folder, what)
    files = (str(Path(parts.folder, name)) for name in parts.names[begin:end])
    return Share(OFRECORD, first, last, tuple(files), array("q"))


def _counts(parts: Parts) -> List[int]:
    """The images of each part: as its maker wrote down, or counted."""
    try:
        listed = json.loads(Path(parts.folder, "index.json").read_text(encoding="utf-8"))["parts"]
        images = {entry["name"]: int(entry["images"]) for entry in listed}
        return [images[name] for name in parts.names]
    except (OSError, ValueError, KeyError, TypeError):
        paths = (str(Path(parts.folder, name)) for name in parts.names)
        return [sum(1 for _ in _part_records(path)) for path in paths]


def records(share: Share) -> Iterator[Record]:
    """Every image of a share once, its frame checked.

    Raises:
        DataError: a frame is damaged.
    """
    if share.form == RECORDIO:
        (path,) = share.files
        with Path(path).open("rb", buffering=0) as stream:
            for number in range(share.images):
                yield recordio_record(stream.fileno(), share, number)
        return
    for path in share.files:
        yield from _part_records(path)


def recordio_record(descriptor: int, share: Share, number: int) -> Record:
    """Image `number` of a share in RecordIO, counted from 0; DataError where its frame is damaged."""
    begin, behind = share.offsets[number], share.offsets[number + 1]
    record_number = share.before + share.first + number

    def damage(what: str) -> DataError:
        return DataError(share.files[0], what, record_number, begin)

    at, kind = begin, _FIRST
    while kind in (_FIRST, _MIDDLE):
        frame = os.pread(descriptor, _FRAME.size, at)
        if len(frame) < _FRAME.size:
            raise damage(f"the file ends at byte {os.fstat(descriptor).st_size}, within the record")
        magic, word = _FRAME.unpack(frame)
        if magic != _MAGIC:
            raise damage(f"wrong magic number {magic:08x}")
        kind, length = word >> _KIND_SHIFT, word & _LENGTH_MASK
        if kind not in ((_WHOLE, _FIRST) if at == begin else (_MIDDLE, _LAST)):
            raise damage(f"a part of kind {kind} at byte {at}")
        at += _FRAME.size + (length + 3 & ~3)
        if length > MOST_RECORD_BYTES:
            raise damage(f"a length of {length} bytes")
    size = os.fstat(descriptor).st_size
    if at > size:
        raise damage(f"the file ends at byte {size}, within the record")
    if at > behind:
        raise damage(f"it ends at byte {at}, behind the start of the next record at byte {behind}")
    return Record(share.files[0], record_number, begin, at)


def _part_records(path: str) -> Iterator[Record]:
    with Path(path).open("rb", buffering=0) as stream:
        descriptor, number, offset = stream.fileno(), 0, 0
        while True:
            frame = os.pread(descriptor, _LENGTH.size, offset)
            size = os.fstat(descriptor).st_size
            if not frame and offset == size:
                return
            if len(frame) < _LENGTH.size:
                raise DataError(path, f"the file ends at byte {size}, within the record", number, offset)
            (length,) = _LENGTH.unpack(frame)
            if not 0 < length <= MOST_RECORD_BYTES:
                raise DataError(path, f"a length of {length} bytes", number, offset)
            end = offset + _LENGTH.size + length
            if end > size:
                raise DataError(path, f"the file ends at byte {size}, within the record", number, offset)
            yield Record(path, number, offset, end)
            number, offset = number + 1, end


def recordio_image(descriptor: int, record: Record) -> Image:
    """The image of a record in RecordIO; DataError where it is too short, or the file ends within."""
    raw = os.pread(descriptor, record.end - record.offset, record.offset)
    at, parts = 0, []
    while at + _FRAME.size <= len(raw):
        _, word = _FRAME.unpack_from(raw, at)
        length = word & _LENGTH_MASK
        parts.append(raw[at + _FRAME.size : at + _FRAME.size + length])
        at += _FRAME.size + (length + 3 & ~3)
    content = parts[0] if len(parts) == 1 else struct.pack("<I", _MAGIC).join(parts)
    if at != len(raw) or len(raw) < record.end - record.offset or len(content) < _IMAGE_HEADER.size:
        raise DataError(record.file, f"{len(content)} bytes are no image", record.number, record.offset)
    labels, label, _, _ = _IMAGE_HEADER.unpack_from(content)
    begin = _IMAGE_HEADER.size + 4 * labels
    if labels and begin <= len(content):
        (label,) = struct.unpack_from("<f", content, _IMAGE_HEADER.size)
    if begin > len(content) or not 0 <= label < 1 << 31 or label != int(label):
        raise DataError(
            record.file, f"label {label}, {labels} labels behind it", record.number, record.offset
        )
    return Image(content[begin:], int(label))


def check(share: Share, count: int, *, contents: bool = False) -> None:
    """Look at the first `count` images of a share, or at all: their frames, and with `contents` their JPEGs.

    Raises:
        DataError: one is damaged; it names the first.
    """
    for record in islice(records(share), count):
        if contents:
            problem = jpeg_problem(_content(record, share.form))
            if problem is not None:
                raise DataError(record.file, problem, record.number, record.offset)


def _content(record: Record, form: str) -> bytes:
    with Path(record.file).open("rb", buffering=0) as stream:
        if form == RECORDIO:
            return recordio_image(stream.fileno(), record).content
        message = os.pread(
            stream.fileno(), record.end - record.offset - _LENGTH.size, record.offset + _LENGTH.size
        )
    try:
        return _encoded(message)
    except (IndexError, ValueError):
        raise DataError(record.file, "it holds no image", record.number, record.offset) from None


def _encoded(message: bytes) -> bytes:
    """The feature `encoded` of an OFRecord: fields 1 of Protocol Buffers, one within the other."""
    for entry in _fields(message, 1):
        if next(_fields(entry, 1), b"") == b"encoded":
            value = next(_fields(entry, 2))
            return next(_fields(next(_fields(value, 1)), 1))
    raise ValueError("no field encoded")


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The contents of a message's fields of that number, all of which have a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        length, at = _varint(message, at)
        if tag & 7 != 2 or at + length > len(message):  # noqa: PLR2004 - the wire type of what has a length
            raise ValueError("not a message of strings and messages")
        if tag >> 3 == wanted:
            yield message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


_START_OF_SCAN, _FILL = 0xDA, 0xFF
# Markers of a frame, which holds the size of the image.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_problem(content: bytes) -> Optional[str]:
    """What is wrong with the markers of a JPEG; None where a decoder finds its way.

    Damage between the markers makes other pixels, and libjpeg only warns of it.
    """
    at, marker, markers = 2, 0, set()
    while content[:2] == b"\xff\xd8" and at + 4 <= len(content) and content[at] == _FILL:
        marker = content[at + 1]
        markers.add(marker)
        if marker == _START_OF_SCAN:
            break
        (length,) = struct.unpack_from(">H", content, at + 2)
        at += 1 if marker == _FILL else 2 + max(length, 2)
    if marker != _START_OF_SCAN:
        return f"a corrupt JPEG: no marker at its byte {min(at, len(content))} of {len(content)}"
    if not markers & _FRAMES:
        return "a corrupt JPEG: its pixels come before its size"
    return None if b"\xff\xd9" in content[-64:] else "a corrupt JPEG: it has no end"
