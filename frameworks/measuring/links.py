"""What a link between two nodes does: latency and bandwidth of the transport that ranks speak over."""

import statistics
import time
from datetime import timedelta
from typing import List

import torch
import torch.distributed as dist

# Large enough that starting a message costs nothing.
_MESSAGE_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
_LATENCY_TURNS = 10  # at least
_CONNECT_SECONDS = 4  # of one try; gloo makes five
_MESSAGE_SECONDS = 60


class Link:
    """Two processes that send each other messages by the transport of torch.distributed: gloo or NCCL."""

    def __init__(self, store: "dist.Store", *, is_first: bool, kind: str) -> None:
        self._peer, self._is_first = int(is_first), is_first
        self._device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        rank = 1 - self._peer
        if kind == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=_MESSAGE_SECONDS)  # noqa: SLF001  it has no other name
            self._group = dist.ProcessGroupNCCL(store, rank, 2, options)
        else:
            self._group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=_CONNECT_SECONDS))
        self._control = torch.zeros(1, device=self._device)
        self._turn(self._control)  # the first message connects
        self._count = _MESSAGE_BYTES[kind] // 4

    def latency(self, seconds: float) -> float:
        """Seconds of a small message one way: half the median round trip."""
        return statistics.median(self._turns(self._control, seconds, fewest=_LATENCY_TURNS)) / 2

    def bandwidth(self, seconds: float) -> float:
        """Bytes per second of large messages, one way after the other."""
        message = torch.zeros(self._count, device=self._device)
        turns = self._turns(message, seconds, fewest=1)
        return 2 * 4 * self._count * len(turns) / sum(turns)

    def _turns(self, message: torch.Tensor, seconds: float, *, fewest: int) -> List[float]:
        """Seconds of each round trip of the message, whose first element says whether another one follows."""
        taken: List[float] = []
        start = time.perf_counter()
        while True:
            if self._is_first:
                enough = len(taken) >= fewest and time.perf_counter() - start >= seconds
                message[0] = float(not enough)
            begin = time.perf_counter()
            self._turn(message)
            taken.append(time.perf_counter() - begin)
            if message[0].item() == 0:
                return taken

    def _turn(self, message: torch.Tensor) -> None:
        for is_sending in (self._is_first, not self._is_first):
            if is_sending:
                self._group.send([message], self._peer, 0).wait(timedelta(seconds=_MESSAGE_SECONDS))
            else:
                self._group.recv([message], self._peer, 0).wait(timedelta(seconds=_MESSAGE_SECONDS))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
