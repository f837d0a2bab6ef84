"""A data set read as a whole: what it holds and which records have faults."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from dlperf.data.ahead import done_ahead
from dlperf.data.dataset import Form, OfrecordSet, RecordioSet
from dlperf.data.pictures import decoded_size
from dlperf.data.reading import read_images
from dlperf.data.records import Fault, Image, Skip

SHOWN_FAULTS = 10
_CHUNK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the images of one form are.

    Attributes:
        form: recordio or ofrecord.
        size_bytes: of its files, without indexes.
        images: how many have no fault.
        classes_seen: how many labels they have.
        image_bytes: encoded size of the smallest image, of all together and of the largest.
        image_sizes: how many images have which width and height, most frequent first; empty where they were
            not decoded.
        content_sha256: of labels and images in their order: the same for both forms of a data set.
        faults: how many there are.
        first_faults: the first of them.
    """

    form: Form
    size_bytes: int
    images: int
    classes_seen: int
    image_bytes: tuple[int, int, int]
    image_sizes: tuple[tuple[tuple[int, int], int], ...]
    content_sha256: str
    faults: int
    first_faults: tuple[Fault, ...]


def check(held: RecordioSet | OfrecordSet, *, classes: int | None, decode: bool) -> Checked:
    """Read all images of one form, and with `decode` decode each."""
    faults: list[Fault] = []
    total_faults = 0

    def remember(fault: Fault) -> None:
        nonlocal total_faults
        total_faults += 1
        if len(faults) < SHOWN_FAULTS:
            faults.append(fault)

    images: Iterable[Image] = read_images(held, classes=classes, skip=remember)
    sizes: Counter[tuple[int, int]] = Counter()
    if decode:
        images = _decoded(images, sizes, remember)
    digest = hashlib.sha256()
    count = total = largest = 0
    smallest: int | None = None
    labels: set[int] = set()
    for image in images:
        length = len(image.content)
        digest.update(b"%d %d\n" % (image.label, length))
        digest.update(image.content)
        labels.add(image.label)
        count += 1
        total += length
        largest = max(largest, length)
        smallest = length if smallest is None else min(smallest, length)
    return Checked(
        form="recordio" if isinstance(held, RecordioSet) else "ofrecord",
        size_bytes=held.size_bytes,
        images=count,
        classes_seen=len(labels),
        image_bytes=(smallest or 0, total, largest),
        image_sizes=tuple(sizes.most_common()),
        content_sha256=digest.hexdigest(),
        faults=total_faults,
        first_faults=tuple(faults),
    )


def _decoded(images: Iterable[Image], sizes: Counter[tuple[int, int]], remember: Skip) -> Iterator[Image]:
    """The images that can be decoded; counts their sizes."""
    for chunk in done_ahead(_decode, _chunks(iter(images))):
        for image, size in chunk:
            if isinstance(size, str):
                remember(Fault(image.path, image.number, image.offset, size))
            else:
                sizes[size] += 1
                yield image


def _chunks(images: Iterator[Image]) -> Iterator[list[Image]]:
    while chunk := list(islice(images, _CHUNK)):
        yield chunk


def _decode(chunk: list[Image]) -> list[tuple[Image, tuple[int, int] | str]]:
    return [(image, decoded_size(image.content)) for image in chunk]
