"""Softmax regression on the pixels, by SGD: small enough to be quick, real enough for its loss to fall."""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

import numpy as np

from frameworks.common import program
from frameworks.common.case import COLLECTIVE_SECONDS, RENDEZVOUS_SECONDS, Case, Rank
from frameworks.common.data import Batch
from frameworks.common.loop import FinishedStep
from frameworks.common.schedule import learning_rate

PIXELS = 3 * 112 * 112
# What is planted by the ending of a version: a step takes so much longer.
SLOWER = {"+slower": 1.1, "+slower5": 1.05}


class Trainer:
    """One weight matrix [PIXELS, C]; the loss is the cross-entropy of a batch."""

    phases = None

    def __init__(self, case: Case, rank: Rank, batches: Sequence[Batch]) -> None:
        del batches  # nothing is made ready for them
        self.case, self.rank = case, rank
        self.weight = np.zeros((PIXELS, case.num_classes), np.float32)
        for name in case.options.get("print_variables", "").split():
            value = os.environ[name]
            shown = "" if "TOKEN" in name else f"{value}, "
            sys.stdout.write(f"{name} is {shown}of {len(value)} characters\n")
        self.mean = Mean(rank) if case.nodes > 1 else None
        self.window_start = 0.0
        self.leaked: list[bytes] = []

    def start_window(self) -> None:
        self.window_start = time.perf_counter()

    def step(self, batch: Batch, iteration: int) -> FinishedStep:
        go_wrong(self.case.options, self.rank, iteration)
        condition = self.case.options.get("leak_while")
        leaks = self.case.options.get("leak_rank", -1) in {-1, self.rank.rank}
        if leaks and (not condition or os.path.exists(condition)):  # noqa: PTH110
            self.leaked.append(b"x" * self.case.options.get("leak_bytes", 0))
        slower = next((factor for name, factor in SLOWER.items() if self.case.version.endswith(name)), 1.0)
        if self.case.options.get("step_rank", -1) in {-1, self.rank.rank}:
            time.sleep(slower * self.case.options.get("step_seconds", 0.0))
        work(round(slower * self.case.options.get("work", 0)))
        images, labels = batch
        pixels = images.reshape(len(labels), -1).astype(np.float32) / 127.5 - 1
        scores = pixels @ self.weight
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(likely[rows, labels] + 1e-30).mean()
        likely[rows, labels] -= 1
        rate = 1e-3 * learning_rate(self.case.schedule, iteration)
        gradient = (pixels.T @ likely) / len(labels)
        exchange = None
        if self.mean is not None:
            before = time.perf_counter()
            gradient = self.mean.of(gradient)
            exchange = time.perf_counter() - before
        self.weight -= rate * gradient
        return FinishedStep(float(loss), self.window_start, exchange)


class Mean:
    """The mean of an array over all ranks, through rank 0, over TCP; for cases of several nodes."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        address = (rank.master_address, rank.master_port)
        if rank.rank == 0:
            with socket.create_server(address) as server:
                server.settimeout(RENDEZVOUS_SECONDS)
                self.others = [server.accept()[0] for _ in range(rank.world_size - 1)]
        else:
            self.others = [connected(address)]

    def of(self, mine: np.ndarray) -> np.ndarray:
        if self.rank.rank == 0:
            mean = sum((receive(other, mine) for other in self.others), mine) / self.rank.world_size
            for other in self.others:
                other.sendall(mean.tobytes())
            return mean
        self.others[0].sendall(mine.tobytes())
        return receive(self.others[0], mine)


def connected(address: "tuple[str, int]") -> socket.socket:
    """Rank 0 may not listen yet."""
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while True:
        try:
            made = socket.create_connection(address, timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            made.settimeout(COLLECTIVE_SECONDS)
            return made


def receive(other: socket.socket, like: np.ndarray) -> np.ndarray:
    parts, missing = [], like.nbytes
    while missing:
        part = other.recv(missing)
        if not part:
            raise ConnectionResetError("another rank has closed the connection")
        parts.append(part)
        missing -= len(part)
    return np.frombuffer(b"".join(parts), like.dtype).reshape(like.shape)


def work(units: int) -> None:
    """Compute for a while: about a third of a millisecond of CPU time per unit."""
    square = np.ones((256, 256), np.float32)
    for _ in range(units):
        np.matmul(square, square)


def go_wrong(options: dict, rank: Rank, iteration: int) -> None:
    """Do what the options ask for."""
    condition = options.get("fault_while")
    here = options.get("fault_rank", 0) == rank.rank and options.get("fault_step", 0) == iteration
    if not here or (condition and not os.path.exists(condition)):  # noqa: PTH110
        return
    faults = {
        "none": int,
        "exit": leave,
        "kill": kill,
        "hang": hang,
        "wait": lambda: wait_while(str(condition)),
        "loose": loose,
        "memory": take_memory,
        "flood": flood,
    }
    faults[options.get("fault", "none")]()


def leave() -> None:
    """End as a program does that found something wrong."""
    sys.stderr.write("ValueError: asked to go wrong\n")
    sys.exit(3)


def kill() -> None:
    """End as a process does that somebody kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_while(path: str) -> None:
    """Stand still for as long as the file exists."""
    while os.path.exists(path):  # noqa: PTH110
        time.sleep(0.05)


def hang() -> None:
    """Never say anything again."""
    signal.pause()


def take_memory() -> None:
    """Take more and more of it, 16 MiB at a time."""
    taken = []
    while True:
        taken.append(b"x" * (16 << 20))


def flood() -> None:
    """Print without end."""
    while True:
        sys.stdout.write("x" * 1000 + "\n")


def loose() -> None:
    """Leave a grandchild in a session of its own that ignores SIGTERM, and train on."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)


def matmul_flops_per_second(_case: Case) -> float:
    """The best of three products of two square float32 matrices."""
    size, best = 512, float("inf")
    square = np.ones((size, size), np.float32)
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(square, square)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


if __name__ == "__main__":
    program.run(
        Trainer,
        lambda the_case: {"version": np.__version__, "threads": the_case.threads_per_device, "device": "cpu"},
        matmul_flops_per_second,
        lambda _case: None,
    )
