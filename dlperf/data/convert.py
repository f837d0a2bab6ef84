"""A data set in another form: the same images, labels and order."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dlperf.data.ahead import done_ahead
from dlperf.data.dataset import PROPERTY, Description, Form, OfrecordSet, RecordioSet, describe
from dlperf.data.ofrecord import count_records
from dlperf.data.reading import read_images
from dlperf.data.records import Batch, Fault, Progress, Skip
from dlperf.data.writing import (
    Write,
    copy_property,
    new_folder,
    ofrecord_writer,
    recordio_writer,
    write_property,
)
from dlperf.errors import UserError

# Framing and indexes are a small part of a data set.
_LARGER = 1.02
_NO_SIZE = (0, 0)


def convert(
    source: Path,
    target: Path,
    *,
    to: Form | None,
    parts: int | None,
    skip: Skip | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the data set in `source` as a new one in `target`, with memory that does not grow with it.

    Returns how many records had faults and were left out.

    `to` is by default the form that `source` does not have. `parts` is for OFRecord, by default 8. With
    `skip` records with faults are left out, and given to it.
    """
    description = describe(source, strict=skip is None)
    to = to or _other_form(description)
    if to == "recordio" and parts is not None:
        raise UserError("--parts is for --to ofrecord; a RecordIO data set is one file")
    held = _to_read(description, to)
    skipped = 0

    def count(fault: Fault) -> None:
        nonlocal skipped
        skipped += 1
        if skip is None:
            raise fault
        skip(fault)

    images = read_images(held, classes=description.classes, skip=count)
    with new_folder(target, needed_bytes=int(held.size_bytes * _LARGER)) as folder:
        if to == "recordio":
            writing = recordio_writer(folder)
        else:
            writing = ofrecord_writer(folder, images=_count(held), parts=parts)
        with writing as write:
            classes = _write_all(images, write, progress)
        if (source / PROPERTY).exists():
            copy_property(source, folder)
        else:
            size = description.image_size or _NO_SIZE
            write_property(folder, classes=description.classes or classes, image_size=size)
    return skipped


def _other_form(description: Description) -> Form:
    if len(description.forms) > 1:
        raise UserError(f"{description.folder} has both forms; choose with --to recordio or --to ofrecord")
    return "ofrecord" if description.recordio is not None else "recordio"


def _to_read(description: Description, to: Form) -> RecordioSet | OfrecordSet:
    """The form to read: where there are two, the one that is not written."""
    recordio, ofrecord = description.recordio, description.ofrecord
    first, second = (ofrecord, recordio) if to == "recordio" else (recordio, ofrecord)
    held = first or second
    if held is None:
        raise AssertionError("a description has a form")
    return held


def _count(held: RecordioSet | OfrecordSet) -> int:
    if isinstance(held, RecordioSet) or held.images is not None:
        return held.images or 0
    return sum(count_records(part.path) for part in held.parts)


def _write_all(batches: Iterator[Batch[int]], write: Write, progress: Progress | None) -> int:
    """How many classes the images that were written need; UserError for none.

    A thread writes while the next are read.
    """

    def write_batch(batch: Batch[int]) -> tuple[int, int]:
        write(batch.labels, batch.contents)
        return len(batch.labels), max(batch.labels)

    largest = -1
    with closing(done_ahead(write_batch, batches, threads=1)) as results:
        for written, highest in results:
            largest = max(largest, highest)
            if progress is not None:
                progress(written)
    if largest < 0:
        raise UserError("no image can be read; there is nothing to convert")
    return largest + 1
