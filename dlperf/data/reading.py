"""The images of a data set, one by one, from either form."""

import math
from collections.abc import Iterator
from itertools import chain

from dlperf.data import ofrecord, recordio
from dlperf.data.dataset import INDEX, RECORDS, OfrecordSet, RecordioSet
from dlperf.data.records import Fault, Image, RecordFile, Skip, report
from dlperf.wording import plural


def read_images(
    held: RecordioSet | OfrecordSet, *, classes: int | None, skip: Skip | None = None
) -> Iterator[Image]:
    """All images of one form, in their order; what is yielded may be kept.

    Raises Fault where a record, its label or its line of the index is wrong; with `skip` that gets the fault,
    and the image is left out. Where `classes` are given, labels must be below.
    """
    images = _recordio_images(held, skip) if isinstance(held, RecordioSet) else _ofrecord_images(held, skip)
    limit = math.inf if classes is None else classes
    for image in images:
        if 0 <= image.label < limit:
            yield image
        else:
            known = "" if classes is None else f": the data set has {plural(classes, 'class', 'classes')}"
            problem = f"label {image.label} is out of range{known}"
            report(Fault(image.path, image.number, image.offset, problem), skip)


def _ofrecord_images(held: OfrecordSet, skip: Skip | None) -> Iterator[Image]:
    for part in held.parts:
        with RecordFile(part.path) as file:
            yield from ofrecord.read_images(file, skip=skip)


def _recordio_images(held: RecordioSet, skip: Skip | None) -> Iterator[Image]:
    images = None if held.persons is None else range(1, held.images + 1)
    for key, record in _indexed_records(held, skip):
        if images is not None and key not in images:
            continue
        label = record.labels[0]
        if not len(record.content):
            problem = "no image in it"
        elif not math.isfinite(label) or label != int(label):
            problem = f"label {label:g} is not a whole number"
        else:
            yield Image(int(label), record.content, held.records, record.number, record.offset)
            continue
        report(Fault(held.records, record.number, record.offset, problem), skip)


def _indexed_records(held: RecordioSet, skip: Skip | None) -> Iterator[tuple[int, recordio.Record]]:
    """Key and record of all that the index names.

    Index and file are read side by side, so that memory does not grow with the data set.
    """
    faulty: set[int] = set()  # where faults began since the last good record

    def remember(fault: Fault) -> None:
        faulty.add(fault.offset)
        report(fault, skip)

    def check(line: recordio.IndexLine) -> None:
        if line.offset not in faulty:
            fault = Fault(held.index, line.line - 1, line.offset, f"no record of {RECORDS} begins there")
            report(fault, skip)

    index = recordio.read_index(held.index)
    line = next(index, None)
    with RecordFile(held.records) as file:
        for record in recordio.read_records(file, skip=remember):
            while line is not None and line.offset < record.offset:
                check(line)
                line = next(index, None)
            if faulty:
                faulty.clear()
            if line is not None and line.offset == record.offset:
                yield line.key, record
                line = next(index, None)
            else:
                problem = f"{INDEX} does not name it"
                report(Fault(held.records, record.number, record.offset, problem), skip)
    for rest in chain([line] if line else [], index):
        check(rest)
