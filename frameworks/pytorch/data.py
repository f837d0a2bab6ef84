"""A reader of a data set for PyTorch: RecordIO, decoded by OpenCV in the workers of a DataLoader."""

import itertools
import os
from typing import Any, Iterator, Tuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from frameworks.common import read_alone
from frameworks.common.data import Batch
from frameworks.common.dataset import RECORDIO, DataError, Share, recordio_image, recordio_record
from frameworks.common.networks import INPUT_SHAPE
from frameworks.common.reading import PREFETCHED_BATCHES


class PyTorchReader:
    """`Reader` of frameworks/common/reading.py; of a damaged record it raises DataError."""

    form = RECORDIO

    def __init__(self, share: Share, batch_size: int, threads: int) -> None:
        loader: DataLoader[Any] = DataLoader(
            _Batches(share, batch_size),
            batch_size=None,  # an item is a batch
            sampler=_Numbers(),
            num_workers=threads,
            prefetch_factor=-(-PREFETCHED_BATCHES // threads),
            multiprocessing_context="fork",
        )
        self._batches = iter(loader)
        self.processes: Tuple[int, ...] = tuple(worker.pid for worker in self._batches._workers)  # noqa: SLF001

    def next(self) -> Batch:
        """See `Reader`."""
        batch = next(self._batches)
        if isinstance(batch, DataError):
            raise batch
        images, labels = batch
        return images.numpy(), labels.numpy()

    def close(self) -> None:
        """See `Reader`."""
        self._batches._shutdown_workers()  # noqa: SLF001 - else they end with the interpreter
        self.processes = ()


class _Numbers(Sampler[int]):
    """0, 1, 2 and on without end."""

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class _Batches(Dataset[Any]):
    """The batches of a share, by their number."""

    def __init__(self, share: Share, batch_size: int) -> None:
        self._share, self._batch_size = share, batch_size
        self._file = -1  # each worker opens the file itself

    def __getitem__(self, number: int) -> Any:
        """Images and labels of a batch; the DataError of a damaged one, which a worker could not raise."""
        if self._file < 0:
            import cv2  # noqa: PLC0415 - a Python of the user's own may lack it, and train without a data set

            cv2.setNumThreads(0)  # a worker is one thread
            self._decode = lambda content: cv2.imdecode(content, cv2.IMREAD_COLOR)
            self._file = os.open(self._share.files[0], os.O_RDONLY)
        images = np.empty((self._batch_size, *INPUT_SHAPE), np.uint8)
        labels = np.empty(self._batch_size, np.int64)
        try:
            for row in range(self._batch_size):
                place = (number * self._batch_size + row) % self._share.images
                images[row], labels[row] = self._image(place)
        except DataError as error:
            return error
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _image(self, place: int) -> Tuple[np.ndarray, int]:
        record = recordio_record(self._file, self._share, place)
        content, label = recordio_image(self._file, record)
        pixels = self._decode(np.frombuffer(content, np.uint8)) if content else None
        channels, height, width = INPUT_SHAPE
        if pixels is None or pixels.shape != (height, width, channels):
            what = "no image" if pixels is None else f"an image of {pixels.shape[1]} x {pixels.shape[0]}"
            raise DataError(
                record.file, f"{what}, not one of {width} x {height} pixels", record.number, record.offset
            )
        return pixels[:, :, ::-1].transpose(2, 0, 1), label


if __name__ == "__main__":
    read_alone.run(PyTorchReader)
