"""Data sets of images the size of aligned faces, made from a seed."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlperf.data.ahead import done_ahead
from dlperf.data.recordio import LARGEST_LABEL
from dlperf.data.records import Progress
from dlperf.data.writing import new_folder, ofrecord_writer, recordio_writer, write_property
from dlperf.errors import UserError

WIDTH = HEIGHT = 112
_CHUNK = 256
_LARGEST_IMAGE_BYTES = 16_000
_LABELS, _CLASS, _IMAGE = range(3)  # streams of random numbers
_CLASS_CELLS, _IMAGE_CELLS = 9, (24, 40)
_SHARES = (0.2, 0.5)


def make(
    target: Path,
    *,
    images: int,
    classes: int,
    seed: int,
    parts: int | None,
    quality: int,
    progress: Progress | None = None,
) -> None:
    """Write a data set in both forms, which hold the same bytes in the same order.

    Images of a class have a pattern in common and a finer one of their own. Classes are as even as can be, in
    random order. The same arguments give the same bytes, as long as numpy and Pillow's JPEG encoder do.

    UserError where there are more classes than RecordIO's labels can tell apart, or fewer images than parts.
    """
    if classes > LARGEST_LABEL:
        raise UserError(
            f"{classes} classes, but RecordIO's labels, which are float32, tell {LARGEST_LABEL} apart"
        )
    needed = 2 * images * _LARGEST_IMAGE_BYTES
    with new_folder(target, needed_bytes=needed) as folder:
        with (
            recordio_writer(folder) as write_record,
            ofrecord_writer(folder, images=images, parts=parts) as write_part,
        ):
            for labels, faces in _faces(images, classes=classes, seed=seed, quality=quality):
                write_record(labels, faces)
                write_part(labels, faces)
                if progress is not None:
                    progress(len(labels))
        write_property(folder, classes=classes, image_size=(WIDTH, HEIGHT))


def _faces(images: int, *, classes: int, seed: int, quality: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """Labels and JPEG files of all images, some at a time."""
    all_labels = _labels(images, classes, seed)

    def encode(begin: int) -> tuple[list[int], list[bytes]]:
        labels: list[int] = all_labels[begin : begin + _CHUNK].tolist()
        return labels, [_face(seed, label, number, quality) for number, label in enumerate(labels, begin)]

    yield from done_ahead(encode, range(0, images, _CHUNK))


def _labels(images: int, classes: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng([seed, _LABELS])
    if images < classes:
        return random.choice(classes, images, replace=False)
    return random.permutation(images) % classes


def _face(seed: int, label: int, number: int, quality: int) -> bytes:
    random = np.random.default_rng([seed, _IMAGE, number])
    shared = _pattern(np.random.default_rng([seed, _CLASS, label]), _CLASS_CELLS)
    own = _pattern(random, int(random.integers(*_IMAGE_CELLS)))
    image = Image.blend(shared, own, random.uniform(*_SHARES))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _pattern(random: np.random.Generator, cells: int) -> Image.Image:
    """Random colours, smooth between cells."""
    colours = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
