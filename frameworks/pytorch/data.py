"""A reader of a data set for PyTorch: RecordIO, decoded by OpenCV in the workers of a DataLoader."""

import itertools
from typing import Any, Iterator, Optional, Tuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from frameworks.common import read_alone
from frameworks.common.data import Batch
from frameworks.common.dataset import RECORDIO, DataError, Share
from frameworks.common.decoding import DecodedBatches
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
        self._decoded: Optional[DecodedBatches] = None  # each worker opens the file itself

    def __getitem__(self, number: int) -> Any:
        """Images and labels of a batch; the DataError of a damaged one, which a worker could not raise."""
        if self._decoded is None:
            self._decoded = DecodedBatches(self._share, self._batch_size)
        try:
            images, labels = self._decoded.batch(number)
        except DataError as error:
            return error
        return torch.from_numpy(images), torch.from_numpy(labels)


if __name__ == "__main__":
    read_alone.run(PyTorchReader)
