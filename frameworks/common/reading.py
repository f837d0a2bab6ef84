"""Batches from a data set: an engine's own reader, and around it what is the same in every engine.

The order is that of the data set: no shuffling, and behind the last image of a device's share again the
first. About every other image is mirrored: a coin per image and epoch, from the case's seed, decides. Images
reach `step` as synthetic ones do, uint8, and are normalised on the device.
"""

import os
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Protocol, Sequence

import numpy as np

from frameworks.common.case import Case, Rank
from frameworks.common.data import Batch
from frameworks.common.dataset import DataError, Share, share_of
from frameworks.common.page_cache import BytesRead, bytes_read, reading_event
from frameworks.common.phases import PROFILED_ITERATIONS

# Batches that every engine's reader has ready; dlperf/adapters/base.py asks for a longer window.
PREFETCHED_BATCHES = 4
_SMALLEST_SPLIT = 4


class Threads(NamedTuple):
    """How a device's CPU threads are shared between computing and reading."""

    computing: int
    reading: int


def split_threads(case: Case) -> Threads:
    """The rule, the same in every engine; dlperf/adapters/base.py has it too.

    On a GPU all threads but one read: that one launches kernels. On CPU a quarter reads. Of fewer than 4 none
    can be given up: one reader then runs beside the computing threads, on the same CPUs.
    """
    threads = case.threads_per_device
    if case.data is None:
        return Threads(threads, 0)
    if case.device == "cuda":
        return Threads(1, max(1, threads - 1))
    reading = threads // _SMALLEST_SPLIT
    return Threads(threads - reading, max(1, reading))


class Reader(Protocol):
    """An engine's own reader of one share, `frameworks/<framework>/data.py`.

    It returns the images in the order of the share, without end, decoded to RGB. Of a damaged image it raises
    DataError or an exception of its own, or it ends the process.
    """

    processes: Sequence[int]  # that read for it, besides this one

    def next(self) -> Batch:
        """The next images, uint8 [B, 3, 112, 112], which the caller may change, and labels, int64 [B]."""

    def close(self) -> None:
        """End its threads and processes."""


class OpenReader(Protocol):
    """The class of such a reader: `form` is what it reads, `threads` how many decode."""

    form: str

    def __call__(self, share: Share, batch_size: int, threads: int) -> Reader:
        """Begin to read."""


class ReadCounters(NamedTuple):
    """What `Batches` counts."""

    clock: float
    wait_seconds: float
    read: Optional[BytesRead]


class Batches:
    """The batches of a process, without end; the seconds that it waits for them are counted."""

    def __init__(
        self, case: Case, rank: Rank, open_reader: OpenReader, *, threads: Optional[int] = None
    ) -> None:
        """Open a reader for each device of the process, nearly always one; with `memory` decode all images.

        `threads` read; None: as many as the case gives to reading.

        Raises:
            DataError: an image cannot be read, or its label is none of the case's classes.
        """
        numbers = range(rank.rank, rank.rank + rank.devices)
        threads = threads or split_threads(case).reading
        self._devices = [_DeviceBatches(case, number, open_reader, threads) for number in numbers]
        self._wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batches = [device.next() for device in self._devices]
        if len(batches) > 1:
            batches = [tuple(np.concatenate(parts) for parts in zip(*batches))]
        self._wait_seconds += time.perf_counter() - start
        return batches[0]

    def processes(self) -> List[int]:
        """This process and those that read for it."""
        return [os.getpid(), *(process for device in self._devices for process in device.processes)]

    def counters(self) -> ReadCounters:
        """The counters now."""
        return ReadCounters(time.perf_counter(), self._wait_seconds, bytes_read(self.processes()))

    def since(self, before: ReadCounters) -> Dict[str, Any]:
        """The value of the event `reading`: what happened since `before`; sizes are null where not known."""
        now, read = self.counters(), None
        if now.read is not None and before.read is not None:
            read = BytesRead(now.read.calls - before.read.calls, now.read.storage - before.read.storage)
        return reading_event(now.clock - before.clock, now.wait_seconds - before.wait_seconds, read)

    def close(self) -> None:
        """End the readers."""
        for device in self._devices:
            device.close()


class _DeviceBatches:
    """The batches of one device."""

    def __init__(self, case: Case, number: int, open_reader: OpenReader, threads: int) -> None:
        if case.data is None:
            raise ValueError("the case has no data set")
        self._share = share_of(case.data, open_reader.form, number, case.world_size)
        self._images, self._seed, self._classes = case.data.images, case.seed, case.num_classes
        self._size, self._given = case.batch_size_per_device, 0
        self._reader: Optional[Reader] = open_reader(self._share, self._size, threads)
        self._memory: Optional[Batch] = None
        if case.data.read == "memory":
            self._memory = self._decoded(min(self._share.images, images_needed(case)))
            self.close()

    def _decoded(self, count: int) -> Batch:
        if self._reader is None:
            raise ValueError("the reader is closed")
        parts = [self._reader.next() for _ in range(-(-count // self._size))]
        images, labels = (np.concatenate(arrays)[:count] for arrays in zip(*parts))
        return images, labels

    @property
    def processes(self) -> Sequence[int]:
        return () if self._reader is None else self._reader.processes

    def next(self) -> Batch:
        own = np.arange(self._given, self._given + self._size)
        self._given += self._size
        if self._memory is not None:
            places = own % self._share.images
            images, labels = self._memory[0][places], self._memory[1][places]
        elif self._reader is not None:
            images, labels = self._reader.next()
        else:
            raise ValueError("the reader is closed")
        self._check_labels(labels, own)
        epochs, places = np.divmod(own, self._share.images)
        coins = mirror_coins(self._seed, epochs * self._images + self._share.first + places)
        images[coins] = images[coins, :, :, ::-1]
        return images, labels

    def _check_labels(self, labels: np.ndarray, own: np.ndarray) -> None:
        wrong = np.flatnonzero((labels < 0) | (labels >= self._classes))
        if len(wrong):
            place = int(own[wrong[0]]) % self._share.images
            what = f"label {labels[wrong[0]]}, but the case has the classes 0 to {self._classes - 1}"
            image = self._share.first + place
            raise DataError(self._share.files[0], f"image {image} of the data set: {what}")

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def images_needed(case: Case) -> int:
    """How many images a device takes in a run."""
    iterations = case.warmup_iterations + case.measured_iterations + PROFILED_ITERATIONS
    return iterations * case.batch_size_per_device


def mirror_coins(seed: int, numbers: np.ndarray) -> np.ndarray:
    """Whether each image is mirrored, bool: a hash (SplitMix64) of the seed and the image's number, int64."""
    with np.errstate(over="ignore"):  # the products are meant modulo 2^64
        state = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        for factor, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        return (state ^ (state >> np.uint64(31))) & np.uint64(1) == 1
