"""The measured loop, one for all frameworks: what is timed, when it waits, what it prints.

A step is started without waiting for it. While the device works on step k, the loop waits for step k-1. So
the device always has work queued, and is drained only at the edges of a window: before the first step,
between warm-up and measured steps, and after the last. The seconds of a step are the time between two
completions, or from the window's start to the first one; their sum is the window's length. They include
loading the batch and copying it to the device.

The device's events say when a step completed or, if the engine has none, the host's monotonic clock when
`wait` returns. An engine that computes inside `step` itself, as PyTorch does on CPU, has completed before the
loop waits: it returns a `FinishedStep`, which took the time at the end of the step.
"""

import time
from typing import Iterator, Optional, Protocol

from frameworks.common.case import Case
from frameworks.common.data import Batch
from frameworks.common.events import END, START, EventLog
from frameworks.common.interference import Window
from frameworks.common.phases import DATA, PROFILED_ITERATIONS, Phases
from frameworks.common.rank_times import RankTimes
from frameworks.common.reading import Batches


class Pending(Protocol):
    """A started step."""

    def wait(self) -> float:
        """Block until the step is complete and return its loss, the mean over the global batch."""

    def seconds_since(self, previous: "Optional[Pending]") -> Optional[float]:
        """Time from the end of `previous` (None: from the window's start) to the end of this step.

        None if the engine has no such time: the loop then takes the host's clock at the return of `wait`. It
        is called after `wait` of both steps.
        """

    def exchange_seconds(self) -> Optional[float]:
        """Time of this step in exchanges that held the rank up: it sent, received or waited for others.

        What is left of the step is the rank's own work. None if the engine does not show it, or if there is
        one rank. It is called after `wait`.
        """


class HostTimed:
    """A Pending whose engine has no device events; the loop uses the host's clock."""

    def seconds_since(self, previous: Optional[Pending]) -> Optional[float]:  # noqa: ARG002
        """None, always."""
        return None

    def exchange_seconds(self) -> Optional[float]:
        """None: not measured."""
        return None


class FinishedStep:
    """The Pending of an engine that computes inside `step`: complete when it is created."""

    def __init__(self, loss: float, window_start: float, exchange_seconds: Optional[float] = None) -> None:
        """Take the loss, `time.perf_counter()` at the last `start_window`, and the time in exchanges."""
        self._loss, self._window_start, self._ended = loss, window_start, time.perf_counter()
        self._exchange_seconds = exchange_seconds

    def wait(self) -> float:
        """Return the loss at once."""
        return self._loss

    def seconds_since(self, previous: "Optional[FinishedStep]") -> float:
        """Host time between two ends."""
        return self._ended - (self._window_start if previous is None else previous._ended)  # noqa: SLF001

    def exchange_seconds(self) -> Optional[float]:
        """As it was given."""
        return self._exchange_seconds


class Trainer(Protocol):
    """What `frameworks/<framework>/train.py` builds from a case.

    `step` times its parts with `phases`, which are off during measured steps; None if it cannot.
    """

    phases: Optional[Phases]

    def start_window(self) -> None:
        """Drain the device; the next step starts a window."""

    def step(self, batch: Batch, iteration: int) -> Pending:
        """Start one iteration on this rank's batch; `iteration`, from 0 on, decides the learning rate."""


def train(
    trainer: Trainer,
    case: Case,
    batches: Iterator[Batch],
    log: EventLog,
    *,
    reading: Optional[Batches] = None,
) -> None:
    """Run the warm-up and measured iterations; print each, and what else the machine did meanwhile."""
    warmup, measured = case.warmup_iterations, case.measured_iterations
    windows = {"warmup": range(warmup), "train": range(warmup, warmup + measured)}
    log.event("run_start", event_type=START)
    for kind, iterations in windows.items():
        if not iterations:
            continue
        window = Window(None if reading is None else reading.processes)
        before = None if reading is None else reading.counters()
        times = RankTimes(len(iterations))
        for step, (seconds, loss, exchange) in zip(iterations, _window(trainer, batches, iterations)):
            log.step(step, case.global_batch_size, seconds, loss, kind)
            times.add(seconds, exchange)
        counters = window.close()
        if kind == "train" and times.measured:
            log.event("rank_steps", times.value(), step=iterations[0], iterations=len(iterations))
        if reading is not None:
            log.event("reading", reading.since(before), kind=kind)
        if counters is not None:
            log.event("interference", counters, kind=kind)
    log.event("run_stop", event_type=END, status="success")


def _window(
    trainer: Trainer, batches: Iterator[Batch], iterations: range
) -> "Iterator[tuple[float, float, Optional[float]]]":
    """Seconds, loss and seconds of exchange of each iteration, one step behind the last one started."""
    trainer.start_window()
    clock = time.perf_counter()
    finished, running = None, trainer.step(next(batches), iterations[0])
    for iteration in (*iterations[1:], None):
        started = None if iteration is None else trainer.step(next(batches), iteration)
        loss = running.wait()
        now = time.perf_counter()
        seconds = running.seconds_since(finished)
        yield (now - clock if seconds is None else seconds), loss, running.exchange_seconds()
        clock, finished, running = now, running, started


def profile(trainer: Trainer, case: Case, batches: Iterator[Batch], log: EventLog) -> None:
    """Train a few more iterations after the measured ones, and print where their time goes."""
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
