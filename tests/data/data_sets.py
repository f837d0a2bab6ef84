"""Small data sets for tests, and what is in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dlperf.data.dataset import describe
from dlperf.data.ofrecord import part_name, write_images
from dlperf.data.reading import read_images
from dlperf.data.recordio import RecordWriter
from dlperf.data.records import Content, Fault, Skip

Labels = Sequence[float | Sequence[float]]


def write_recordio(
    folder: Path, labels: Labels, contents: Sequence[bytes], *, key: int = 0, classes: int | None = 10
) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "train.rec").open("wb", 0) as records, (folder / "train.idx").open("wb") as index:
        RecordWriter(records, index).write(key, labels, contents)
    if classes is not None:
        (folder / "property").write_text(f"{classes},112,112")
    return folder


def write_part(folder: Path, labels: Sequence[int], contents: Sequence[bytes], *, number: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / part_name(number)).open("wb", 0) as stream:
        write_images(stream, labels, contents)
    return folder


def write_insightface(folder: Path, persons: Sequence[Sequence[bytes]]) -> Path:
    """The images of each person as InsightFace publishes them: range, images, a range per person."""
    images = [image for person in persons for image in person]
    first = len(images) + 1
    begins = [1 + sum(map(len, persons[:number])) for number in range(len(persons) + 1)]
    ranges = [list(map(float, pair)) for pair in pairwise(begins)]
    labels = [float(number) for number, person in enumerate(persons) for _ in person]
    return write_recordio(
        folder,
        [[first, first + len(persons)], *labels, *ranges],
        [b"", *images, *[b""] * len(persons)],
        classes=len(persons),
    )


def images_of(folder: Path, *, form: str = "", skip: Skip | None = None) -> list[tuple[int, bytes]]:
    """Label and encoded image of all images of one form, by default of the first there is."""
    description = describe(folder, strict=skip is None)
    forms = {"recordio": description.recordio, "ofrecord": description.ofrecord}
    held = forms[form] if form else description.recordio or description.ofrecord
    assert held is not None
    batches = read_images(held, classes=description.classes, skip=skip)
    pairs: list[tuple[int, Content]] = []
    for batch in batches:
        pairs += zip(batch.labels, batch.contents, strict=True)
    return [(label, bytes(content)) for label, content in pairs]


def faults_of(folder: Path) -> list[str]:
    """The faults that reading all images finds, without the folder."""
    faults: list[Fault] = []
    images_of(folder, skip=faults.append)
    return [str(fault).removeprefix(f"{folder}/") for fault in faults]
