"""A data set read as a whole: what it holds and which records have faults."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dlperf.data.ahead import done_ahead
from dlperf.data.dataset import Form, OfrecordSet, RecordioSet
from dlperf.data.pictures import decoded_size
from dlperf.data.reading import read_images
from dlperf.data.records import Batch, Fault, Progress, Skip

SHOWN_FAULTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the images of one form are."""

    form: Form
    size_bytes: int  # of its files, without indexes
    images: int  # without faults
    classes_seen: int  # labels that they have
    image_bytes: tuple[int, int, int]  # encoded size of the smallest image, of all together, of the largest
    # Width and height, and how many images have them, most frequent first; empty where they were not decoded.
    image_sizes: tuple[tuple[tuple[int, int], int], ...]
    content_sha256: str  # of labels and images in their order: the same for both forms of a data set
    faults: int
    first_faults: tuple[Fault, ...]


def check(
    held: RecordioSet | OfrecordSet, *, classes: int | None, decode: bool, progress: Progress | None = None
) -> Checked:
    """Read all images of one form, and with `decode` decode each."""
    faults: list[Fault] = []
    total_faults = 0

    def remember(fault: Fault) -> None:
        nonlocal total_faults
        total_faults += 1
        if len(faults) < SHOWN_FAULTS:
            faults.append(fault)

    batches: Iterable[Batch[int]] = read_images(held, classes=classes, skip=remember)
    sizes: Counter[tuple[int, int]] = Counter()
    if decode:
        batches = _decoded(batches, sizes, remember)
    digest = hashlib.sha256()
    images = total = largest = 0
    smallest: int | None = None
    seen: set[int] = set()
    for batch in batches:
        lengths = list(map(len, batch.contents))
        for label, length, content in zip(batch.labels, lengths, batch.contents, strict=True):
            digest.update(b"%d %d\n" % (label, length))
            digest.update(content)
        seen.update(batch.labels)
        images += len(lengths)
        if progress is not None:
            progress(len(lengths))
        total += sum(lengths)
        largest = max(largest, *lengths)
        smallest = min(lengths) if smallest is None else min(smallest, *lengths)
    return Checked(
        form="recordio" if isinstance(held, RecordioSet) else "ofrecord",
        size_bytes=held.size_bytes,
        images=images,
        classes_seen=len(seen),
        image_bytes=(smallest or 0, total, largest),
        image_sizes=tuple(sizes.most_common()),
        content_sha256=digest.hexdigest(),
        faults=total_faults,
        first_faults=tuple(faults),
    )


def _decoded(
    batches: Iterable[Batch[int]], sizes: Counter[tuple[int, int]], skip: Skip
) -> Iterator[Batch[int]]:
    """The images that can be decoded; counts their sizes."""
    for batch, results in done_ahead(_decode, batches):
        sizes.update(result for result in results if not isinstance(result, str))
        kept = batch.without_faults([result if isinstance(result, str) else None for result in results], skip)
        if kept.labels:
            yield kept


def _decode(batch: Batch[int]) -> tuple[Batch[int], list[tuple[int, int] | str]]:
    return batch, [decoded_size(content) for content in batch.contents]
