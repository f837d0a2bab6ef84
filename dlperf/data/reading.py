"""The images of a data set, batch by batch, from either form."""

from collections.abc import Iterator

from dlperf.data import ofrecord, recordio
from dlperf.data.dataset import INDEX, RECORDS, OfrecordSet, RecordioSet
from dlperf.data.records import Batch, Fault, RecordFile, Skip, report
from dlperf.wording import plural

_MOST_CLASSES = 1 << 31  # OFRecord's labels are int32


def read_images(
    held: RecordioSet | OfrecordSet, *, classes: int | None, skip: Skip | None = None
) -> Iterator[Batch[int]]:
    """All images of one form, in their order, in batches that are not empty; what is yielded may be kept.

    Raises Fault where a record, its label or its line of the index is wrong; with `skip` that gets the fault,
    and the image is left out. Labels must be below `classes`, where they are known, and below 2^31.
    """
    batches = _recordio_batches(held, skip) if isinstance(held, RecordioSet) else _parts_batches(held, skip)
    limit = _MOST_CLASSES if classes is None else min(classes, _MOST_CLASSES)
    known = "" if classes is None else f": the data set has {plural(classes, 'class', 'classes')}"
    for batch in batches:
        labels, contents = batch.labels, batch.contents
        if not (labels and min(labels) >= 0 and max(labels) < limit and all(contents)):
            problems = [
                "no image in it"
                if not content
                else None
                if 0 <= label < limit
                else f"label {label} is out of range{known}"
                for label, content in zip(labels, contents, strict=True)
            ]
            batch = batch.without_faults(problems, skip)  # noqa: PLW2901
        if batch.labels:
            yield batch


def _parts_batches(held: OfrecordSet, skip: Skip | None) -> Iterator[Batch[int]]:
    for part in held.parts:
        with RecordFile(part.path) as file:
            yield from ofrecord.read_batches(file, skip=skip)


def _recordio_batches(held: RecordioSet, skip: Skip | None) -> Iterator[Batch[int]]:
    """The records that the index names as images, with labels that are whole numbers."""
    for keys, named in _indexed(held, skip):
        batch = named
        if held.persons is not None:
            batch = batch.only([1 <= key <= held.images for key in keys])
        whole = [label.is_integer() for label in batch.labels]
        if not all(whole):
            problems = [
                None if is_whole else f"label {label:g} is not a whole number"
                for label, is_whole in zip(batch.labels, whole, strict=True)
            ]
            batch = batch.without_faults(problems, skip)
        yield Batch(batch.path, batch.numbers, batch.offsets, list(map(int, batch.labels)), batch.contents)


def _indexed(held: RecordioSet, skip: Skip | None) -> Iterator[tuple[list[int], Batch[float]]]:
    """The records of a RecordIO file that its index names, and their keys.

    Index and file are read side by side, so that memory does not grow with the data set.
    """
    faulty: set[int] = set()  # where faults began since the last good record

    def remember(fault: Fault) -> None:
        faulty.add(fault.offset)
        report(fault, skip)

    with recordio.Index(held.index) as index, RecordFile(held.records) as file:
        for batch in recordio.read_batches(file, skip=remember):
            keys, offsets = index.peek(len(batch.offsets))
            if offsets == batch.offsets:
                index.take(len(keys))
                yield keys, batch
            else:
                yield _matched(batch, index, faulty, skip)
            faulty.clear()
        while index.peek(1)[1]:
            _take_line(index, faulty, skip)


def _matched(
    batch: Batch[float], index: recordio.Index, faulty: set[int], skip: Skip | None
) -> tuple[list[int], Batch[float]]:
    """The records of a batch that the index names, and their keys, where not all are."""
    keys: list[int] = []
    problems: list[str | None] = []
    for offset in batch.offsets:
        while (ahead := index.peek(1)[1]) and ahead[0] < offset:
            _take_line(index, faulty, skip)
        if ahead == [offset]:
            keys += index.peek(1)[0]
            index.take(1)
        problems.append(None if ahead == [offset] else f"{INDEX} does not name it")
    return keys, batch.without_faults(problems, skip)


def _take_line(index: recordio.Index, faulty: set[int], skip: Skip | None) -> None:
    """Take a line of the index at whose byte no good record begins: a fault, unless that is known already."""
    (offset,) = index.peek(1)[1]
    line = index.take(1)
    if offset not in faulty:
        report(Fault(index.path, line - 1, offset, f"no record of {RECORDS} begins there"), skip)
