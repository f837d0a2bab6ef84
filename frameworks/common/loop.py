"""The measured loop, one for all frameworks: what is timed, when it waits, what it prints.

A step is started without waiting for it. While the device works on step k the loop waits for step k-1, so
the device always has work queued and is drained only at the edges of the window: before the first step,
between warm-up and measured steps, and after the last. The seconds of a step are the time between two
completions, the window's start standing before the first; their sum is the window's length. Loading the batch
and copying it to the device are inside.

When a step was complete is told by the device's events where the engine has them, else by the host's
monotonic clock when `wait` returns. An engine that computes inside `step` itself, as PyTorch does on CPU, is
complete before the loop waits: it returns a `FinishedStep`, timed where it ended.
"""

import time
from typing import Iterator, Optional, Protocol

from frameworks.common.case import Case
from frameworks.common.data import Batch
from frameworks.common.events import END, START, EventLog
from frameworks.common.phases import DATA, Phases

# Of the breakdown: enough to even out a hiccup.
PROFILED_ITERATIONS = 3


class Pending(Protocol):
    """A step that was started."""

    def wait(self) -> float:
        """Block until the step is complete and return its loss, the mean over the global batch."""

    def seconds_since(self, previous: "Optional[Pending]") -> Optional[float]:
        """Time from the end of `previous` (None: from the window's start) to the end of this step.

        None where only the host's clock can tell, at the return of `wait`. Called after `wait` of both.
        """


class HostTimed:
    """A Pending whose engine has no device events; the loop uses the host's clock."""

    def seconds_since(self, previous: Optional[Pending]) -> Optional[float]:  # noqa: ARG002
        """None, always."""
        return None


class FinishedStep:
    """The Pending of an engine that computes inside `step`: complete when it is made."""

    def __init__(self, loss: float, window_start: float) -> None:
        """Take the loss, and the `time.perf_counter()` of the last `start_window`."""
        self._loss, self._window_start, self._ended = loss, window_start, time.perf_counter()

    def wait(self) -> float:
        """Return the loss at once."""
        return self._loss

    def seconds_since(self, previous: "Optional[FinishedStep]") -> float:
        """Host time between two ends."""
        return self._ended - (self._window_start if previous is None else previous._ended)  # noqa: SLF001


class Trainer(Protocol):
    """What `frameworks/<framework>/train.py` builds from a case.

    `step` counts its parts with `phases`, which are off while steps are measured; None: it cannot tell them.
    """

    phases: Optional[Phases]

    def start_window(self) -> None:
        """Drain the device; the next step starts a window."""

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Start one iteration on this rank's batch; `iteration` counts from 0 and sets the learning rate."""


def train(trainer: Trainer, case: Case, batches: Iterator[Batch], log: EventLog) -> None:
    """Run the warm-up and the measured iterations and print one `tracked_stats` each."""
    warmup, measured = case.warmup_iterations, case.measured_iterations
    windows = {"warmup": range(warmup), "train": range(warmup, warmup + measured)}
    log.event("run_start", event_type=START)
    for kind, iterations in windows.items():
        for step, (seconds, loss) in zip(iterations, _window(trainer, batches, iterations)):
            log.step(step, case.global_batch_size, seconds, loss, kind)
    log.event("run_stop", event_type=END, status="success")


def _window(trainer: Trainer, batches: Iterator[Batch], iterations: range) -> "Iterator[tuple[float, float]]":
    """Seconds and loss of each iteration, one step behind the one that was last started."""
    if not iterations:
        return
    trainer.start_window()
    clock = time.perf_counter()
    finished, running = None, trainer.step(next(batches), iterations[0])
    for iteration in (*iterations[1:], None):
        started = None if iteration is None else trainer.step(next(batches), iteration)
        loss = running.wait()
        now = time.perf_counter()
        seconds = running.seconds_since(finished)
        yield (now - clock if seconds is None else seconds), loss
        clock, finished, running = now, running, started


def profile(trainer: Trainer, case: Case, batches: Iterator[Batch], log: EventLog) -> None:
    """Train some more iterations, behind the measured ones, and print where their time goes."""
    if trainer.phases is None:
        return
    first = case.warmup_iterations + case.measured_iterations
    count = min(PROFILED_ITERATIONS, case.measured_iterations)
    trainer.start_window()
    trainer.phases.on = True
    for iteration in range(first, first + count):
        with trainer.phases(DATA):
            batch = next(batches)
        trainer.step(batch, iteration).wait()
    trainer.phases.on = False
    seconds = {name: total / count for name, total in trainer.phases.seconds.items()}
    log.event("time_breakdown", seconds, iterations=count)
