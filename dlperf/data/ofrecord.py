"""OFRecord, the format of OneFlow's data sets: files part-00000, part-00001 and on, of one record per image.

A record is its length (int64, little-endian) and a message of Protocol Buffers. The message maps names to
features: `label` is a list with one whole number, `encoded` a list with one string of bytes, the image.
The two messages are short and fixed, so they are written and read here without the protobuf package, of which
each version of OneFlow needs another.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from dlperf.data.records import (
    CHUNK_BYTES,
    Batch,
    Content,
    Fault,
    RecordFile,
    Skip,
    report,
    write_buffers,
)
from dlperf.errors import UserError

_LENGTH = struct.Struct("<q")
_PART_NAME = re.compile(r"part-([0-9]{1,9})")
# Tags of the wire format: the number of a field times 8, plus 2 where a length follows, 0 for a number.
_BYTES_FIELD = 2
_FEATURE, _KEY, _VALUE = 0x0A, 0x0A, 0x12
_BYTES_LIST, _INT32_LIST, _INT64_LIST = 0x0A, 0x22, 0x2A
_VALUES, _ONE_VALUE = 0x0A, 0x08
_VARINT_BITS, _VARINT_BYTE = 70, 0x7F
_MOST_NAME_BYTES = 64


def read_batches(file: RecordFile, *, skip: Skip | None = None) -> Iterator[Batch[int]]:
    """The images of a part, in its order.

    Raises Fault where a record is damaged; with `skip` that gets the fault and reading goes on. A length
    without sense ends the part, as nothing says where the next record begins.
    """
    number = offset = 0
    wanted = CHUNK_BYTES
    while offset < file.size:
        chunk = file.read(offset, wanted)
        messages, at = _split(chunk)
        if not messages:
            problem = f"cut short: the file ends at byte {file.size}"
            if len(chunk) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(chunk)
                problem = file.shortage(offset + _LENGTH.size, length) or (
                    "" if length else "a length of 0 bytes"
                )
                wanted = _LENGTH.size + length
            if problem:
                report(Fault(file.path, number, offset, problem), skip)
                return
            continue
        wanted = CHUNK_BYTES
        yield _decoded(messages, file.path, number, offset, skip)
        number += len(messages)
        offset += at


def _split(chunk: bytes) -> tuple[list[memoryview], int]:
    """The messages that are whole in a chunk, and where they end."""
    view, size = memoryview(chunk), len(chunk)
    unpack, length_size = _LENGTH.unpack_from, _LENGTH.size
    messages: list[memoryview] = []
    at = 0
    while at + length_size <= size:
        (length,) = unpack(chunk, at)
        end = at + length_size + length
        if length <= 0 or end > size:
            break
        messages.append(view[at + length_size : end])
        at = end
    return messages, at


def _decoded(
    messages: list[memoryview], path: Path, number: int, offset: int, skip: Skip | None
) -> Batch[int]:
    numbers: list[int] = []
    offsets: list[int] = []
    labels: list[int] = []
    contents: list[Content] = []
    for place, message in enumerate(messages, number):
        try:
            label, content = _decode(message)
        except ValueError as error:
            report(Fault(path, place, offset, str(error)), skip)
        else:
            numbers.append(place)
            offsets.append(offset)
            labels.append(label)
            contents.append(content)
        offset += _LENGTH.size + len(message)
    return Batch(path, numbers, offsets, labels, contents)


def count_records(path: Path) -> int:
    """How many records a part has, by their lengths; it ends where one is without sense."""
    number = offset = 0
    with RecordFile(path) as file:
        while len(head := file.read(offset, _LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            if length <= 0 or file.shortage(offset + _LENGTH.size, length):
                break
            offset += _LENGTH.size + length
            number += 1
    return number


def _decode(message: memoryview) -> tuple[int, memoryview]:
    """Label and image of a message; ValueError says what is wrong."""
    label: int | None = None
    image: memoryview | None = None
    for tag, entry, _ in _fields(message):
        if tag != _FEATURE:
            continue
        key, value = b"", None
        for inner, content, _ in _fields(entry):
            if inner == _KEY:
                key = bytes(content[:_MOST_NAME_BYTES])
            elif inner == _VALUE:
                value = content
        if key == b"encoded":
            image = _only_bytes(value)
        elif key == b"label":
            label = _only_integer(value)
    if image is None:
        raise ValueError("it has no feature `encoded`, one string of bytes")
    if label is None:
        raise ValueError("it has no feature `label`, one whole number")
    return label, image


def _only_bytes(feature: memoryview | None) -> memoryview | None:
    kinds = list(_fields(feature)) if feature is not None else []
    values = [
        content
        for kind, of, _ in kinds
        if kind == _BYTES_LIST
        for tag, content, _ in _fields(of)
        if tag == _VALUES
    ]
    return values[0] if len(values) == 1 else None


def _only_integer(feature: memoryview | None) -> int | None:
    values: list[int] = []
    for kind, content, _ in _fields(feature) if feature is not None else ():
        if kind in (_INT32_LIST, _INT64_LIST):
            for tag, packed, number in _fields(content):
                if tag == _VALUES:
                    at = 0
                    while at < len(packed):
                        value, at = _varint(packed, at)
                        values.append(value)
                elif tag == _ONE_VALUE:
                    values.append(number)
    if len(values) != 1:
        return None
    return values[0] - (1 << 64 if values[0] >> 63 else 0)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, int]]:
    """Tag, content and, where it is a number, value of each field; ValueError where a message is damaged."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        number, length = 0, 0
        if kind == 0:
            number, at = _varint(message, at)
        elif kind == _BYTES_FIELD:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not a message of Protocol Buffers")
        if at + length > end:
            raise ValueError("its message ends within a field")
        yield tag, message[at : at + length], number
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number of variable length at `at`, and where it ends."""
    value = shift = 0
    try:
        while (byte := message[at]) & 0x80:
            value |= (byte & _VARINT_BYTE) << shift
            shift += 7
            at += 1
            if shift >= _VARINT_BITS:
                raise ValueError("a number of its message has no end")
    except IndexError:
        raise ValueError("its message ends within a number") from None
    return (value | byte << shift) & 0xFFFF_FFFF_FFFF_FFFF, at + 1


def write_images(part: IO[bytes], labels: Sequence[int], contents: Sequence[Content]) -> int:
    """Write encoded images with labels in [0, 2^31) to a file that is not buffered; returns the bytes."""
    buffers: list[Content] = []
    pack = _LENGTH.pack
    for label, content in zip(labels, contents, strict=True):
        length = len(content)
        head = _label_feature(label) + _image_start(length)
        buffers += (pack(len(head) + length) + head, content)
    return write_buffers(part.fileno(), buffers)


@lru_cache(maxsize=1 << 16)
def _label_feature(label: int) -> bytes:
    values = _sized(_INT32_LIST, _sized(_VALUES, _encoded_varint(label)))
    return _sized(_FEATURE, _sized(_KEY, b"label") + _sized(_VALUE, values))


@lru_cache(maxsize=1 << 16)
def _image_start(length: int) -> bytes:
    """All of the feature `encoded` that stands before an image of `length` bytes."""
    start = b""
    for tag, before in (
        (_VALUES, b""),
        (_BYTES_LIST, b""),
        (_VALUE, _sized(_KEY, b"encoded")),
        (_FEATURE, b""),
    ):
        start = before + bytes([tag]) + _encoded_varint(length + len(start)) + start
    return start


def _sized(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _encoded_varint(len(content)) + content


def _encoded_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > _VARINT_BYTE:
        encoded.append(number & _VARINT_BYTE | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def find_parts(folder: Path) -> list[Path]:
    """The parts in a folder, in their order; none is no error. UserError where one is missing or double."""
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _PART_NAME.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in numbered:
            raise UserError(f"{folder}: {numbered[number].name} and {path.name} have the same number")
        numbered[number] = path
    parts = [numbered[number] for number in sorted(numbered)]
    missing = next((number for number in range(len(parts)) if number not in numbered), None)
    if missing is not None:
        name = part_name(missing, digits_of(parts))
        raise UserError(
            f"{folder}: {name} is missing, but {parts[-1].name} is there; copy the data set again"
        )
    return parts


def digits_of(parts: Sequence[Path]) -> int:
    """How many digits the number in a part's name has: OneFlow's `part_name_suffix_length`, -1 without zeros.

    UserError where some names have leading zeros and others have none.
    """
    numbers = [path.name.removeprefix("part-") for path in parts]
    if all(number == str(int(number)) for number in numbers):
        return -1
    if len({len(number) for number in numbers}) > 1:
        raise UserError(
            f"{parts[0].parent}: {parts[0].name} and {parts[-1].name}: all parts must have as many digits"
        )
    return len(numbers[0])


def part_name(number: int, digits: int = 5) -> str:
    """The name of a part; with -1 digits without leading zeros."""
    return f"part-{number:0{max(digits, 1)}d}"
