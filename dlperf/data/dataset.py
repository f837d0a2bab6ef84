"""A folder with a data set: what it holds, from its indexes alone."""

import hashlib
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlperf.data import ofrecord, recordio
from dlperf.data.pictures import size_of
from dlperf.data.records import Content, Fault, RecordFile
from dlperf.errors import UserError
from dlperf.files import open_regular, read_document, read_regular
from dlperf.model import Model
from dlperf.wording import plural

Form = Literal["recordio", "ofrecord"]

RECORDS, INDEX, PROPERTY = "train.rec", "train.idx", "property"
# Where the parts are written, and where else they may lie.
PARTS_FOLDER = "ofrecord/train"
_PARTS_FOLDERS = (PARTS_FOLDER, "ofrecord", "train", ".")
PARTS_INDEX = "index.json"
_PROPERTY = re.compile(rb"\s*([0-9]{1,12})\s*,\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*")
_CHUNK_BYTES = 1 << 20
_LINE_BYTES = 64  # of the index, whose lines have at most 41
_PERSON_LABELS = 2  # a range of keys


class PartEntry(Model):
    """One part of a data set."""

    name: str
    """Name of the file, such as `part-00000`."""
    images: int
    """How many images it holds."""
    size_bytes: int
    """Size of the file in bytes."""


class PartsIndex(Model):
    """index.json beside the parts of a data set that dlperf wrote."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    parts: tuple[PartEntry, ...]
    """The parts, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordioSet:
    """The RecordIO form of a data set."""

    records: Path  # train.rec
    index: Path  # train.idx
    size_bytes: int  # of train.rec
    images: int  # that the index names
    # Records without an image behind the images, one per person, as InsightFace publishes data sets: MXNet's
    # ImageRecordIter fails on them. None where all records are images.
    persons: int | None
    index_sha256: str  # of train.idx, property and the size of train.rec


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of an OFRecord data set; how many images it holds is known where dlperf wrote it."""

    path: Path
    size_bytes: int
    images: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfrecordSet:
    """The OFRecord form of a data set."""

    folder: Path  # where the parts lie
    parts: tuple[Part, ...]  # in their order
    digits: int  # of the number in a part's name: see `ofrecord.digits_of`
    images: int | None  # of all parts; None where only reading them would tell
    index_sha256: str  # of the parts' names and sizes, and property

    @property
    def size_bytes(self) -> int:
        """The size of all parts."""
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a folder with a data set holds; at least one of the forms."""

    folder: Path
    classes: int | None  # as `property` says, or else the records of persons; None: not known
    image_size: tuple[int, int] | None  # width and height of the first image; None where it cannot be read
    recordio: RecordioSet | None
    ofrecord: OfrecordSet | None

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that the folder holds."""
        held: dict[Form, object] = {"recordio": self.recordio, "ofrecord": self.ofrecord}
        return tuple(form for form, content in held.items() if content is not None)

    @property
    def images(self) -> int | None:
        """How many images there are; None where only reading them would tell."""
        if self.recordio is not None:
            return self.recordio.images
        return self.ofrecord.images if self.ofrecord is not None else None


def describe(folder: Path, *, strict: bool = True) -> Description:
    """What a folder holds, from its indexes: reads no image but the head of the first.

    UserError where there is no such folder, no data set in it, or one that its readers could not use.
    Unless `strict`, damaged records, such as the last of a copy cut short, are left to whoever reads images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; a data set is a folder with {RECORDS} or part-00000")
    records, index = folder / RECORDS, folder / INDEX
    parts_folder, paths = _find_parts(folder)
    if not records.exists() and not paths:
        if index.exists():
            raise UserError(f"{records} is missing, but {INDEX} is there; copy the data set again")
        raise UserError(f"{folder} holds no data set: neither {RECORDS} nor part-00000")
    classes, property_content = _read_property(folder / PROPERTY)
    recordio_set = ofrecord_set = None
    if records.exists():
        recordio_set = _describe_recordio(records, index, property_content, strict=strict)
    if paths:
        ofrecord_set = _describe_ofrecord(parts_folder, paths, property_content, strict=strict)
    if classes is None and recordio_set is not None:
        classes = recordio_set.persons
    counts = [each.images for each in (recordio_set, ofrecord_set) if each is not None]
    if len({*counts} - {None}) > 1:
        raise UserError(
            f"{folder}: {RECORDS} has {counts[0]} images, its parts have {counts[1]}; remove one form and "
            "convert the other"
        )
    return Description(
        folder=folder,
        classes=classes,
        image_size=_first_size(recordio_set or ofrecord_set),
        recordio=recordio_set,
        ofrecord=ofrecord_set,
    )


