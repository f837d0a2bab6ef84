"""A reader of a data set for JAX, which has none: RecordIO, decoded by OpenCV in threads.

Decoding leaves Python's global lock, so threads are enough, and JAX must not be forked.
"""

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Deque, Tuple

from frameworks.common import read_alone
from frameworks.common.data import Batch
from frameworks.common.dataset import RECORDIO, Share
from frameworks.common.decoding import DecodedBatches
from frameworks.common.reading import PREFETCHED_BATCHES


class JAXReader:
    """`Reader` of frameworks/common/reading.py; of a damaged record it raises DataError."""

    form = RECORDIO
    processes: Tuple[int, ...] = ()

    def __init__(self, share: Share, batch_size: int, threads: int) -> None:
        self._decoded, self._numbers = DecodedBatches(share, batch_size), itertools.count()
        self._threads = ThreadPoolExecutor(threads)
        self._queued: Deque[Future[Batch]] = deque()
        for _ in range(max(PREFETCHED_BATCHES, threads)):
            self._queue()

    def _queue(self) -> None:
        self._queued.append(self._threads.submit(self._decoded.batch, next(self._numbers)))

    def next(self) -> Batch:
        """See `Reader`."""
        self._queue()
        return self._queued.popleft().result()

    def close(self) -> None:
        """See `Reader`."""
        self._threads.shutdown(cancel_futures=True)
        self._decoded.close()


if __name__ == "__main__":
    read_alone.run(JAXReader)
