"""The measured loop, one for all frameworks: what is timed, when it waits, what it prints.

A step is started without waiting for it. While the device works on step k the loop waits for step k-1, so the
device always has work queued and is drained only at the edges of the window: before the first step, between
warm-up and measured steps, and after the last. The seconds of a step are the time between two completions, by
device events where the engine has them, else by the host's monotonic clock; their sum is the window's length.
Loading the batch and copying it to the device are inside.
"""

import time
from typing import Iterator, Optional, Protocol

from frameworks.common.case import Case
from frameworks.common.data import Batch
from frameworks.common.events import END, START, EventLog


class Pending(Protocol):
    """A step that was started."""

    def wait(self) -> float:
        """Block until the step is complete and return its loss, the mean over the global batch."""

    def seconds_since(self, previous: "Optional[Pending]") -> Optional[float]:
        """Device time from `previous` (None: the window's start) to this step's end; None without device events.

        Called after `wait` of both.
        """


class Trainer(Protocol):
    """What `frameworks/<framework>/train.py` builds from a case."""

    def start_window(self) -> None:
        """Drain the device; the next step starts a window."""

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Start one iteration on this rank's batch; `iteration` counts from 0 and sets the learning rate."""


def train(trainer: Trainer, case: Case, batches: Iterator[Batch], log: EventLog) -> None:
    """Run the warm-up and the measured iterations and print one `tracked_stats` each."""
    warmup, measured = case.warmup_iterations, case.measured_iterations
    log.event("run_start", event_type=START)
    _window(trainer, case, batches, log, range(warmup), "warmup")
    _window(trainer, case, batches, log, range(warmup, warmup + measured), "train")
    log.event("run_stop", event_type=END, status="success")


def _window(
    trainer: Trainer, case: Case, batches: Iterator[Batch], log: EventLog, iterations: range, kind: str
) -> None:
    if not iterations:
        return
    trainer.start_window()
    last, running = None, None
    clock = time.perf_counter()
    for iteration in (*iterations, None):
        started = trainer.step(next(batches), iteration) if iteration is not None else None
        if running is not None:
            loss = running.wait()
            now = time.perf_counter()
            seconds = running.seconds_since(last)
            log.step(done, case.global_batch_size, now - clock if seconds is None else seconds, loss, kind)
            clock, last = now, running
        running, done = started, iteration