def _read_property(path: Path) -> tuple[int | None, bytes]:
    """The number of classes and the content; None and nothing without such a file."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None, b""
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    match = _PROPERTY.fullmatch(content)
    if match is None:
        raise UserError(f"{path}: must be classes,height,width, such as 85742,112,112")
    return int(match[1]), content


def _describe_recordio(records: Path, index: Path, property_content: bytes, *, strict: bool) -> RecordioSet:
    digest = hashlib.sha256()
    lines, end = 0, b""
    try:
        with open_regular(index) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                end = (end + chunk)[-_LINE_BYTES:]
    except FileNotFoundError:
        raise UserError(
            f"{index} is missing: readers find the images by it; copy it, or make it with MXNet's rec2idx.py"
        ) from None
    except OSError as error:
        raise UserError(f"{index}: {error.strerror}") from None
    lines += bool(end) and not end.endswith(b"\n")
    if not lines:
        raise UserError(f"{index} is empty: it names no record of {RECORDS}")
    with RecordFile(records) as file:
        size_bytes = file.size
        first = _first_record(file, strict=strict)
        if strict:
            _check_end(file, index, lines, end.split(b"\n")[-1 if end[-1:] != b"\n" else -2])
    digest.update(property_content)
    digest.update(b"%d" % size_bytes)
    images, persons = lines, None
    if first is not None and _is_header(first):
        begin, behind = first.labels
        # The labels are float32, in which not every number beyond 2^24 is exact.
        if not 1 < begin <= behind or struct.pack("<f", behind) != struct.pack("<f", lines):
            raise UserError(
                f"{records}: its first record gives images the keys 1 to {begin - 1:.0f} and persons "
                f"{begin:.0f} to {behind - 1:.0f}, but {INDEX} has {plural(lines, 'line')}"
            )
        images, persons = int(begin) - 1, int(behind - begin)
    return RecordioSet(
        records=records,
        index=index,
        size_bytes=size_bytes,
        images=images,
        persons=persons,
        index_sha256=digest.hexdigest(),
    )


def _first_record(file: RecordFile, *, strict: bool) -> recordio.Record | None:
    """The record at the beginning; None where it is damaged, unless that is an error."""
    try:
        return recordio.read_record(file, 0)
    except Fault:
        if strict:
            raise
        return None


def _is_header(first: recordio.Record) -> bool:
    """Whether the first record is the one that says which keys images and persons have."""
    is_range = len(first.labels) == _PERSON_LABELS and not first.content
    return is_range and all(map(math.isfinite, first.labels))


def _check_end(file: RecordFile, index: Path, lines: int, last_line: bytes) -> None:
    """UserError where the record that an index names last is not whole: a copy that was cut short."""
    try:
        offset = int(last_line.split(b"\t")[-1])
    except ValueError:
        return  # the readers of an index say what is wrong with it
    if offset >= file.size:
        problem = f"{index.name} names it, but {file.path.name} ends at byte {file.size}; copy it again"
        raise Fault(file.path, lines - 1, offset, problem)
    try:
        recordio.read_record(file, offset)
    except Fault as fault:
        raise Fault(file.path, lines - 1, offset, fault.problem) from None


def _ignore(_fault: Fault) -> None:
    """Whoever reads the images is given the fault."""


def _find_parts(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of the parts and the parts; none where there are none."""
    for place in _PARTS_FOLDERS:
        if (folder / place).is_dir() and (paths := ofrecord.find_parts(folder / place)):
            return folder / place, paths
    return folder, []


def _describe_ofrecord(
    folder: Path, paths: list[Path], property_content: bytes, *, strict: bool
) -> OfrecordSet:
    sizes = {path.name: _size_of_part(path) for path in paths}
    counts: dict[str, int] = {}
    path = folder / PARTS_INDEX
    if path.exists():
        index = read_document(path, PartsIndex, kind="index of parts", remedy="remove it")
        written = {part.name: part.size_bytes for part in index.parts}
        for name in sorted(written.keys() | sizes.keys()):
            if strict and written.get(name) != sizes.get(name):
                raise UserError(
                    f"{folder / name}: {sizes.get(name, 0)} bytes, but {PARTS_INDEX} says "
                    f"{written.get(name, 0)}; copy the data set again"
                )
        if written == sizes:
            counts = {part.name: part.images for part in index.parts}
    digest = hashlib.sha256("".join(f"{name}\t{size}\n" for name, size in sizes.items()).encode())
    digest.update(property_content)
    return OfrecordSet(
        folder=folder,
        parts=tuple(
            Part(path=path, size_bytes=sizes[path.name], images=counts.get(path.name)) for path in paths
        ),
        digits=ofrecord.digits_of(paths),
        images=sum(counts.values()) if counts else None,
        index_sha256=digest.hexdigest(),
    )


def _size_of_part(path: Path) -> int:
    with RecordFile(path) as file:
        return file.size


def _first_size(held: RecordioSet | OfrecordSet | None) -> tuple[int, int] | None:
    """Width and height of the first image."""
    contents: list[Content] = []
    if isinstance(held, RecordioSet):
        with RecordFile(held.records) as file:
            contents = next((batch.contents for batch in recordio.read_batches(file, skip=_ignore)), [])
    elif held is not None:
        with RecordFile(held.parts[0].path) as file:
            contents = next((batch.contents for batch in ofrecord.read_batches(file, skip=_ignore)), [])
    return next((size_of(content) for content in contents if content), None)
