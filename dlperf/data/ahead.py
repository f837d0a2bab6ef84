"""Work that threads do ahead of whoever takes the results."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_PER_THREAD = 2


def done_ahead(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, threads: int | None = None
) -> Generator[ResultT]:
    """The result of each item, in their order; by default a thread per CPU works on it, a few items ahead."""
    threads = threads or len(os.sched_getaffinity(0))
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _PER_THREAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
