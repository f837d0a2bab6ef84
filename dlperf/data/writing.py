"""Data sets written: a folder appears whole under its name, or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from dlperf.data import ofrecord, recordio
from dlperf.data.dataset import (
    INDEX,
    PARTS_FOLDER,
    PARTS_INDEX,
    PROPERTY,
    RECORDS,
    PartEntry,
    PartsIndex,
)
from dlperf.data.records import Content
from dlperf.errors import UserError
from dlperf.wording import plural

DEFAULT_PARTS = 8
_BUFFER_BYTES = 1 << 16
_GIB = 1 << 30

# Takes labels and encoded images of the next records.
Write = Callable[[Sequence[int], Sequence[Content]], None]


@contextmanager
def new_folder(target: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well, else is gone.

    UserError where `target` is anything but a new name or an empty folder, where the disk has not the bytes
    that are needed, or is full after all.
    """
    target = target.absolute()
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target} exists and is no folder; name a new one")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; name a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if needed_bytes > free:
            raise UserError(
                f"{target.parent}: needs {needed_bytes / _GIB:.1f} GiB, its disk has {free / _GIB:.1f} GiB"
            )
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.unfinished-"))
    except OSError as error:
        raise UserError(f"{target}: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp gives 0700, which another user could not read
        _sync(folder)
        folder.rename(target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise UserError(f"{target}: {error.strerror}") from None
        raise


def write_property(folder: Path, *, classes: int, image_size: tuple[int, int]) -> None:
    """Write the number of classes, and the size of the images: width and height in pixels."""
    width, height = image_size
    with _written(folder / PROPERTY, _BUFFER_BYTES) as stream:
        stream.write(b"%d,%d,%d" % (classes, height, width))


def copy_property(source: Path, folder: Path) -> None:
    """Write the same as another data set has."""
    with _written(folder / PROPERTY, _BUFFER_BYTES) as stream:
        stream.write((source / PROPERTY).read_bytes())


@contextmanager
def recordio_writer(folder: Path) -> Iterator[Write]:
    """Writes train.rec and train.idx, with the keys 0, 1, 2 and on.

    All records are images, so that every reader can use the file: MXNet's ImageRecordIter, which fails on
    records without an image, and InsightFace's, which take all keys where the first record has no range.
    UserError for a label that a float32 does not hold.
    """
    with _written(folder / RECORDS, 0) as records, _written(folder / INDEX, _BUFFER_BYTES) as index:
        writer = recordio.RecordWriter(records, index)
        key = 0

        def write(labels: Sequence[int], contents: Sequence[Content]) -> None:
            nonlocal key
            largest = max(labels)
            if largest > recordio.LARGEST_LABEL:
                raise UserError(
                    f"label {largest} does not fit into RecordIO, whose labels are float32: the largest is "
                    f"{recordio.LARGEST_LABEL}"
                )
            writer.write(key, labels, contents)
            key += len(labels)

        yield write


@contextmanager
def ofrecord_writer(folder: Path, *, images: int, parts: int | None) -> Iterator[Write]:
    """Writes parts, which hold as many images each, or one more; by default 8 parts.

    UserError where there are fewer images than parts.
    """
    parts = min(DEFAULT_PARTS, images) if parts is None else parts
    if parts > images:
        raise UserError(
            f"{plural(images, 'image')} cannot fill {plural(parts, 'part')}; choose fewer with --parts"
        )
    writer = _PartsWriter(folder / PARTS_FOLDER, images, parts)
    with writer:
        yield writer.write


class _PartsWriter:
    """One part after the other, and at the end their index."""

    def __init__(self, folder: Path, images: int, parts: int) -> None:
        self._folder = folder
        self._sizes = [images // parts + (number < images % parts) for number in range(parts)]
        self._entries: list[PartEntry] = []  # of the parts that are whole
        self._stack = ExitStack()
        self._stream: IO[bytes] | None = None
        self._images = self._bytes = 0  # in the part that is being written

    def __enter__(self) -> None:
        self._folder.mkdir(parents=True)

    def write(self, labels: Sequence[int], contents: Sequence[Content]) -> None:
        """Write images, to the next part where the last is full."""
        begin = 0
        while begin < len(labels):
            number = len(self._entries)
            if self._stream is None:
                path = self._folder / ofrecord.part_name(number)
                self._stream = self._stack.enter_context(_written(path, 0))
            end = min(len(labels), begin + self._sizes[number] - self._images)
            self._bytes += ofrecord.write_images(self._stream, labels[begin:end], contents[begin:end])
            self._images += end - begin
            begin = end
            if self._images == self._sizes[number]:
                self._end_part()

    def _end_part(self) -> None:
        self._stack.close()
        name = ofrecord.part_name(len(self._entries))
        self._entries.append(PartEntry(name=name, images=self._images, size_bytes=self._bytes))
        self._stream = None
        self._images = self._bytes = 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stack.close()
            return
        if self._images:  # fewer than planned: some were skipped
            self._end_part()
        if len(self._entries) < len(self._sizes):
            images = sum(entry.images for entry in self._entries)
            raise UserError(
                f"{plural(images, 'image')} left cannot fill {plural(len(self._sizes), 'part')}; "
                "choose fewer with --parts"
            )
        with _written(self._folder / PARTS_INDEX, _BUFFER_BYTES) as stream:
            stream.write((PartsIndex(parts=tuple(self._entries)).model_dump_json(indent=1) + "\n").encode())
        _sync(self._folder)
        _sync(self._folder.parent)


@contextmanager
def _written(path: Path, buffer_bytes: int) -> Iterator[IO[bytes]]:
    """A new file, on the disk when the block has ended well."""
    with path.open("wb", buffering=buffer_bytes) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
